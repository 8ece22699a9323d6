"""Raw pairs as files: one layout of Pick-a-Pic's columns, files of bounded size, nothing stale, nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.base import files
from infra.base.errors import UserError
from pipelines.raw import raw_pairs
from pipelines.raw.pairs import check_label
from pipelines.raw.raw_pairs import CONFIG, SCHEMA, labelled_pair, write_pairs


def rows(count: int) -> list[dict[str, Any]]:
    return [labelled_pair(n, f"caption {n}", [("x", b"1"), ("y", b"2")], 1.0, "m") for n in range(count)]


@pytest.mark.parametrize(("label_0", "best"), [(1.0, "x"), (0.0, "y"), (0.5, "tie")])
def test_labels_name_the_best_image_and_never_contradict(label_0: float, best: str) -> None:
    row = labelled_pair(7, "a", [("x", b"1"), ("y", b"2")], label_0, "m")
    assert (row["best_image_uid"], row["are_different"]) == (best, best != "tie")
    assert check_label(row["label_0"], row["label_1"], strict=True) is None
    table = pa.Table.from_pylist([row], schema=SCHEMA)
    assert (table["jpg_1"].to_pylist(), table["image_1_uid"].to_pylist()) == ([b"2"], ["y"])
    assert table["user_id"].to_pylist() == [None]


def test_pairs_are_written_file_by_file_and_stale_files_go(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    assert write_pairs(str(folder), rows(5), {"made": "so"}, rows_per_file=2) == 5
    assert [pq.read_metadata(path).num_rows for path in sorted(folder.glob("*.parquet"))] == [2, 2, 1]
    assert files.read_json(str(folder / CONFIG)) == {"made": "so"}
    write_pairs(str(folder), rows(1), {})
    assert pq.read_table(folder)["caption"].to_pylist() == ["caption 0"]
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, "pairs-0000.parquet"]


def test_files_end_at_so_many_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_pairs, "BYTES_PER_FILE", 4)  # two pairs of two bytes
    write_pairs(str(tmp_path / "raw"), rows(3), {})
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "raw").glob("*.parquet"))] == [2, 1]


def test_a_folder_with_other_parquet_files_is_left_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=r"mine\.parquet, which is not ours to replace"):
        write_pairs(str(tmp_path), rows(1), {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.parquet"]


def test_settings_are_gone_before_the_pairs_that_they_told_of(tmp_path: Path) -> None:
    write_pairs(str(tmp_path), rows(1), {"made": "so"})

    def torn() -> Any:
        yield rows(1)[0]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_pairs(str(tmp_path), torn(), {"made": "anew"})
    assert not (tmp_path / CONFIG).exists()
