"""The resumable pass: done once, recognised without a lock, gone on with after a kill, published only while locked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from infra.base import files
from infra.base.errors import UserError
from pipelines.engine.resumable import Pass, finish


@dataclass
class Counting:
    """A pass that writes three rows, one file each, and publishes their sum; it notes what happened in which order."""

    folder: Path
    events: list[str] = field(default_factory=list)
    taken_over: bool = False
    killed_after: int = 3

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @contextmanager
    def lock(self) -> Iterator[Callable[[], None]]:
        self.events.append("lock")
        yield self.still_held
        self.events.append("release")

    def still_held(self) -> None:
        self.events.append("still held")
        if self.taken_over:
            raise UserError("another job took over")

    def run(self) -> None:
        for row in range(3):
            path = self.work / f"{row}.row"
            if row == self.killed_after:
                raise KeyboardInterrupt
            if not path.exists():
                self.events.append(f"row {row}")
                path.write_text(str(row))

    def count(self) -> int:
        return sum(int(path.read_text()) for path in self.work.glob("*.row"))

    def publish(self, result: int) -> None:
        self.events.append(f"publish {result}")
        (self.folder / "result").write_text(str(result))

    def described(self, **settings: Any) -> Pass[int]:
        """Return the pass with these settings."""
        return Pass(
            work=str(self.work),
            settings=settings,
            is_finished=(self.folder / "result").exists,
            lock=self.lock,
            run=self.run,
            count=self.count,
            publish=self.publish,
        )


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    return Counting(tmp_path)


ALL = ["lock", "row 0", "row 1", "row 2", "still held", "publish 3", "release"]


def test_a_pass_runs_counts_publishes_and_cleans_up(counting: Counting) -> None:
    assert finish(counting.described(seed=0)) == 0 + 1 + 2
    assert counting.events == ALL
    assert sorted(path.name for path in counting.folder.iterdir()) == ["result"]


def test_a_finished_pass_is_left_alone_and_needs_no_lock(counting: Counting) -> None:
    finish(counting.described(seed=0))
    counting.events.clear()
    assert finish(counting.described(seed=0)) is None
    assert counting.events == []


def test_a_pass_that_another_process_finished_meanwhile_is_not_run(counting: Counting) -> None:
    @contextmanager
    def late() -> Iterator[Callable[[], None]]:
        (counting.folder / "result").write_text("3")
        with counting.lock() as still_held:
            yield still_held

    assert finish(replace(counting.described(seed=0), lock=late)) is None
    assert counting.events == ["lock", "release"]


def test_a_killed_pass_goes_on_from_what_is_written(counting: Counting) -> None:
    counting.killed_after = 2
    with pytest.raises(KeyboardInterrupt):
        finish(counting.described(seed=0, names=("a", "b")))
    assert files.read_json(str(counting.work / "config.json")) == {"seed": 0, "names": ["a", "b"]}
    counting.killed_after, counting.events = 3, []
    assert finish(counting.described(seed=0, names=("a", "b"))) == 3
    assert counting.events == ["lock", "row 2", "still held", "publish 3", "release"]


def test_rows_of_other_settings_are_thrown_away(counting: Counting) -> None:
    counting.killed_after = 2
    with pytest.raises(KeyboardInterrupt):
        finish(counting.described(seed=0))
    counting.killed_after, counting.events = 3, []
    assert finish(counting.described(seed=1)) == 3
    assert counting.events == ALL


def test_rows_of_other_settings_are_refused_and_kept_where_the_pass_says_so(counting: Counting) -> None:
    def refuse(noted: dict[str, Any]) -> None:
        if noted["seed"] != 1:
            raise UserError(f"begun with seed {noted['seed']}")

    counting.killed_after = 2
    with pytest.raises(KeyboardInterrupt):
        finish(counting.described(seed=0))
    before = sorted(path.name for path in counting.work.iterdir())
    with pytest.raises(UserError, match="begun with seed 0"):
        finish(replace(counting.described(seed=1), refuse_others=refuse))
    assert sorted(path.name for path in counting.work.iterdir()) == before == ["0.row", "1.row", "config.json"]


def test_what_is_refused_beforehand_leaves_no_settings_behind(counting: Counting) -> None:
    def prepare() -> None:
        raise UserError("no cluster")

    with pytest.raises(UserError, match="no cluster"):
        finish(replace(counting.described(seed=0), prepare=prepare))
    assert not counting.work.exists()


def test_nothing_is_published_after_another_job_took_over(counting: Counting) -> None:
    counting.taken_over = True
    with pytest.raises(UserError, match="took over"):
        finish(counting.described(seed=0))
    assert counting.events == ["lock", "row 0", "row 1", "row 2", "still held"]
    assert not (counting.folder / "result").exists()
    assert (counting.work / "2.row").exists()


def test_wrong_counts_are_neither_published_nor_cleaned_up(counting: Counting) -> None:
    def count() -> int:
        raise UserError("2 rows for 3 wanted")

    with pytest.raises(UserError, match="2 rows for 3 wanted"):
        finish(replace(counting.described(seed=0), count=count))
    assert counting.events == ["lock", "row 0", "row 1", "row 2"]
    assert (counting.work / "2.row").exists()


@pytest.mark.parametrize("rows", [0, 1])
def test_settings_of_a_pass_that_was_refused_before_its_first_row_are_forgotten(counting: Counting, rows: int) -> None:
    def run() -> None:
        for row in range(rows):
            files.write_bytes(str(counting.work / "pairs_done" / f"{row}.parquet"), b"")
        raise UserError("bad input")

    with pytest.raises(UserError, match="bad input"):
        finish(replace(counting.described(seed=0), run=run))
    assert (counting.work / "config.json").exists() == (rows > 0)
