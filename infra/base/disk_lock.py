"""One holder at a time of a lock file on a disk; the lock ends with its process, however that ends.

flock locks an open file, not a name: whoever deletes the file lets a second job lock a new one of that name. So what
is locked is compared with what lies there. On disks without flock a file made for the purpose stands for the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator

from infra.base.errors import UserError

SAY_AFTER = 1.0  # seconds of waiting
LOOK_EVERY = 0.05  # seconds, while it waits
WITHOUT_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # some mounts of Lustre, NFS and SMB


class HeldError(Exception):
    """Another process holds the lock; the message says which and, where it must, what to do."""


@contextlib.contextmanager
def held(path: str, wait: bool = False) -> Iterator[Callable[[], None]]:
    """Hold a lock inside the block.

    Args:
        path: the lock file, in a folder that is there; it stays.
        wait: whether to wait for another holder; stderr names it after SAY_AFTER seconds.

    Yields:
        What is to be called before a result is published: if somebody deleted the lock file it takes the lock again,
        and raises HeldError where another process has it by now.

    Raises:
        HeldError: if another process holds it, unless wait is set.
        UserError: if no lock can be made there.
    """
    began = time.monotonic()
    said = False
    while True:
        try:
            lock = _try(path)
            break
        except HeldError as busy:
            if not wait:
                raise
            if not said and time.monotonic() >= began + SAY_AFTER:
                said = True
                print(f"{path}: waiting for {busy}", file=sys.stderr, flush=True)
            time.sleep(LOOK_EVERY)
    locks = [lock]

    def check() -> None:
        if not locks[-1].is_there():
            locks.append(_try(path))

    try:
        yield check
    finally:
        for each in locks:
            each.close()


class _Lock:
    """A lock that this process holds: an open file, which keeps its inode from being used again."""

    def __init__(self, descriptor: int, path: str, stays: bool) -> None:
        self.descriptor = descriptor
        self.path = path
        self.stays = stays  # whether the file stays when the lock ends; where its being there is the lock, it goes

    def is_there(self) -> bool:
        """Say whether it is this file that lies at its path."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.descriptor), os.stat(self.path, follow_symlinks=False))
        return False

    def close(self) -> None:
        """End the lock."""
        if not self.stays and self.is_there():
            os.unlink(self.path)
        os.close(self.descriptor)


def _try(path: str) -> _Lock:
    """Take a lock, or raise HeldError."""
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock = _Lock(descriptor, path, stays=True)
            if lock.is_there():
                _note_holder(descriptor)
                return lock
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise HeldError(holder) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno in WITHOUT_FLOCK:
                return _make(f"{path}.held")
            raise UserError(f"{path}: cannot be locked ({error.strerror}); give a folder on another disk") from error
        os.close(descriptor)  # it was deleted or replaced meanwhile: what lies there now counts


def _open(path: str) -> int:
    """Open a lock file, which may be a colleague's, who alone may write to it; through no link."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            with contextlib.suppress(OSError):
                return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: no lock can be taken there (it is a link); delete {path}") from error
        why = error.strerror
        raise UserError(
            f"{path}: no lock can be taken there ({why}); give a folder that you may write to, or ask its owner"
        ) from error


def _make(path: str) -> _Lock:
    """Make the file that stands for the lock on a disk without flock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        try:
            there = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise HeldError("a process that ends just now") from None
        holder = _holder(there)
        os.close(there)
        raise HeldError(f"{holder}, or killed since: delete {path} if it has ended") from None
    _note_holder(descriptor)
    return _Lock(descriptor, path, stays=False)


def _note_holder(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a colleague's file, which cannot be written
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def _holder(descriptor: int) -> str:
    """Say who holds a lock, and for how long, by the time when that was noted."""
    name = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
    seconds = time.time() - os.fstat(descriptor).st_mtime
    return f"{name}, for {max(0.0, seconds):.0f} s"
