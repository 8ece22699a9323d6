"""Tables by their place: a folder, its files, and what is no table, with what to do instead."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import datasets
import pytest
from support.own_tables import HEADER

from infra.base.errors import UserError
from pipelines.raw import table_places
from pipelines.raw.import_config import ImportConfig
from pipelines.raw.import_pairs import main


def test_what_save_to_disk_wrote_is_refused_with_the_command_that_exports_it(tmp_path: Path) -> None:
    """Its folder also holds JSON, which is no table; several splits lie in folders of their own."""
    alone = datasets.Dataset.from_dict({"caption": ["a"]})
    alone.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": alone}).save_to_disk(str(tmp_path / "splits"))
    config = ImportConfig(table=str(tmp_path / "saved"), output=str(tmp_path / "raw"))
    with pytest.raises(UserError, match=r"saved: holds \.arrow, as .*load_from_disk\('\S+/saved'\)\.to_parquet\("):
        main(config)
    part = dataclasses.replace(config, table=str(tmp_path / "saved" / "data-00000-of-00001.arrow"))
    with pytest.raises(
        UserError, match=r"00001\.arrow: is no table .*; it is \.arrow, .*load_from_disk\('\S+/saved'\)\."
    ):
        main(part)
    several = dataclasses.replace(config, table=str(tmp_path / "splits"))
    with pytest.raises(UserError, match=r"\.arrow of the splits test; choose one of them with --split"):
        main(several)
    with pytest.raises(UserError, match=r"/splits'\)\['test'\]\.to_parquet\('\S+/splits-test\.parquet'\)"):
        main(dataclasses.replace(several, split="test"))


@pytest.mark.parametrize("other", ["old/store/index/pairs.arrow", "cache-1f2e.arrow", "old/state.json"])
def test_arrow_beside_a_table_does_not_hide_it(tmp_path: Path, other: str) -> None:
    """A store has .arrow in its index, and datasets has them in its cache; neither is what save_to_disk wrote."""
    (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / other).write_bytes(b"")
    (tmp_path / "pairs.csv").write_text(HEADER)
    assert table_places.find(str(tmp_path), "train").paths == [str(tmp_path / "pairs.csv")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"ARROW1\0\0", "it holds Arrow; write its table as Parquet"),
        (b"\xff\xff\xff\xff\xf8", "it holds an Arrow stream; write its table as Parquet"),
        (b"", r"give one that ends in \.csv, \.tsv,"),
    ],
)
def test_an_arrow_file_is_told_by_its_first_bytes(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "pairs.arrow").write_bytes(content)
    with pytest.raises(UserError, match=rf"--table \S+/pairs\.arrow: is no table that is read; {told}"):
        table_places.find(str(tmp_path / "pairs.arrow"), "train")
