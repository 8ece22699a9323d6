"""Runs on an S3 server that fails: a passing fault changes nothing, a lasting one is one sentence and loses nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.faulty_s3 import Fault, faulty
from support.trained_models import train_until_killed

from infra.base import disk_errors, files, s3_filesystem
from infra.base.errors import UserError
from training.checkpoints import checkpoint
from training.checkpoints.mirror import Mirror
from training.checkpoints.run_folder import STEPS, is_finished
from training.run import assembly, loop
from training.settings.config import TrainConfig

pytestmark = pytest.mark.slow


@pytest.fixture
def remote(config: TrainConfig, bucket: str, tmp_path: Path) -> TrainConfig:
    """Return settings of a run of four steps on S3."""
    data = replace(config.data, held_out_store=None, micro_batch=8)
    return replace(config, steps=4, output=f"{bucket}/{tmp_path.name}/run", data=data)


def written(place: str, content: bytes, tmp_path: Path, step: int = 2) -> Mirror:
    """Write a checkpoint of one file on disk, as a run leaves it there for its mirror to send."""
    mirror = Mirror(place, tmp_path / "local")
    folder = checkpoint.begin(mirror.local, step)
    (folder / "network.safetensors").write_bytes(content)
    state = checkpoint.State(step=step, seed=0, global_batch=8, store_hash="s", labels_hash="l")
    checkpoint.mark(folder, state, {"network.safetensors": files.sha256(str(folder / "network.safetensors"))})
    return mirror


def test_an_upload_outlives_refusals_that_pass(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, asked = os.urandom(12 << 20), []  # more than one part

    def fault(method: str, path: str) -> Fault:
        if method in ("PUT", "POST") and "network.safetensors" in path:
            asked.append(path)
            return "SlowDown" if len(asked) in (1, 3) else None
        return None

    mirror = written(f"{bucket}/{tmp_path.name}", content, tmp_path)
    with faulty(os.environ["AWS_ENDPOINT_URL"], fault) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        mirror.send(2, keep=2, best=None)
    monkeypatch.undo()
    assert len(asked) >= 5  # begin, two parts and end, and what was refused again
    assert checkpoint.complete_steps(mirror.place) == [2]
    assert files.read_bytes(files.join(mirror.place, checkpoint.name_of(2), "network.safetensors")) == content


def test_a_body_cut_short_is_fetched_again(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, asked = os.urandom(3 << 20), []

    def fault(method: str, path: str) -> Fault:
        if method == "GET" and "network.safetensors" in path:
            asked.append(path)
            return "cut" if len(asked) == 1 else None
        return None

    mirror = written(f"{bucket}/{tmp_path.name}", content, tmp_path)
    mirror.send(2, keep=2, best=None)
    mirror.forget()
    with faulty(os.environ["AWS_ENDPOINT_URL"], fault) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        mirror.bring(2)
    folder = checkpoint.folder_of(mirror.local, 2)
    assert (folder / "network.safetensors").read_bytes() == content
    assert checkpoint.read_state(folder).step == 2
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["../../../planted", "/planted"])
def test_a_marker_that_names_files_elsewhere_is_refused(bucket: str, tmp_path: Path, name: str) -> None:
    mirror = written(f"{bucket}/{tmp_path.name}", b"weights", tmp_path)
    mirror.send(2, keep=2, best=None)
    folder = checkpoint.folder_of(mirror.local, 2)
    for path in (str(folder), files.join(mirror.place, checkpoint.name_of(2))):
        marker = files.join(path, checkpoint.COMPLETE)
        files.write_json(marker, files.read_json(marker) | {"sha256": {name: "0"}})
    message = rf"step-0000002: names the file '{name}', which may lie outside"
    with pytest.raises(UserError, match=rf"^{folder.parent}/{message}"):
        checkpoint.read_state(folder)
    mirror.forget()
    with pytest.raises(UserError, match=rf"^{mirror.place}/checkpoints/{message}"):
        mirror.bring(2)
    assert not (folder / checkpoint.COMPLETE).exists()


def test_a_lasting_refusal_is_one_sentence_and_the_run_goes_on_from_the_checkpoint_before(
    remote: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(method: str, path: str) -> Fault:
        return "SlowDown" if method in ("PUT", "POST") and "/step-0000004/" in path else None

    with faulty(os.environ["AWS_ENDPOINT_URL"], fault) as url, monkeypatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", url)
        patched.setenv("AWS_MAX_ATTEMPTS", "2")
        with pytest.raises(UserError) as refused:
            loop.train(remote, assembly.Rank())
    message = str(refused.value)
    assert message.startswith(f"{remote.output}: a checkpoint could not be written (")
    assert message.endswith("; the last complete one stands")
    assert "\n" not in message
    assert checkpoint.complete_steps(remote.output) == [2]
    before = files.read_bytes(files.join(remote.output, STEPS)).splitlines()
    loop.train(remote, assembly.Rank())
    assert is_finished(remote.output, 4)
    after = files.read_bytes(files.join(remote.output, STEPS)).splitlines()
    assert after[:2] == before[:2]  # as they were noted then
    again = [(json.loads(one)["loss"], json.loads(two)["loss"]) for one, two in zip(before, after, strict=True)]
    assert all(one == two for one, two in again)


def test_a_server_that_is_down_at_the_start_is_one_sentence(
    remote: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until_killed(remote, 3)
    with faulty(os.environ["AWS_ENDPOINT_URL"], lambda *_: "SlowDown") as url, monkeypatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", url)
        patched.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(UserError, match=rf"^{remote.output}: S3 refused ListMultipartUploads \(SlowDown\)$"):
            loop.train(remote, assembly.Rank())


@pytest.mark.parametrize("fault", ["stall", "stall half-way", "reset", "SlowDown"])
def test_a_fault_that_passes_is_outlived(bucket: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, asked = os.urandom(1 << 16), []

    def once(method: str, path: str) -> Fault:
        asked.append((method, path))
        return fault if len([one for one in asked if one == (method, path)]) == 1 and method == "GET" else None

    files.write_bytes(f"{bucket}/silent", content)
    monkeypatch.setattr(s3_filesystem, "SILENCE", 1.0)
    with faulty(os.environ["AWS_ENDPOINT_URL"], once) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert files.read_bytes(f"{bucket}/silent") == content
    assert [method for method, _ in asked] == ["HEAD", "GET", "GET"]


@pytest.mark.parametrize("fault", ["stall", "reset"])
def test_a_server_that_says_nothing_is_one_sentence_in_the_end(
    bucket: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def always(method: str, _: str) -> Fault:
        asked.append(method)
        return fault

    monkeypatch.setattr(s3_filesystem, "SILENCE", 1.0)
    with faulty(os.environ["AWS_ENDPOINT_URL"], always) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        with pytest.raises(OSError, match="AWS Error") as failed:
            files.write_bytes(f"{bucket}/silent-2", b"content")
        message = f"S3 at {url.removeprefix('http://')} did not answer, or not to the end, however often it was asked"
        assert disk_errors.reason(failed.value) == message
    assert asked == ["POST", "POST"]
    monkeypatch.undo()
    assert not files.exists(f"{bucket}/silent-2")
