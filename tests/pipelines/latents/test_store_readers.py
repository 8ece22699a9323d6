"""A store opened by others' readers, as docs/inputs.md says: each line there gives the kept pairs, and them alone."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from infra.base.files import ROOT
from pipelines.latents import schemas

STATUS = {"kept": [1, 2, 3], "tie": [4], "quarantined": [5, 6]}
READERS = re.findall(r"^\| `(.+?)` \| (?:DuckDB|datasets|pandas|pyarrow) ", (ROOT / "docs/inputs.md").read_text(), re.M)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write the pairs of a store as the encoder does: three kept, a tie, two quarantined."""
    schema = schemas.pairs_schema(4, flip=False)
    rows = []
    for status, ids in STATUS.items():
        for pair_id in ids:
            latents = np.full(4, pair_id, np.float16) if status == "kept" else None
            stage = "image" if status == "quarantined" else None
            row = {"pair_id": pair_id, "latents_0": latents, "latents_1": latents, "stage": stage, "status": status}
            rows.append(row)
    table = pa.Table.from_pylist(rows, schema=schema)
    pads.write_dataset(
        table, tmp_path / "store" / "pairs", format="parquet", partitioning=["status"], partitioning_flavor="hive"
    )
    return tmp_path


def ids_of(result: object) -> list[int]:
    """Take the ids out of what a reader returns."""
    if isinstance(result, duckdb.DuckDBPyRelation):
        return sorted(row[0] for row in result.project("pair_id").fetchall())
    if isinstance(result, (pd.DataFrame, datasets.Dataset)):
        return sorted(result["pair_id"])
    assert isinstance(result, pa.Table)
    return sorted(result["pair_id"].to_pylist())


@pytest.mark.parametrize("line", READERS)
def test_each_line_of_the_docs_reads_the_kept_pairs_alone(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    names = {"datasets": datasets, "duckdb": duckdb, "pd": pd, "pads": pads, "pc": pc, "pq": pq}
    assert ids_of(eval(line.replace("\\|", "|"), names)) == STATUS["kept"]


def test_the_lines_cover_every_reader_that_is_installed() -> None:
    assert len(READERS) == 6


def test_a_reader_that_takes_all_files_and_no_folders_names_mixes_the_rows(folder: Path) -> None:
    """What the docs warn of: without its folder's name a row shows its status only by latents and stage."""
    paths = sorted((folder / "store" / "pairs").rglob("*.parquet"))
    mixed = pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])
    assert "status" not in mixed.column_names
    assert sorted(mixed["pair_id"].to_pylist()) == [1, 2, 3, 4, 5, 6]
    assert sorted(mixed.filter(pc.is_valid(mixed["latents_0"]))["pair_id"].to_pylist()) == STATUS["kept"]
