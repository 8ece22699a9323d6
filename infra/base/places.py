"""Where the relative paths of a command line count from: the folder that the user stands in.

A job of `ray job submit` runs in a folder of the cluster, and its workers run in others. So the command line makes
paths absolute before anything else sees them, and a job refuses a relative path that was given.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, get_args, get_origin

from infra.base import files
from infra.base.errors import UserError

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's job supervisor sets it for the command that it starts
NAMED = re.compile(r"[\w.-]+=")  # NAME=PATH


class Place:
    """Mark a setting whose text is a path, or the name of something that is none, such as a model of the Hub."""

    def __init__(self, or_name: bool = False) -> None:
        self.or_name = or_name


PathText = Annotated[str, Place()]
PathOrName = Annotated[str, Place(or_name=True)]


def in_job() -> bool:
    """Say whether this process is the command of a `ray job submit`."""
    return IN_JOB in os.environ


def split_mark(kind: Any) -> tuple[Any, Place | None]:
    """Return a type without its marks of a place, and the mark; None where it has none."""
    if get_origin(kind) is Annotated:
        inner, *marks = get_args(kind)
        place = next((mark for mark in marks if isinstance(mark, Place)), None)
        if place:
            return inner, place
        bare, place = split_mark(inner)
        return (Annotated[(bare, *marks)], place) if place else (kind, None)  # type: ignore[return-value]
    inner_marks = [split_mark(inner) for inner in get_args(kind)]
    place = next((mark for _, mark in inner_marks if mark), None)
    if place is None:
        return kind, None
    if get_origin(kind) is tuple:
        return tuple[tuple(inner for inner, _ in inner_marks)], place  # type: ignore[misc]
    return inner_marks[0][0] | None, place


def absolute(value: Any, place: Place) -> Any:
    """Make the relative paths of a setting absolute; names, and what is installed with the code, stay as they are."""
    if isinstance(value, str):
        return _absolute(value, place)
    if isinstance(value, tuple | list):
        return type(value)(_absolute(one, place) for one in value)
    return value  # None, or what the command line lacks


def _absolute(text: str, place: Place) -> str:
    if not _is_relative(text):
        return text
    if files.local(text).exists():
        return str(files.local(text))
    named = NAMED.match(text)
    if named:
        return named[0] + _absolute(text[named.end() :], place)
    if not place.or_name:
        return str(files.local(text))
    parts = text.split("+")
    return "+".join(_absolute(part, place) for part in parts) if len(parts) > 1 else text


def _is_relative(text: str) -> bool:
    return bool(text) and "://" not in text and not os.path.isabs(text) and not text.startswith(files.PACKAGED)


def refuse_relative(flag: str, value: Any, place: Place) -> None:
    """Refuse a relative path that was given to a job: it would count from a folder of the cluster.

    Raises:
        UserError: naming the flag and the path.
    """
    given = [value] if isinstance(value, str) else value if isinstance(value, tuple | list) else []
    for text in given:
        made = _absolute(text, place)
        if made != text:
            raise UserError(
                f"{flag} {text}: a cluster job does not know the folder that you stand in; give an absolute path that "
                "all nodes share, or s3://"
            )
