"""--verify: check every byte that a command has written, print what is wrong with its remedy, and end with code 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from infra.base import disk_errors, object_storage
from infra.base.errors import UserError

WRONG = 1  # the exit code where something is wrong


def report(sentences: Iterable[str]) -> None:
    """Print each sentence about what is wrong, as it is found, and how many there were.

    Raises:
        SystemExit: with code 1, if there was one.
    """
    count = 0
    for sentence in sentences:
        print(f"wrong: {sentence}", flush=True)
        count += 1
    if count:
        print(f"{count} {'thing is' if count == 1 else 'things are'} wrong", flush=True)
        raise SystemExit(WRONG)
    print("nothing is wrong: every file is as its manifest says", flush=True)


def refusals(*checks: Callable[[], object]) -> Iterator[str]:
    """Yield the sentence with which each check refuses; nothing for one that passes."""
    for check in checks:
        try:
            check()
        except (UserError, OSError) as error:
            sentence = refusal(error)
            if sentence is None:
                raise
            yield sentence


def refusal(error: Exception) -> str | None:
    """Return the one sentence about what S3, a disk or this code refused; None where this code may be wrong."""
    refused = object_storage.refusal_in(error)
    if refused is None and isinstance(error, OSError):
        refused = disk_errors.disk_refusal(error)
    return None if refused is None else str(refused)
