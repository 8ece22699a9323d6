"""Credentials that expire in the middle: renewed where they renew themselves, else one sentence and nothing lost."""

from __future__ import annotations

import datetime
import json
import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.credentials import EXPIRED, give
from support.faulty_s3 import Fault, faulty

from infra.base import cli, disk_errors, files, object_storage, s3_filesystem
from infra.base.errors import UserError
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import is_finished
from training.run import assembly, loop
from training.settings.config import TrainConfig


class Server:
    """Takes one access key alone; the others have expired."""

    key = "testing"
    last = ""  # what is asked for when that key expires

    def takes(self, key: str) -> bool:
        return key == self.key

    def look(self, _: str, path: str) -> Fault:
        if not self.last or self.last not in path:
            return None
        self.key, self.last = "fresh", ""
        return "ExpiredToken"


pytestmark = pytest.mark.slow


@pytest.fixture
def server(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    assert bucket
    server = Server()
    with faulty(os.environ["AWS_ENDPOINT_URL"], server.look, server.takes) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield server


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a credentials file, from which alone credentials come."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return path


def test_whatever_is_asked_it_is_the_same_sentence(server: Server, bucket: str) -> None:
    path = f"{bucket}/asked"
    files.write_bytes(path, b"here")
    server.key = "fresh"
    for ask in (files.read_bytes, lambda at: files.write_bytes(at, b"other"), files.sha256):  # HEAD; POST; HEAD
        with pytest.raises(OSError, match="AWS Error") as refused:
            ask(path)
        assert disk_errors.reason(refused.value) == EXPIRED
    for look in (files.exists, files.list_files):
        with pytest.raises(UserError) as told:
            look(path)
        assert str(told.value) == f"{path}: cannot be reached ({EXPIRED})"
    filesystem, inner = files.open_filesystem(path)
    with pytest.raises(OSError, match="HeadBucket") as refused:
        filesystem.create_dir(f"{inner}/below")
    assert disk_errors.reason(refused.value) == EXPIRED
    server.key = "testing"
    assert files.read_bytes(path) == b"here"


def test_a_command_ends_with_that_sentence_and_exit_code_2(
    server: Server, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write_bytes(f"{bucket}/asked", b"here")
    server.key = "fresh"
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda _: files.read_bytes(f"{bucket}/asked"), TrainConfig, arguments=[])  # type: ignore[arg-type]
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {bucket}/asked: {EXPIRED}\n"


def test_s3s_refusal_is_found_in_what_is_wrapped_around_it() -> None:
    said = "When reading information for key 'a/b' in bucket 'c': AWS Error SLOW_DOWN during GetObject operation: words"
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = ValueError("middle")
    wrapped.__cause__.__cause__ = OSError(said)
    assert str(object_storage.refusal_in(wrapped)) == "s3://c/a/b: S3 refused GetObject (SlowDown)"
    wrapped.__cause__.__cause__ = OSError("no space left on device")
    assert object_storage.refusal_in(wrapped) is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("ACCESS_DENIED during UploadPart operation: w", "these AWS credentials may not write (s3:PutObject) there"),
        ("INVALID_ACCESS_KEY_ID during PutObject operation: w", "the AWS credentials are wrong (InvalidAccessKeyId)"),
        ("REQUEST_TIME_TOO_SKEWED during GetObject operation: w", "this machine's clock differs too much from S3's"),
        (
            "UNKNOWN (HTTP status 400) during PutObject operation: Unable to parse ExceptionName: InvalidToken M",
            "the AWS credentials are wrong (InvalidToken)",
        ),
        ("UNKNOWN (HTTP status 507) during PutObject operation: w", "S3 refused PutObject (HTTP status 507)"),
    ],
)
def test_what_pyarrow_says_in_words(said: str, words: str) -> None:
    assert object_storage.explain(OSError(f"AWS Error {said}")) == words


def test_another_credentials_file_is_read_in_the_middle(server: Server, bucket: str, key_file: Path) -> None:
    server.key = "first"
    give(key_file, "first")
    files.write_bytes(f"{bucket}/asked", b"here")
    server.key = "second"
    with pytest.raises(OSError, match="AWS Error"):
        files.read_bytes(f"{bucket}/asked")
    give(key_file, "second")
    assert files.read_bytes(f"{bucket}/asked") == b"here"


class _Role(BaseHTTPRequestHandler):
    """Gives credentials as a pod's or a task's role does: another key each time, of which the last is valid."""

    server_of: Server

    def do_GET(self) -> None:
        self.server_of.key = f"{self.server_of.key}+"
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # expired when it comes
        given = {"AccessKeyId": self.server_of.key, "SecretAccessKey": "s", "Token": "t", "Expiration": now}
        content = json.dumps(given).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_a_roles_credentials_are_renewed_by_themselves(
    server: Server, bucket: str, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not key_file.exists()
    role = type("Role", (_Role,), {"server_of": server})
    with ThreadingHTTPServer(("127.0.0.1", 0), role) as given:
        thread = threading.Thread(target=given.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{given.server_address[1]}/role")
        s3_filesystem._s3.cache_clear()  # where there is no file, the client of other tests has found other credentials
        files.write_bytes(f"{bucket}/asked", b"here")
        before = server.key
        assert files.read_bytes(f"{bucket}/asked") == b"here"
        assert server.key.startswith(f"{before}+")
        given.shutdown()
        thread.join()
    s3_filesystem._s3.cache_clear()


def test_another_process_has_our_client(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem, _ = files.open_filesystem(bucket)
    monkeypatch.setattr(s3_filesystem, "SILENCE", 3.5)
    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")
    brought = pickle.loads(pickle.dumps(filesystem))
    assert brought is files.open_filesystem(bucket)[0]  # with attempts, time-outs and credentials of that process
    assert os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"


def test_a_run_whose_credentials_expire_goes_on_with_fresh_ones(
    server: Server, config: TrainConfig, bucket: str, key_file: Path, tmp_path: Path
) -> None:
    data = replace(config.data, held_out_store=None, micro_batch=8)
    straight = replace(config, steps=4, output=f"{bucket}/{tmp_path.name}/straight", data=data)
    remote = replace(straight, output=f"{bucket}/{tmp_path.name}/run")
    server.key = "first"
    give(key_file, "first")
    loop.train(straight, assembly.Rank())
    server.last = "/step-0000004/"
    with pytest.raises(UserError) as refused:
        loop.train(remote, assembly.Rank())
    assert str(refused.value) == (
        f"{remote.output}: a checkpoint could not be written ({EXPIRED}); the last complete one stands"
    )
    give(key_file, "fresh")
    assert checkpoint.complete_steps(remote.output) == [2]
    loop.train(remote, assembly.Rank())
    assert is_finished(remote.output, 4)
    network = [files.join(run.output, checkpoint.name_of(4), "network.safetensors") for run in (straight, remote)]
    assert files.read_bytes(network[0]) == files.read_bytes(network[1])
