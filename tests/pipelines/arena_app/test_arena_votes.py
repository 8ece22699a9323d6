"""The file of votes under other hands: a vote that was kept lies at the path, or its rater hears that it does not."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from infra.base import files
from infra.base.errors import UserError
from pipelines.arena_app import arena
from pipelines.arena_app.arena_votes import QUESTIONS, VOTES, VoteLog, read_votes

ANSWERS = dict.fromkeys(QUESTIONS, "left")


@pytest.mark.chaos
def test_votes_whose_file_was_deleted_are_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / VOTES
    with contextlib.closing(VoteLog(str(path))) as log:
        log.add("ann", 1, 0, ANSWERS)
        path.unlink()
        log.add("bob", 1, 0, ANSWERS)
        log.add("bob", 2, 0, ANSWERS)
    assert list(read_votes(str(path))[0]) == [("ann", 1), ("bob", 1), ("bob", 2)]
    assert f"{path}: was deleted while the arena ran" in capsys.readouterr().err


@pytest.mark.chaos
def test_an_arena_that_counted_more_votes_than_there_are_does_not_begin(tmp_path: Path) -> None:
    path = tmp_path / VOTES
    with contextlib.closing(VoteLog(str(path))) as log:
        log.add("ann", 1, 0, ANSWERS)
    files.write_json(str(tmp_path / arena.ARENA), {"identity": {}, arena.COUNT: 1})
    arena.refuse_lost_votes(str(tmp_path))
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"votes\.jsonl: holds 0 votes, but 1 were kept"):
        arena.refuse_lost_votes(str(tmp_path))
    path.unlink()
    with pytest.raises(UserError, match=r"votes\.jsonl: missing, though an arena was begun here"):
        arena.refuse_lost_votes(str(tmp_path))


@pytest.mark.chaos
def test_a_vote_is_refused_where_another_file_took_the_place_of_the_votes(tmp_path: Path) -> None:
    path = tmp_path / VOTES
    with contextlib.closing(VoteLog(str(path))) as log:
        log.add("ann", 1, 0, ANSWERS)
        kept = path.read_bytes()
        path.rename(tmp_path / "moved")
        path.write_bytes(b"theirs\n")
        with pytest.raises(OSError, match=f"somebody replaced {path}"):
            log.add("bob", 1, 0, ANSWERS)
        assert log.count() == 1
    assert path.read_bytes() == b"theirs\n"
    assert (tmp_path / "moved").read_bytes() == kept


@pytest.mark.chaos
@pytest.mark.parametrize("tail", [b"\0" * 4096, b'{"rater": "bo', b""])
def test_what_a_power_cut_left_at_the_end_is_cut_and_said(
    tmp_path: Path, tail: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / VOTES
    with contextlib.closing(VoteLog(str(path))) as log:
        log.add("ann", 1, 0, ANSWERS)
    kept = path.read_bytes()
    path.write_bytes(kept + tail)
    VoteLog(str(path)).close()
    assert path.read_bytes() == kept
    assert capsys.readouterr().err == (
        f"{path}: {len(tail)} bytes at its end are no whole vote and are cut\n" if tail else ""
    )
