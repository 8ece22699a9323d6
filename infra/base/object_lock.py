"""One writer at a time below an s3:// path, where no lock ends with its process: an object that its holder renews.

The lock is the object `.lock`. It is written on a condition alone, that it is absent or still what was read, and of
several such writes S3 lets one pass. Its holder writes it anew every RENEWAL seconds. One that stays as it is for
EXPIRY seconds, measured by whoever waits for it, is a dead job's and is taken over; no two clocks are compared. A
holder that S3 does not hear ends MARGIN seconds before, and its workers with it: of two jobs that live, one writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from botocore import exceptions

from infra.base import files, object_storage, s3_filesystem
from infra.base.errors import UserError

NAME = ".lock"
RENEWAL = 15.0  # seconds between two writes of its holder
EXPIRY = 120.0  # seconds without a write, after which the holder counts as dead
LOOK = 5.0  # seconds between two looks of a job that waits
MARGIN = 15.0  # seconds in which Ray ends the workers of a driver that is gone
CONFLICTS = 3  # writes of one renewal, where S3 says that another was under way
NO_ETAG = "0" * 32  # of nothing that is written here
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404")
UNKNOWN = ("NotImplemented", "501")


@dataclass(frozen=True)
class _Seen:
    etag: str
    holder: str
    token: str  # "" where it was given back, or is absent


class ObjectLock:
    """The lock of an s3:// folder, as one process takes it, renews it and gives it back."""

    def __init__(
        self, folder: str, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.folder = folder
        self._clock = clock
        self._pause = pause
        self._bucket, _, self._key = files.join(folder, NAME).removeprefix(files.S3).partition("/")
        self._holder = f"process {os.getpid()} on {socket.gethostname()}"
        self._token = uuid.uuid4().hex
        self._writes = 0
        self._etag = ""
        self._renewed = clock()
        self._client: tuple[int | None, Any] | None = None  # and when its credentials were written
        self._conditions = True  # whether the server looks at them
        self._turn = threading.Lock()
        self._ended = threading.Event()

    def take(self) -> None:
        """Take the lock; where it is another's, wait until that one shows life, or none for EXPIRY seconds.

        Where the server ignores conditional writes there is no lock; stderr then says so.

        Raises:
            UserError: naming who holds it; or if S3 refuses.
        """
        with self._refusals_in_words():
            try:
                if not self._write(self._token, IfNoneMatch="*"):
                    self._take_over()
                # A server that does not look at conditions writes this, too.
                self._conditions = not self._write(self._token, IfMatch=NO_ETAG)
            except exceptions.ClientError as error:
                if _code(error) not in UNKNOWN:
                    raise
                self._conditions = False
        if not self._conditions:
            warning = "this S3 server ignores conditional writes, so a second job here would not be kept away"
            print(f"{self.folder}: {warning}", file=sys.stderr, flush=True)

    def _take_over(self) -> None:
        seen = self._read()
        if seen.token not in ("", self._token):
            self._outwait(seen)
        self._etag = seen.etag
        if not self._renew():
            raise self._busy(self._read())

    def _outwait(self, seen: _Seen) -> None:
        print(f"{self.folder}: locked by {seen.holder}; is it still there? ({EXPIRY:.0f} s at most)", flush=True)
        began = self._clock()
        while self._clock() < began + EXPIRY:
            self._pause(LOOK)
            now = self._read()
            if now != seen:  # also where it was given back: this job does not know what was finished meanwhile
                raise self._busy(now if now.token else seen)

    def check(self) -> None:
        """Renew the lock, before what its holder alone may write.

        Raises:
            UserError: if another job took it over; or if S3 refuses.
        """
        with self._turn, self._refusals_in_words():
            if self._conditions and not self._renew():
                raise self._lost()

    def keep(self) -> None:
        """Renew the lock until it is given back, and end the process where another job took it over."""
        pause = RENEWAL
        while self._conditions and not self._ended.wait(pause):
            with self._turn:
                pause = LOOK  # after one that failed
                try:
                    lost = not self._ended.is_set() and not self._renew()
                except (exceptions.BotoCoreError, exceptions.ClientError, UserError, OSError):  # it is asked again
                    continue
                pause = RENEWAL
                if lost:
                    _end(self._lost())

    def watch(self) -> None:
        """End the process MARGIN seconds before another job may take over, if nothing could be renewed till then.

        Beside keep, whose request may hang.
        """
        while self._conditions and not self._ended.wait(max(0.0, self._left())):
            if self._left() <= 0:
                silence = f"S3 heard nothing of this job for {EXPIRY - MARGIN:.0f} s, so another may soon begin here"
                _end(UserError(f"{self.folder}: {silence}; give the same command again, and it goes on"))

    def _left(self) -> float:
        return self._renewed + EXPIRY - MARGIN - self._clock()

    def give_back(self) -> None:
        """Let the next job have the lock at once."""
        self._ended.set()
        try:
            with self._turn, self._refusals_in_words():
                if self._conditions:
                    self._write("", IfMatch=self._etag)
        except UserError as error:
            print(f"{error}; the lock ends by itself, in {EXPIRY:.0f} s", file=sys.stderr, flush=True)

    def _renew(self) -> bool:
        """Write the lock anew; false where it is another's by now."""
        for _ in range(CONFLICTS):
            if self._write(self._token, IfMatch=self._etag):
                return True
            seen = self._read()
            if seen.etag == NO_ETAG:  # somebody deleted it
                if self._write(self._token, IfNoneMatch="*"):
                    return True
                continue
            if seen.token != self._token:
                return False
            self._etag = seen.etag  # S3's answer to a write of ours was lost, or came in the middle of one
        raise UserError(f"{self.folder}/{NAME}: S3 refused {CONFLICTS} writes in a row, each for another under way")

    def _s3(self) -> Any:
        written = s3_filesystem.credentials_written()
        if self._client is None or self._client[0] != written:
            self._client = (written, object_storage.open_client(silence=LOOK))  # a renewal has a minute, at most
        return self._client[1]

    def _write(self, token: str, **condition: str) -> bool:
        """Write the lock and return true, or false where the condition does not hold."""
        self._writes += 1  # else it would have the same ETag
        asked = self._clock()
        content = json.dumps({"holder": self._holder, "token": token, "writes": self._writes}).encode()
        place = {"Bucket": self._bucket, "Key": self._key}
        try:
            answer = self._s3().put_object(**place, Body=content, **condition)
        except exceptions.ClientError as error:
            if _code(error) in REFUSED:
                return False
            raise
        self._etag = answer["ETag"].strip('"')  # radosgw compares it with the header as it is
        self._renewed = asked  # or later, when S3 took it
        return True

    def _read(self) -> _Seen:
        try:
            answer = self._s3().get_object(Bucket=self._bucket, Key=self._key)
            content = json.loads(answer["Body"].read())
            return _Seen(answer["ETag"].strip('"'), str(content["holder"]), str(content["token"]))
        except exceptions.ClientError as error:
            if _code(error) not in REFUSED:
                raise
            return _Seen(NO_ETAG, "unknown", "")
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.folder}/{NAME}: not a lock of this code's; delete it if nothing writes here"
            ) from None

    def _busy(self, seen: _Seen) -> UserError:
        return UserError(f"{self.folder}: another job is writing here ({seen.holder}); wait for it or stop it")

    def _lost(self) -> UserError:
        silence = f"another job took over, as nothing was heard of this one for {EXPIRY:.0f} s; wait for its result"
        return UserError(f"{self.folder}: {silence}")

    @contextlib.contextmanager
    def _refusals_in_words(self) -> Iterator[None]:
        try:
            yield
        except (exceptions.BotoCoreError, exceptions.ClientError) as error:
            raise UserError(f"{self.folder}: {object_storage.reason(error, self._bucket)}") from None


def _code(error: exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code"))


def _end(error: UserError) -> None:
    """End the process, whose main thread waits inside Ray and would not notice an exception of another."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(2)
