"""Records: the JSON files by which a folder says what it is; a torn one, or another file in its place, is refused."""

from __future__ import annotations

from typing import Any

from infra.base import files
from infra.base.errors import UserError

RESTORE = "restore this file from a copy, or give another folder"


def read_record(path: str, names: tuple[str, ...] = (), remedy: str = RESTORE) -> dict[str, Any]:
    """Read a record that this software wrote.

    Args:
        names: what it must hold.
        remedy: what to do where it does not, the end of the message's sentence.

    Raises:
        UserError: naming the file, if it is missing, torn, or another file's content.
    """
    if not files.is_file(path):
        raise UserError(f"{path}: missing; {remedy}")
    try:
        record = files.read_json(path)
    except UserError as error:
        raise UserError(f"{path}: no whole JSON, as after a power cut ({error.__cause__}); {remedy}") from error
    lacking = [name for name in names if not isinstance(record, dict) or name not in record]
    if not isinstance(record, dict) or lacking:
        raise UserError(f"{path}: another file's content, without {', '.join(lacking) or 'names'}; {remedy}")
    return record
