"""Files that are only git-lfs' notes of where the true ones lie, as a clone without git-lfs leaves them."""

from __future__ import annotations

from pathlib import Path

from infra.base.errors import UserError

MARK = b"version https://git-lfs.github.com/spec/"


def refuse(path: str | Path) -> None:
    """Refuse a file on this disk that is git-lfs' note of another one.

    Raises:
        UserError: naming it and the command that fetches the true file.
    """
    try:
        with Path(path).open("rb") as file:
            begin = file.read(len(MARK))
    except OSError:  # it is absent, elsewhere or out of reach, which the caller tells
        return
    if begin == MARK:
        folder = Path(path).parent
        raise UserError(f"{path}: is git-lfs' note of the file and not the file itself; run git lfs pull in {folder}")
