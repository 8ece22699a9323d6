"""One writer on S3: a second is told who writes, a dead one's lock is taken over, its loser publishes nothing."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from support.faulty_s3 import Fault, faulty
from support.locks import Clock, taken, taker

from infra.base import files, object_lock, object_storage, one_writer, s3_filesystem
from infra.base.errors import UserError
from infra.base.object_lock import EXPIRY, LOOK, MARGIN, ObjectLock
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encode_latents import main

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


@pytest.fixture
def folder(bucket: str, tmp_path: Path) -> str:
    """Return a folder on S3 with nothing in it."""
    return f"{bucket}/{tmp_path.name}/store"


def busy(folder: str, holder: str = "process 1 on one") -> str:
    return f"{folder}: another job is writing here ({holder}); wait for it or stop it"


def noted(folder: str) -> dict[str, object]:
    return files.read_json(files.join(folder, object_lock.NAME))


def test_a_second_is_refused_when_the_first_shows_life_and_told_who_it_is(folder: str) -> None:
    first = taken(folder)
    second, clock = taker(folder, first.check)
    with pytest.raises(UserError) as refused:
        second.take()
    assert str(refused.value) == busy(folder)
    assert clock.now == LOOK
    first.check()  # it still has it


def test_a_lock_given_back_is_taken_at_once(folder: str) -> None:
    taken(folder).give_back()
    second, clock = taker(folder)
    second.take()
    assert clock.now == 0
    second.check()


def test_what_ends_while_one_waits_is_not_gone_on_with_unseen(folder: str) -> None:
    first = taken(folder)
    second, _ = taker(folder, first.give_back)  # it may have published meanwhile
    with pytest.raises(UserError) as refused:
        second.take()
    assert str(refused.value) == busy(folder)
    again, clock = taker(folder)
    again.take()
    assert clock.now == 0


def test_a_dead_ones_lock_is_taken_over_and_it_publishes_nothing(folder: str) -> None:
    first = taken(folder)
    second, clock = taker(folder)
    second.take()
    assert clock.now == EXPIRY
    for _ in range(2):
        with pytest.raises(UserError, match=f"^{folder}: another job took over, as nothing was heard of this one"):
            first.check()
    first.give_back()  # of what is not its own any more
    second.check()
    assert noted(folder)["token"] == second._token


def test_of_two_who_waited_one_has_it(folder: str) -> None:
    taken(folder)
    gate = threading.Barrier(2)

    def take(holder: str) -> str:
        clock = Clock()

        def wait(seconds: float) -> None:
            clock.wait(seconds)
            if clock.now >= EXPIRY:
                gate.wait()  # both have seen the same lock to its end

        lock = ObjectLock(folder, clock, wait)
        lock._holder = holder
        try:
            lock.take()
        except UserError as refused:
            return str(refused)
        lock.check()
        return "taken"

    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(take, ("a", "b")))
    winner = str(noted(folder)["holder"])
    assert sorted(outcomes) == sorted(["taken", busy(folder, winner)])
    assert outcomes[("a", "b").index(winner)] == "taken"


def test_of_two_who_come_at_once_one_has_it(folder: str) -> None:
    locks = [taker(folder)[0] for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        won = list(pool.map(lambda lock: lock._write(lock._token, IfNoneMatch="*"), locks))
    assert sorted(won) == [False, False, False, True]
    assert noted(folder)["token"] == locks[won.index(True)]._token


def test_a_lock_that_somebody_deleted_is_made_again_by_its_holder(folder: str) -> None:
    first = taken(folder)
    files.remove(files.join(folder, object_lock.NAME))
    first.check()
    second, _ = taker(folder, first.check)
    with pytest.raises(UserError, match="another job is writing here"):
        second.take()


def test_a_file_of_another_kind_under_that_name_is_refused(folder: str) -> None:
    files.write_bytes(files.join(folder, object_lock.NAME), b"locked!")
    with pytest.raises(UserError) as refused:
        taken(folder)
    assert str(refused.value) == f"{folder}/.lock: not a lock of this code's; delete it if nothing writes here"


def test_an_answer_that_was_lost_is_no_lost_lock(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losing: list[str] = []

    def fault(method: str, _: str) -> Fault:
        return losing.pop() if losing and method == "PUT" else None

    with faulty(os.environ["AWS_ENDPOINT_URL"], fault) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        losing.append("reset when done")  # of the write that makes the lock
        lock = taken(folder)
        losing.append("reset when done")  # of a renewal
        lock.check()
        assert losing == []
        lock.check()
        assert noted(folder)["token"] == lock._token


@pytest.mark.parametrize("ignored", [False, True])
def test_a_server_without_conditional_writes_is_told_of(
    folder: str, ignored: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def client(**_: object) -> object:
        s3 = boto3.Session().client("s3")
        if ignored:
            s3.meta.events.register("before-send.s3.PutObject", forget)
        return s3

    def forget(request: object, **_: object) -> None:
        for name in ("If-Match", "If-None-Match"):
            request.headers.pop(name, None)  # type: ignore[attr-defined]

    with faulty(
        os.environ["AWS_ENDPOINT_URL"],
        lambda method, _: "NotImplemented" if method == "PUT" and not ignored else None,
    ) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setattr(object_storage, "open_client", client)
        first = taken(folder)
        taken(folder).check()
        first.check()
        first.keep()  # ends at once
        first.give_back()
    said = f"{folder}: this S3 server ignores conditional writes, so a second job here would not be kept away\n"
    assert capsys.readouterr().err == 2 * said


class Ended(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list of exit codes to which an end of the process adds its own, and raises Ended."""
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(object_lock.os, "_exit", leave)
    return codes


def test_a_holder_that_s3_does_not_hear_ends_before_another_may_begin(
    folder: str, ended: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    lock, clock = taker(folder)
    lock.take()
    clock.now = 100.0
    lock.check()
    clock.now = 100.0 + EXPIRY - MARGIN - 0.01  # and here somebody who waits since it was renewed must wait on
    watch = threading.Thread(target=lock.watch)
    watch.start()
    lock.give_back()
    watch.join()
    assert ended == []
    lock, clock = taker(folder)
    lock.take()
    clock.now = EXPIRY - MARGIN
    with pytest.raises(Ended):
        lock.watch()
    assert ended == [2]
    message = f"error: {folder}: S3 heard nothing of this job for 105 s, so another may soon begin here;"
    assert capsys.readouterr().err == f"{message} give the same command again, and it goes on\n"


def test_a_write_under_way_elsewhere_is_no_lost_lock(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conflicts: list[str] = []

    def fault(method: str, _: str) -> Fault:
        return conflicts.pop() if conflicts and method == "PUT" else None

    with faulty(os.environ["AWS_ENDPOINT_URL"], fault) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        lock = taken(folder)
        conflicts += 2 * ["ConditionalRequestConflict"]
        lock.check()
        conflicts += 3 * ["ConditionalRequestConflict"]
        with pytest.raises(UserError, match=r"/\.lock: S3 refused 3 writes in a row"):
            lock.check()
        lock.check()


def test_the_holder_renews_it_until_it_is_given_back_or_lost(
    folder: str, ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_lock, "RENEWAL", 0.01)
    first = taken(folder)
    replaced = iter([FileNotFoundError("the credentials file")])  # once, as while it is replaced

    def written() -> None:
        for error in replaced if threading.current_thread() is not threading.main_thread() else ():
            raise error

    monkeypatch.setattr(s3_filesystem, "credentials_written", written)
    keeper = threading.Thread(target=first.keep)
    before = noted(folder)["writes"]
    keeper.start()
    while noted(folder)["writes"] == before:
        pass
    assert next(replaced, None) is None
    first.give_back()
    keeper.join()
    assert ended == []
    assert noted(folder)["token"] == ""
    second = taken(folder)
    files.write_json(files.join(folder, object_lock.NAME), {"holder": "another", "token": "its", "writes": 1})
    with pytest.raises(Ended):
        second.keep()
    assert ended == [2]


def test_an_encoder_is_refused_where_another_job_writes(
    raw_pairs: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = taken(folder)
    monkeypatch.setattr(object_lock.ObjectLock.__init__, "__defaults__", (Clock(), lambda _: first.check()))
    with pytest.raises(UserError) as refused:
        main(EncodeConfig(source=str(raw_pairs), store=folder))
    assert str(refused.value) == busy(folder)
    assert [path.split("/")[-1] for path in files.list_files(folder)] == [object_lock.NAME]  # nothing was touched


def test_a_result_is_published_by_the_holder_alone(folder: str) -> None:
    with one_writer.writer_lock(folder) as still_held:
        still_held()
        other = {"holder": "another", "token": "its", "writes": 1}
        files.write_json(files.join(folder, object_lock.NAME), other)
        with pytest.raises(UserError, match="another job took over"):
            still_held()
    assert noted(folder) == other
