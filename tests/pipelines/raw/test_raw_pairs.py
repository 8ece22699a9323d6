"""Raw pairs as files: one layout of Pick-a-Pic's columns, files of bounded size, nothing stale, nothing lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.base import files
from infra.base.errors import UserError
from pipelines.raw import raw_pairs
from pipelines.raw.pairs import check_label
from pipelines.raw.raw_pairs import SCHEMA, labelled_pair, write_pairs
from pipelines.raw.source import CONFIG, parquet_files, whole_rows


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


def stored(folder: Path) -> tuple[list[str], str]:
    """Return what the encoder reads from a folder of raw pairs, and who says it made it."""
    captions: list[str] = []
    for path in parquet_files(str(folder), "train"):
        captions += pq.read_table(path)["caption"].to_pylist()
    return captions, files.read_json(files.join(whole_rows(str(folder)), CONFIG))["made"]


OLD = (["caption 0", "caption 1", "caption 2"], "first")
NEW = (["caption 0", "caption 1"], "anew")


def test_rows_that_cannot_be_written_leave_the_old_ones_whole(tmp_path: Path) -> None:
    write_pairs(str(tmp_path), rows(3), {"made": "first"}, rows_per_file=1)

    def torn() -> Any:
        yield from rows(2)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_pairs(str(tmp_path), torn(), {"made": "anew"}, rows_per_file=1)
    assert stored(tmp_path) == OLD


class Killed(BaseException):
    pass


@pytest.mark.chaos
def test_killed_before_any_change_on_the_disk_old_or_new_rows_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {name: getattr(files, name) for name in ("remove", "write_bytes")} | {"link": os.link}

    def replace_all(left: int) -> bool:
        """Write new rows with a kill before the change of that number; say whether it came to that."""
        folder = tmp_path / str(left)
        write_pairs(str(folder), rows(3), {"made": "first"}, rows_per_file=1)
        budget = [left]

        def counted(change: Callable[..., Any]) -> Callable[..., Any]:
            def change_or_die(*arguments: Any) -> Any:
                if budget[0] == 0:
                    raise Killed
                budget[0] -= 1
                return change(*arguments)

            return change_or_die

        with monkeypatch.context() as patched:
            for name, change in changes.items():
                patched.setattr(os if name == "link" else files, name, counted(change))
            with contextlib.suppress(Killed):
                write_pairs(str(folder), rows(2), {"made": "anew"}, rows_per_file=1)
                return False
        seen = stored(folder)
        assert seen in (OLD, NEW)
        outcomes.add(seen[1])
        write_pairs(str(folder), rows(2), {"made": "anew"}, rows_per_file=1)  # the same command again
        assert stored(folder) == NEW
        assert sorted(path.name for path in folder.iterdir()) == [CONFIG, "pairs-0000.parquet", "pairs-0001.parquet"]
        return True

    outcomes: set[str] = set()
    kills = 0
    while replace_all(kills):
        kills += 1
    assert kills > 10
    assert outcomes == {"first", "anew"}


@pytest.mark.chaos
def test_a_new_attempt_that_fails_keeps_the_rows_of_a_killed_exchange(tmp_path: Path) -> None:
    write_pairs(str(tmp_path), rows(2), {"made": "anew"}, rows_per_file=1)
    replacement = tmp_path / "_new"
    replacement.mkdir()
    for path in list(tmp_path.iterdir()):
        if path != replacement:
            path.rename(replacement / path.name)
    assert stored(tmp_path) == NEW

    def torn() -> Any:
        raise OSError("disk full")
        yield

    with pytest.raises(OSError, match="disk full"):
        write_pairs(str(tmp_path), torn(), {"made": "again"})
    assert stored(tmp_path) == NEW
    assert pq.read_table(tmp_path)["caption"].to_pylist() == NEW[0]
