"""What a disk or S3 refuses, in one sentence with its remedy."""

from __future__ import annotations

import errno

from infra.base.errors import UserError


def reason(error: OSError) -> str:
    """Say in one line why a file could not be read or written."""
    if "AWS Error" in str(error):
        from infra.base import (
            object_storage,  # boto3: not on the way of those who have nothing on S3
        )

        return object_storage.explain(error)
    return next(iter(str(error).splitlines()), type(error).__name__)


REMEDIES = {  # of what lies in a disk's way rather than in this code's, by errno
    errno.ENOENT: "it is gone, as when somebody moves or deletes it meanwhile; restore it, or give the command again",
    errno.ENOTEMPTY: "somebody else writes there; see who, then give the same command again",
    errno.ESTALE: "somebody replaced it meanwhile; give the same command again",
    errno.ENOTDIR: "a file lies where a folder should; move it away, or give another path",
    errno.EEXIST: "something else lies there already; move it away, or give another path",
    errno.EISDIR: "a folder lies where a file should; move it away, or give another path",
    errno.ENAMETOOLONG: "give a shorter name: most disks take 255 bytes a name",
    errno.ELOOP: "its links lead in a circle; correct them",
    errno.EROFS: "the disk is read-only; give a folder on another",
    errno.EACCES: "you lack the right; ask its owner, or give another path",
    errno.EPERM: "you lack the right; ask its owner, or give another path",
    errno.ENOSPC: "make room there, or free inodes; then give the same command again",
    errno.EDQUOT: "your quota is used up; make room, then give the same command again",
}


def disk_refusal(error: OSError) -> UserError | None:
    """Put a disk's refusal into one sentence with its remedy; None where the cause may be this code's."""
    remedy = REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    place = f"{error.filename}: {error.strerror}" if error.filename else reason(error)
    return UserError(f"{place}; {remedy}")
