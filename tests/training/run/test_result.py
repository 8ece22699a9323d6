"""A run's result takes the place of an older one whole, whatever lies there."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.checkpoints.run_folder import FACTS, RESULT, remove_result
from training.run.result import take_place


def made(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / FACTS).write_text(content)
    return folder


@pytest.mark.chaos
@pytest.mark.parametrize(
    "there", ["nothing", "a result", "a read-only result", "a link", "a dead link", "what is set aside"]
)
def test_a_new_result_takes_the_place_of_what_is_there(tmp_path: Path, there: str) -> None:
    new = made(tmp_path / "new", "new")
    elsewhere = made(tmp_path / "elsewhere", "theirs")
    folder = tmp_path / RESULT
    match there:
        case "a result" | "what is set aside":
            made(folder, "old")
        case "a read-only result":
            inner = made(folder, "old") / "vae"
            inner.mkdir()
            inner.chmod(0o555)
            folder.chmod(0o555)
        case "a link":
            folder.symlink_to(elsewhere)
        case "a dead link":
            folder.symlink_to(tmp_path / "gone")
    if there == "what is set aside":
        made(tmp_path / f"{RESULT}.old", "older")
    take_place(new, folder)
    assert not folder.is_symlink()
    assert (folder / FACTS).read_text() == "new"
    assert (elsewhere / FACTS).read_text() == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", RESULT]


@pytest.mark.chaos
def test_removing_a_result_that_is_a_link_removes_the_link_alone(tmp_path: Path) -> None:
    elsewhere = made(tmp_path / "elsewhere", "theirs")
    (tmp_path / RESULT).symlink_to(elsewhere)
    remove_result(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert (elsewhere / FACTS).read_text() == "theirs"
