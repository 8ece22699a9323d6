"""What a failure of a job means to the user, on either engine: one sentence with its remedy."""

from __future__ import annotations

import errno
import os

from infra.base import object_storage
from infra.base.errors import UserError, comes_again

AGAIN = "the same command goes on from what is written"
FULL = {errno.ENOSPC, errno.EDQUOT}


def refusal(error: Exception, output: str) -> UserError | None:
    """Return the sentence for an error of a job in one process; None where the error is to be raised as it is.

    Args:
        output: the folder that the job writes to.
    """
    known = object_storage.refusal_in(error)
    if known is not None:
        return known
    if isinstance(error, OSError):
        full = full_disk(error)
        return UserError(f"{output}: {full}; make room, then {AGAIN}") if full else None
    return comes_again(error, output)


def full_disk(error: OSError) -> str | None:
    """Say that a disk is full, where that is what an error means."""
    return f"could not be written ({os.strerror(error.errno)})" if error.errno in FULL else None
