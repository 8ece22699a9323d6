"""The folder of --answers, which every node of a job must share: by its path, and by an id that lies in it."""

from __future__ import annotations

import uuid

from infra.base import files
from infra.base.errors import UserError

ID_FILE = "folder.json"


def resolve(given: str) -> str:
    """Make the folder's path absolute where the command starts, so that no node counts it from a folder of its own.

    Raises:
        UserError: if it is relative in a job whose code is deleted with it.
    """
    try:
        return files.resolve(given)
    except UserError as error:
        raise UserError(f"--answers {error}") from error


def known_by(folder: str) -> str:
    """Return the folder's id, and give it one where it has none."""
    path = files.join(folder, ID_FILE)
    if not files.exists(path):
        files.write_json(path, {"id": uuid.uuid4().hex})
    return str(files.read_json(path)["id"])


def check(folder: str, known: str) -> None:
    """Refuse a node that sees another folder at the path than the one where the command was started.

    Raises:
        UserError: naming the folder.
    """
    path = files.join(folder, ID_FILE)
    if not files.exists(path) or files.read_json(path)["id"] != known:
        raise UserError(
            f"--answers {folder}: this node sees another folder there than the one where the command was started, so "
            "questions would be asked twice; give a folder that all nodes share, or s3://"
        )
