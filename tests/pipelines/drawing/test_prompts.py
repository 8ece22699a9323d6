"""Prompts are read from every format; a bad file is one sentence that names the line."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.material import PARTI

from infra.base.errors import UserError
from infra.base.files import ROOT
from pipelines.drawing.prompts import Prompt, read_grouped, read_prompts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", 'a cat\n\na "dog"\n'),
        ("p.tsv", 'Prompt\tCategory\na cat\tAnimals\na "dog"\tAnimals\n'),
        ("p.csv", '\ufeffid,caption\r\n1,a cat\r\n\r\n2,"a ""dog"""\r\n'),
        ("p.jsonl", '{"prompt": "a cat"}\n{"n": 1, "prompt": "a \\"dog\\""}\n'),
        ("p.json", '["a cat",\n "a \\"dog\\""]\n'),  # as HPSv2 publishes its prompts
        ("p.json", '[{"caption": "a cat"}, {"caption": "a \\"dog\\""}]'),
    ],
)
def test_prompts_are_read_from_every_format(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_prompts(str(tmp_path / name)) == ["a cat", 'a "dog"']


def test_text_as_windows_writes_it_and_captions_with_other_separators(tmp_path: Path) -> None:
    """PowerShell's > writes UTF-16; a line separator of Unicode inside a caption ends no line."""
    path = tmp_path / "p.txt"
    path.write_bytes("a cat\r\na \u2028 dog\r\n".encode("utf-16"))
    assert read_prompts(str(path)) == ["a cat", "a \u2028 dog"]


CELLS = 'id,prompt\n1,a cat\n2,"a ""dog"", red"\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", f"{CELLS},\n,\n".encode()),  # lines of empty cells, as spreadsheets leave them
        ("p.csv", CELLS.replace(",", ";").replace('"";', '"",').encode()),
        ("p.csv", ("sep=;\n" + CELLS.replace(",", ";").replace('"";', '"",')).encode()),
        ("p.csv", CELLS.replace("\n", "\r").encode()),  # Excel for Mac
        ("p.tsv", b'id\tprompt\n1\ta cat\n2\t"a ""dog"", red"\n'),  # pandas and Excel quote where csv would
        ("p.csv.gz", gzip.compress(CELLS.encode(), mtime=0)),  # a time in it would be another test in each process
        ("p.csv.bz2", bz2.compress(CELLS.encode())),
        ("p.csv.zst", pa.compress(CELLS.encode(), "zstd", asbytes=True)),
        ("p.json", b'{"9f": {"prompt": "a cat"}, "a0": {"prompt": "a \\"dog\\", red"}}'),  # MJHQ-30K's
    ],
)
def test_tables_as_other_programs_write_them(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_prompts(str(tmp_path / name)) == ["a cat", 'a "dog", red']


def test_quotes_of_a_table_with_tabs_are_text_where_no_program_put_them(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    for captions in (['"Hello"'], ['"a ""dog"""', 'a "cat"'], ['"" x ""']):
        path.write_text("\n".join(["Prompt", *captions]) + "\n")
        assert read_prompts(str(path)) == captions


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_captions_of_parquet_may_be_stored_in_other_types(tmp_path: Path, kind: pa.DataType) -> None:
    captions = pa.array(["a cat", "caf\u00e9"])
    stored = captions.dictionary_encode() if pa.types.is_dictionary(kind) else captions.cast(kind)
    pq.write_table(pa.table({"prompt": stored}), tmp_path / "p.parquet")
    assert read_prompts(str(tmp_path / "p.parquet")) == ["a cat", "caf\u00e9"]
    pq.write_table(pa.table({"prompt": pa.array([b"a", b"\xff"])}), tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r"row 2: caption is bytes, not UTF-8 text"):
        read_prompts(str(tmp_path / "p.parquet"))


def test_parquet_and_text_that_looks_like_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": ["a", "b, c"]}), tmp_path / "p.parquet")
    assert read_prompts(str(tmp_path / "p.parquet")) == ["a", "b, c"]
    (tmp_path / "p.csv").write_text('caption\n0001\n"two\nlines"\n')
    assert read_prompts(str(tmp_path / "p.csv")) == ["0001", "two\nlines"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"text\na cat\n", "no column prompt or caption; it has text"),
        ("a.csv", b"caption\na cat, sitting\n", "line 2: 2 fields where the header has 1"),
        ("a.csv", b'caption\n"a cat\n', "unexpected end of data"),
        ("a.csv", b"", "no column prompt or caption; it has none"),
        ("a.txt", b"\n\n", "no captions in it"),
        ("a.txt", b"caf\xe9\n", "is no UTF-8 text; save it again as UTF-8"),
        ("a.xlsx", b"PK\x03\x04\xff", "it is a zip file, as spreadsheets"),
        ("a.csv.gz", b"prompt\na cat\n", "it cannot be unpacked as gzip"),
        ("a.csv", b"prompt,category\na cat,x\n,y\n", "line 3: prompt is empty"),
        ("a.csv", b"sep=;\nprompt;category\na cat;x\n;y\n", "line 4: prompt is empty"),
        ("a.csv", b"prompt,Prompt\na,b\n", "two columns are named prompt"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": null}\n', "line 2: caption is null"),
        ("a.jsonl", b'{"prompt": 3}\n', "line 1: caption is not text"),
        ("a.jsonl", b"{\n", "line 1: not valid JSON"),
        ("a.jsonl", b"[1]\n", "line 1: not a JSON object"),
        pytest.param("a.jsonl", b"[" * 100_000, "line 1: not valid JSON .its lists or objects are", id="too deep"),
        ("a.json", b'{"a": 1}', "holds no list of captions"),
        ("a.json", b"[1]", "entry 1: neither a caption nor an object"),
        ("a.txt", "a cat\n".encode("utf-16-le"), "NUL"),
        ("a.parquet", b"no such thing", "arquet"),
    ],
)
def test_bad_prompt_files_are_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as refused:
        read_prompts(str(tmp_path / name))
    assert str(refused.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.tsv", 'Prompt\tCategory\na cat\tAnimals\na "dog"\t \n'),
        ("p.csv", 'id,CAPTION, Category\n1,a cat,Animals\n2,"a ""dog""",\n'),
        ("p.jsonl", '{"prompt": "a cat", "Category": "Animals"}\n{"prompt": "a \\"dog\\"", "Category": null}\n'),
    ],
)
def test_groups_stand_beside_captions(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    wanted = [Prompt("a cat", {"Category": "Animals"}), Prompt('a "dog"', {"Category": "(none)"})]
    assert read_grouped(str(tmp_path / name), ["category"]) == wanted
    assert [prompt.groups for prompt in read_grouped(str(tmp_path / name), ["style"], needed=False)] == [{}, {}]
    with pytest.raises(UserError, match="no column style; it has "):
        read_grouped(str(tmp_path / name), ["style"])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_prompts(str(tmp_path / "c.txt"))


def test_the_worlds_prompts_do_not_overlap() -> None:
    splits = [set(read_prompts(str(path))) for path in sorted((ROOT / "infra/world/prompts").glob("*.txt"))]
    assert len(splits) == 3
    assert sum(map(len, splits)) == len(set.union(*splits))


def test_parti_prompts() -> None:
    assert len(read_prompts(str(PARTI))) == 1632
