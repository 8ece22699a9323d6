"""Your own comparisons become raw pairs: every format and name as written, stable ids, one sentence for bad lines."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.own_tables import HEADER, folder_of_photos, imported, refusal  # noqa: F401  (a fixture)

from infra.base import cli, files
from infra.base.errors import UserError
from pipelines.latents.decoding import CheckAndDecode
from pipelines.raw.comparisons import Comparison
from pipelines.raw.import_config import ImportConfig
from pipelines.raw.import_pairs import find_images, main, ranking_ids
from pipelines.raw.pairs import pair_ids
from pipelines.raw.source import CONFIG


def test_csv_and_jsonl_give_the_same_pairs_with_names_as_written(folder: Path) -> None:
    csv = HEADER + '"a ""red"" dog, running",0001,1,1\nnull,1,more/b.png,0.5\n'
    lines = [
        {"caption": 'a "red" dog, running', "image_0": "0001", "image_1": "1", "label_0": 1},
        {"caption": "null", "image_0": "1", "image_1": "more/b.png", "label_0": 0.5},
    ]
    table = imported(folder, "t.csv", "\ufeff" + csv.replace("\n", "\r\n"))  # as spreadsheets write it
    assert table["image_0_uid"].to_pylist() == ["0001", "1"]
    assert table["caption"].to_pylist() == ['a "red" dog, running', "null"]
    assert table["jpg_0"].to_pylist() == [(folder / "photos" / name).read_bytes() for name in ("0001", "1")]
    assert (table["label_0"].to_pylist(), table["label_1"].to_pylist()) == ([1.0, 0.5], [0.0, 0.5])
    told = imported(folder, "t.jsonl", "\n\n".join(map(json.dumps, lines)), "other")
    assert told.equals(table)
    assert files.read_json(str(folder / "raw" / CONFIG))["table"] == str(folder / "t.csv")


DIALECTS = {
    "semicolons": ("t.csv", 'caption;image_0;image_1;label_0\n"a; red dog";0001;1;0,5\n'),
    "a last line of empty cells": ("t.csv", 'caption,image_0,image_1,label_0\n"a; red dog",0001,1,0.5\n,,,\n'),
    "tabs": ("t.tsv", "caption\timage_0\timage_1\tlabel_0\na; red dog\t0001\t1\t0.5\n"),
    "vertical bars": ("t.txt", "caption|image_0|image_1|label_0\na; red dog|0001|1|0.5\n"),
    "another case and order": ("t.csv", "Label_0,Image_1, IMAGE_0 ,Caption\n0.5,1,0001,a; red dog\n"),
    "ndjson": ("t.ndjson", '{"Caption": "a; red dog", "image_0": "0001", "image_1": "1", "label_0": 0.5}\n'),
    "a decimal comma in quotes": (
        "t.csv",
        'caption,image_0,image_1,label_0\n"a; red dog",0001,1,"0,5"\n',
    ),
    "carriage returns alone, as Excel for Mac": (
        "t.csv",
        "caption,image_0,image_1,label_0\ra; red dog,0001,1,0.5\r",
    ),
    "Excel's first line": ("t.csv", 'sep=;\r\ncaption;image_0;image_1;label_0\r\n"a; red dog";0001;1;0,5\r\n'),
}


@pytest.mark.parametrize(("table", "content"), DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_as_people_export_them_are_the_same_pairs(folder: Path, table: str, content: str, encoding: str) -> None:
    usual = imported(folder, "usual.csv", HEADER + "a; red dog,0001,1,0.5\n", "usual")
    assert imported(folder, table, content.encode(encoding)).equals(usual)


@pytest.mark.parametrize(
    ("end", "pack"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("zst", lambda text: pa.compress(text, "zstd", asbytes=True))],
)
def test_packed_tables_are_unpacked(folder: Path, end: str, pack: Callable[[bytes], bytes]) -> None:
    usual = HEADER + "a,0001,1,TRUE\n"
    line = {"caption": "a", "image_0": "0001", "image_1": "1", "label_0": 1}
    assert imported(folder, f"t.csv.{end}", pack(usual.encode())).equals(imported(folder, "t.csv", usual, "plain"))
    packed = imported(folder, f"t.jsonl.{end}", pack(json.dumps(line).encode()), "lines")
    assert packed["label_0"].to_pylist() == [1.0]


def test_images_may_be_named_by_whole_paths_or_with_backslashes(folder: Path) -> None:
    photos = folder / "photos"
    rows = f"a,{photos}/0001,more\\b.png,1\nb,file://{photos}/1,0001,FALSE\n"
    table = imported(folder, "t.csv", HEADER + rows)
    wanted = [(photos / name).read_bytes() for name in ("0001", "1", "more/b.png", "0001")]
    assert [*table["jpg_0"].to_pylist(), *table["jpg_1"].to_pylist()] == wanted
    assert table["label_0"].to_pylist() == [1.0, 0.0]


def test_images_that_the_encoder_does_not_read_are_told_at_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A telephone's HEIC would else be missed only in the store, as a pair that was left out."""
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    for name in ("IMG_1.heic", "IMG_2.heic"):
        (folder / "photos" / name).write_bytes(heic)
    with caplog.at_level(logging.WARNING, "dpo"):
        imported(folder, "t.csv", HEADER + "a,0001,1,1\n")
        assert caplog.messages == []
        imported(folder, "t.csv", HEADER + "a,0001,IMG_1.heic,1\nb,IMG_1.heic,1,0\nc,0001,IMG_2.heic,1\n")
    assert caplog.messages == [
        f"--table {folder}/t.csv: IMG_1.heic is HEIC (one of 2 such images), which is not read, so the encoder leaves "
        "its pairs out; save it as JPEG, PNG or WebP, and import again"
    ]


def test_two_raters_of_one_pair_have_two_ids_whatever_the_order() -> None:
    def labelled(*labels: float) -> dict[int, float]:
        rows = [Comparison(place="", caption="a", names=("x", "y"), label_0=label) for label in labels]
        return dict(zip(ranking_ids(rows), labels, strict=True))

    assert len(labelled(1.0, 0.0, 1.0)) == 3
    assert labelled(1.0, 0.0, 1.0) == labelled(0.0, 1.0, 1.0)
    assert list(labelled(1.0)) == list(labelled(0.0))  # a corrected label keeps its id
    swapped = [Comparison(place="", caption="a", names=names, label_0=1.0) for names in (("x", "y"), ("y", "x"))]
    assert len(set(ranking_ids(swapped))) == 2


def test_the_encoder_takes_two_raters_of_one_pair(folder: Path) -> None:
    table = imported(folder, "t.csv", HEADER + "a,0001,1,1\na,0001,1,0\n")
    assert len(set(pair_ids(table).tolist())) == 2


def test_a_folder_with_other_parquet_files_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "refused").mkdir()
    pq.write_table(pa.table({"x": [1]}), folder / "refused" / "mine.parquet")
    (folder / "t.csv").write_text(HEADER + "a,0001,1,1\n")
    flags = ["--table", str(folder / "t.csv"), "--images", str(folder / "photos"), "--output", str(folder / "refused")]
    with pytest.raises(SystemExit):
        cli.run(main, ImportConfig, arguments=flags)
    assert "mine.parquet, which is not ours to replace" in capsys.readouterr().err
    assert [path.name for path in (folder / "refused").iterdir()] == ["mine.parquet"]


@pytest.mark.parametrize(
    ("table", "content", "told"),
    [
        ("t.csv", HEADER, "no comparisons in it"),
        ("t.csv", "caption,image_0,image_1\na,0001,1\n", "no column label_0; its header is caption, image_0, image_1"),
        ("t.csv", "Prompt;A;B\na;0001;1\n", "its header is prompt, a, b, separated by semicolons; the columns are"),
        (
            "t.csv",
            HEADER.replace(",", ";") + "a;b;0001;1;1\n",
            "line 2: more values than the header has columns",
        ),
        ("t.csv", "Caption,caption,image_0,image_1,label_0\n", "two columns are named caption"),
        ("t.csv", "sep=;\n" + HEADER.replace(",", ";") + "a;0001;1;x\n", "line 3: label_0 is 'x'"),
        ("t.csv", HEADER + "a,0001,1,1\na cat, sitting,0001,1,1\n", "line 3: more values than the header"),
        ("t.csv", HEADER + "a,0001\n", "line 2: label_0 is null"),
        ("t.csv", HEADER + "a,0001,1,left\n", "line 2: label_0 is 'left', not 0, 0.5 or 1; write 1 where image_0 is"),
        ("t.csv", HEADER + '"two\nlines",0001,1,nan\n', "line 3: label_0 is nan"),
        ("t.csv", HEADER + "a,0001,1,2\n", "line 2: label_0 is 2.0, not 0, 0.5 or 1; write 1 where image_0 is better"),
        ("t.csv", HEADER + "a,,1,1\n", "line 2: image_0 is empty"),
        ("t.csv", HEADER + "a,0001,1,1\n ,0001,1,0\n", "line 3: caption is empty"),
        ("t.csv", HEADER + 'a,"data:image/png;base64,iVBO",1,1\n', "line 2: image_0 is a data URI"),
        ("t.csv", HEADER + f"a,{'iVBO' * 300},1,1\n", "line 2: image_0 is a text of 1,200 characters and no path"),
        ("t.csv", HEADER + "a,/etc/../etc/hostname,1,1\n", "line 2: no image /etc/../etc/hostname in"),
        ("t.csv", HEADER + "a,..\\..\\t.csv,1,1\n", "line 2: no image ..\\..\\t.csv in"),
        ("t.xlsx", b"PK\x03\x04\xff", "it is a zip file, as spreadsheets (.xlsx, .ods) are; save the sheet"),
        ("t.csv.gz", HEADER.encode(), "it cannot be unpacked as gzip"),
        ("t.csv", HEADER + "a,0001,../t.csv,1\n", "line 2: no image ../t.csv in"),
        ("t.csv", HEADER + "a,0001,/etc/hostname,1\n", "line 2: no image /etc/hostname in"),
        ("t.csv", HEADER + "a,0001,more,1\n", "line 2: no image more in"),
        ("t.csv", HEADER + "a,0001,x,1\n", "/photos; correct the names, or give the folder that they count from as"),
        ("t.csv", HEADER + "a,x,y,1\nb,x,0001,1\nc,z,1,0\n", "photos (2 other images are not there, either); correct"),
        ("t.jsonl", '{"prompt": "a", "left": "1"}', "no caption, image_0, image_1, label_0; it has prompt, left,"),
        (
            "t.csv",
            b"caption,image_0,image_1,label_0\nd\xe9j\xe0,0001,1,1\n",
            "is no UTF-8 text; save it again as CSV",
        ),
        ("t.jsonl", "7\n", "line 1: not an object"),
        ("t.jsonl", '{"caption": "a", "image_0": 1, "image_1": "1", "label_0": 1}', "line 1: image_0 is not text"),
        ("t.jsonl", '{"caption": null, "image_0": "1", "image_1": "1", "label_0": 1}', "line 1: caption is null"),
        ("t.jsonl", '{"caption": "\\ud800", "image_0": "1", "image_1": "1", "label_0": 1}', "half of a surrogate pair"),
        ("t.jsonl", '\n{"caption": "a"', "not readable (line 2: "),
    ],
)
def test_a_bad_table_is_told_by_file_and_line_and_writes_nothing(
    folder: Path, table: str, content: str | bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = refusal(folder, table, content, capsys)
    assert sentence.startswith(f"error: --table {folder / table}: ")
    assert told in sentence


def test_each_missing_image_is_looked_for_once_and_the_count_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wrong folder on S3 each look is a request."""
    asked = Mock(return_value=None)
    monkeypatch.setattr("pipelines.raw.import_pairs.image_path", asked)
    pair = Comparison(place="line 2", caption="a", names=("x", "y"), label_0=1.0)
    with pytest.raises(UserError, match=r"^line 2: no image x in photos \(1 other image is not there, either\)"):
        find_images([pair] * 3, "photos", "")
    assert [call.args for call in asked.call_args_list] == [("photos", "x"), ("photos", "y")]
    asked.reset_mock()
    many = [dataclasses.replace(pair, names=(f"{row}.png", "x")) for row in range(3000)]
    with pytest.raises(UserError, match=r"no image 0\.png in photos \(at least 1,000 other images are not there"):
        find_images(many, "photos", "")
    assert asked.call_count == 1 + 1000


def test_images_and_pairs_may_lie_in_s3(folder: Path, bucket: str) -> None:
    for path in (folder / "photos" / "0001", folder / "photos" / "more" / "b.png"):
        files.write_bytes(f"{bucket}/photos/{path.relative_to(folder / 'photos')}", path.read_bytes())
    (folder / "t.csv").write_text(HEADER + "a,0001,more/b.png,0\n")
    main(ImportConfig(table=str(folder / "t.csv"), images=f"{bucket}/photos", output=f"{bucket}/raw"))
    assert files.list_files(f"{bucket}/raw") == [f"{bucket}/raw/{CONFIG}", f"{bucket}/raw/pairs-0000.parquet"]
    table = pq.read_table(pa.BufferReader(files.read_bytes(f"{bucket}/raw/pairs-0000.parquet")))
    assert table["jpg_1"].to_pylist() == [(folder / "photos" / "more" / "b.png").read_bytes()]


def test_six_pairs_of_four_webp_images(tmp_path: Path) -> None:
    caption = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    names = [f"ocean_{rank}.webp" for rank in (1, 2, 3, 4)]  # best to worst
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in names:  # smooth and coloured, as a painting is, and as large as a model draws
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((512, 512), Image.Resampling.BICUBIC).save(tmp_path / "images" / name, quality=90)
    rows = [
        # The better image stands in slot 0 and slot 1 by turns.
        f'"{caption}",{better},{worse},1' if number % 2 == 0 else f'"{caption}",{worse},{better},0'
        for number, (better, worse) in enumerate(itertools.combinations(names, 2))
    ]
    (tmp_path / "pairs.csv").write_text(HEADER + "\n".join(rows) + "\n")
    main(ImportConfig(table=str(tmp_path / "pairs.csv"), images=str(tmp_path / "images"), output=str(tmp_path / "raw")))
    raw = pq.read_table(tmp_path / "raw")
    checked = CheckAndDecode(resolution=64, strict_labels=True)(raw)
    assert checked["status"].to_pylist() == ["kept"] * 6
    assert checked["label_0"].to_pylist() == [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    assert len(set(checked["pair_id"].to_pylist())) == 6
    assert len(set(checked["prompt_id"].to_pylist())) == 1
    pixels = {
        name: np.frombuffer(content, np.uint8).reshape(64, 64, 3)
        for name, content in zip(raw["image_0_uid"].to_pylist(), checked["pixels_0"].to_pylist(), strict=True)
    }
    for name, shown in pixels.items():
        whole = Image.open(io.BytesIO((tmp_path / "images" / name).read_bytes())).convert("RGB")
        # A decoded image looks like the one that the name says: Pillow's own small copy of it is near.
        small = np.asarray(whole.resize((64, 64), Image.Resampling.BILINEAR), int)
        assert whole.width == whole.height
        assert np.abs(small - shown).mean() < 2
