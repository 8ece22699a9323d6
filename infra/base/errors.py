"""The one exception whose message is meant for the user, and what other errors are to them."""

from __future__ import annotations

import math
import re
import sys
import traceback
from collections.abc import Iterator, Mapping


class UserError(Exception):
    """Bad input or a bad setting: one sentence that names the file, row or flag. Entry points exit 2 with it."""


def check_least(settings: object, least: Mapping[str, float]) -> None:
    """Refuse flags below their least values, or of no finite one; None, a flag not given, passes.

    Args:
        settings: what has the flags as attributes.
        least: by the flags' names.

    Raises:
        UserError: naming the flag.
    """
    for name, low in least.items():
        value = getattr(settings, name)
        if value is not None and not low <= value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {low}")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, then what it was raised from or wraps, and so on inwards; each of them once.

    A step's exception that is raised again from Ray's wrapping of it leads back to itself.
    """
    seen: list[BaseException] = []
    while error is not None and all(error is not one for one in seen):
        seen.append(error)
        yield error
        wrapped = getattr(error, "cause", None)  # of Ray's
        error = wrapped if isinstance(wrapped, BaseException) else error.__cause__


# What a lost worker, node or server makes the others raise, in the words of torch, gloo and NCCL.
_LOST = re.compile(
    r"gloo|nccl|cuda|hip error|connection|socket|peer|broken pipe|time.?out|timed out|store", re.IGNORECASE
)
_BUGS = (TypeError, ValueError, LookupError, AttributeError, NotImplementedError, AssertionError, ImportError)


def comes_again(error: BaseException, where: str) -> UserError | None:
    """Return the sentence for an error that the same work would meet again, its traceback on stderr; else None.

    What a lost worker, disk or server leaves behind may go away: an OSError, and what the other workers raise then.

    Args:
        where: what failed, the beginning of the sentence.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    out_of_memory = "OutOfMemoryError" in kinds and "RayError" not in kinds
    of_torch = type(error) is RuntimeError and not _LOST.search(str(error))
    if not (isinstance(error, _BUGS) or of_torch or out_of_memory) or isinstance(error, OSError):
        return None
    traceback.print_exception(error, file=sys.stderr)
    reason = next(iter(str(error).splitlines()), "")
    return UserError(
        f"{where}: {type(error).__name__}: {reason or 'no reason given'}; it would come again, so nothing is tried "
        "again; the traceback is above"
    )
