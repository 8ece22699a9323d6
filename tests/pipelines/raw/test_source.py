"""Sources: folders, files and dataset names; columns and duplicates are told before anything runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import datasets
import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from support.material import rendered_pairs, write_pairs

from infra.base import files
from infra.base.errors import UserError
from pipelines.raw import pairs, raw_table, source

Hub = Callable[[str], Path]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Return a function that makes the folder of a dataset's name on a Hub of this test's own.

    datasets' real builder looks at the folder's files; their paths are told and opened as the Hub's.
    """
    real, filesystem = datasets.load_dataset_builder, fsspec.filesystem
    names = datasets.get_dataset_config_names
    root = tmp_path / "hub"
    ours = DirFileSystem(path=str(root), fs=LocalFileSystem())

    def builder(name: str, config: str | None = None) -> datasets.DatasetBuilder:
        made = real(str(root / "datasets" / name), config, cache_dir=str(tmp_path / "cache"))
        for paths in (made.config.data_files or {}).values():
            paths[:] = [f"hf://{Path(path).relative_to(root)}" for path in paths]
        return made

    def folder(name: str) -> Path:
        path = root / "datasets" / name
        path.mkdir(parents=True)
        return path

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: names(str(root / "datasets" / name)))
    monkeypatch.setattr(fsspec, "filesystem", lambda kind, **flags: ours if kind == "hf" else filesystem(kind, **flags))
    return folder


@pytest.mark.parametrize("name", ["someone/some-pairs", "some_pairs"])
def test_a_named_dataset_is_read_where_it_lies(hub: Hub, name: str, tmp_path: Path) -> None:
    rows = rendered_pairs(10)
    write_pairs(hub(name) / "data", rows, rows_per_file=6)
    for number, path in enumerate(sorted((tmp_path / "hub" / "datasets" / name / "data").iterdir())):
        path.rename(path.with_name(f"train-{number:05d}-of-00002.parquet"))
    found = source.parquet_files(name, "train")
    assert found == [f"hf://datasets/{name}/data/train-{number:05d}-of-00002.parquet" for number in (0, 1)]
    dataset = raw_table.open_source(found)
    assert dataset.count_rows() == 10
    local = raw_table.open_source(source.parquet_files(str(write_pairs(tmp_path / "local", rows)), "train"))
    assert raw_table.all_pair_ids(dataset).tolist() == raw_table.all_pair_ids(local).tolist()
    with pytest.raises(UserError, match="no split 'test'; it has train"):
        source.parquet_files(name, "test")
    assert source.parquet_files(f"hf://datasets/{name}", "train") == found  # a folder there works as one here


def test_a_dataset_that_is_not_parquet_is_refused_with_the_command_that_exports_it(hub: Hub) -> None:
    (hub("someone/texts") / "train.jsonl").write_text('{"caption": "a cat"}\n')
    with pytest.raises(UserError, match="not stored as Parquet") as refused:
        source.parquet_files("someone/texts", "train")
    python, flag, code = shlex.split(str(refused.value).split("--source: ")[-1])
    assert (python, flag) == ("python", "-c")
    compile(code, "exported", "exec")
    assert "load_dataset('someone/texts', split='train').to_parquet('runs/texts-train.parquet')" in code


def test_a_dataset_of_several_configurations_is_named_with_one(hub: Hub) -> None:
    folder = hub("someone/pairs")
    for number, config in enumerate(("v1", "v2")):
        write_pairs(folder / config, rendered_pairs(2 + number))
    listed = "".join(f"- config_name: {one}\n  data_files: {one}/*.parquet\n" for one in ("v1", "v2"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    found = source.parquet_files("someone/pairs:v2", "train")
    assert found == ["hf://datasets/someone/pairs/v2/pairs-00000.parquet"]
    assert raw_table.open_source(found).count_rows() == 3
    with pytest.raises(UserError, match=r"it has several configurations; give one .* someone/pairs:CONFIG \(v1, v2\)"):
        source.parquet_files("someone/pairs", "train")
    with pytest.raises(UserError, match=r"it has no configuration 'v3'; give one of them"):
        source.parquet_files("someone/pairs:v3", "train")


def test_an_unreachable_name_says_what_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(name: str) -> None:
        raise ConnectionError(name)

    monkeypatch.setattr(datasets, "load_dataset_builder", down)
    told = rf"--source my-pairs: {files.ROOT}/my-pairs does not exist, and datasets cannot load it \(ConnectionError"
    with pytest.raises(UserError, match=told):
        source.parquet_files("my-pairs", "train")


def test_paths_count_from_where_one_stands_or_the_root_and_win_over_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(tmp_path / "here" / "raw", rendered_pairs(2))
    found = [f"{tmp_path}/here/raw/pairs-00000.parquet"]
    with files.counting_from(tmp_path / "here"):
        assert source.parquet_files("raw", "train") == found
    monkeypatch.setattr(files, "ROOT", tmp_path)
    assert source.parquet_files("here/raw", "train") == found


@pytest.mark.parametrize("where", ["local", "s3"])
def test_folders_and_files(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = str(tmp_path) if where == "local" else f"{request.getfixturevalue('bucket')}/source"
    local = write_pairs(tmp_path / "raw", rendered_pairs(6), rows_per_file=4)
    for path in sorted(local.iterdir()):
        files.write_bytes(files.join(folder, "raw", path.name), path.read_bytes())
    found = source.parquet_files(files.join(folder, "raw"), "train")
    assert found == [files.join(folder, "raw", name) for name in ("pairs-00000.parquet", "pairs-00004.parquet")]
    assert source.parquet_files(found[1], "train") == found[1:]
    assert raw_table.open_source(found).count_rows() == 6
    for missing in ("absent", "absent.parquet"):
        with pytest.raises(UserError, match=f"{missing} does not exist"):
            source.parquet_files(files.join(folder, missing), "train")
    table = files.join(folder, "pairs.csv")
    files.write_bytes(table, b"caption,image_0,image_1,label_0\n")
    with pytest.raises(
        UserError,
        match=r"pairs\.csv: is no \.parquet file; make raw pairs .*import_pairs\.py --table .*/pairs\.csv --images ",
    ):
        source.parquet_files(table, "train")
    files.write_bytes(files.join(folder, "empty", "note.txt"), b"x")
    with pytest.raises(UserError, match=r"empty holds no \.parquet file"):
        source.parquet_files(files.join(folder, "empty"), "train")
    files.write_bytes(files.join(folder, "photos", "a", "1.PNG"), b"x")
    with pytest.raises(
        UserError,
        match=r"photos holds no \.parquet file, but a/1\.PNG; make raw .* --table TABLE\.csv --images .*photos ",
    ):
        source.parquet_files(files.join(folder, "photos"), "train")
    files.write_bytes(files.join(folder, "photos", "all.csv"), b"x")
    with pytest.raises(
        UserError, match=r"but all\.csv and a/1\.PNG; make raw pairs .* --table .*photos/all\.csv --images"
    ):
        source.parquet_files(files.join(folder, "photos"), "train")
    files.write_bytes(files.join(folder, "broken.parquet"), b"no Parquet")
    with pytest.raises(UserError, match=r"broken\.parquet: not readable as Parquet"):
        raw_table.open_source([files.join(folder, "broken.parquet")])


def test_captions_are_found_once_each(tmp_path: Path) -> None:
    rows = rendered_pairs(4)
    rows[2]["caption"], rows[3]["caption"] = rows[0]["caption"], None
    dataset = raw_table.open_source(source.parquet_files(str(write_pairs(tmp_path, rows, rows_per_file=2)), "train"))
    wanted = {pairs.prompt_id(rows[0]["caption"]), pairs.prompt_id("not there")}
    assert list(raw_table.captions_of(dataset, wanted)) == [(pairs.prompt_id(rows[0]["caption"]), rows[0]["caption"])]
