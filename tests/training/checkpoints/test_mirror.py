"""Run folders on S3: a machine that has nothing of an interrupted run goes on with it exactly."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load
from support.material import notes
from support.preloaded import run_ranks
from support.s3_runs import contents, losses
from support.short_runs import short_run
from support.trained_models import Killed, train_until_killed

from infra.base import files, models, termination
from infra.base.errors import UserError
from infra.base.result_files import FACTS
from training.checkpoints import checkpoint
from training.checkpoints.mirror import Mirror, open_mirror
from training.checkpoints.run_folder import ASSESSMENTS, RESULT, STEPS, is_finished
from training.layout.sharding_config import ShardingConfig
from training.method.policy_config import PolicyConfig
from training.run import assembly, loop, stopping, train_dpo
from training.settings.config import TrainConfig


def at_once(config: TrainConfig) -> TrainConfig:
    """Return settings of a run that takes a step in one pass, and looks at no held-out pairs."""
    return replace(config, data=replace(config.data, held_out_store=None, micro_batch=8))


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    return at_once(config)


@pytest.fixture(scope="module")
def finished(
    small_world: str, encoded_store: Path, held_out_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainConfig:
    """Return the settings of such a run on disk, which is finished."""
    settings = at_once(short_run(small_world, encoded_store, held_out_store, tmp_path_factory.mktemp("finished")))
    loop.train(settings, assembly.Rank())
    return settings


@pytest.fixture
def straight(config: TrainConfig) -> TrainConfig:
    """Return settings of a run on disk."""
    return config


@pytest.fixture
def remote(config: TrainConfig, bucket: str, tmp_path: Path) -> TrainConfig:
    """Return settings of the same run on S3."""
    return replace(config, output=f"{bucket}/{tmp_path.name}/run")


def elsewhere(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """Return the settings of a run for a machine that has nothing of it."""
    return replace(config, data=replace(config.data, cache=str(tmp_path / "another-machine")))


@pytest.mark.slow
def test_a_run_goes_on_from_s3_with_an_empty_disk_bit_for_bit(
    finished: TrainConfig, remote: TrainConfig, tmp_path: Path
) -> None:
    train_until_killed(remote, 5)
    assert checkpoint.complete_steps(remote.output) == [2, 4]
    assert [row["step"] for row in notes(remote.output)][:4] == [1, 2, 3, 4]
    assert not is_finished(remote.output, 6)
    second = elsewhere(remote, tmp_path)
    loop.train(second, assembly.Rank())
    assert losses(notes(remote.output)) == losses(notes(finished.output))
    assert [row["step"] for row in notes(remote.output)] == [1, 2, 3, 4, 5, 6]
    assert notes(remote.output, ASSESSMENTS) == notes(finished.output, ASSESSMENTS)
    assert checkpoint.complete_steps(remote.output) == [4, 6]
    network = [files.join(run.output, checkpoint.name_of(6), "network.safetensors") for run in (remote, finished)]
    assert files.read_bytes(network[0]) == files.read_bytes(network[1])
    mirror = open_mirror(second)
    assert mirror is not None
    assert not mirror.local.exists()  # a finished run leaves nothing on the machine


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_the_result_on_s3_is_that_of_a_run_on_disk(straight: TrainConfig, remote: TrainConfig, rank: int) -> None:
    straight, remote = (replace(run, steps=2, policy=PolicyConfig(lora_rank=rank)) for run in (straight, remote))
    loop.train(straight, assembly.Rank())
    loop.train(remote, assembly.Rank())
    assert is_finished(remote.output, 2)
    assert not is_finished(remote.output, 3)
    disk, s3 = (contents(files.join(run.output, RESULT)) for run in (straight, remote))
    assert disk.keys() == s3.keys()
    facts = json.loads(disk.pop(FACTS)), json.loads(s3.pop(FACTS))
    assert [fact["config"].pop("output") for fact in facts] == [straight.output, remote.output]
    assert [fact.pop("train")["steps"] for fact in facts] == [2, 2]  # and how fast they were taken
    assert [fact.pop("files").keys() for fact in facts] == [disk.keys(), s3.keys()]  # the card names the output
    assert facts[0] == facts[1]
    told = disk.pop("README.md").decode().replace(straight.output, remote.output)
    assert told == s3.pop("README.md").decode()
    if rank:
        opened = models.adapters_folder("--lora", files.join(remote.output, RESULT))
        assert (opened / models.ADAPTERS).read_bytes() == s3[models.ADAPTERS]
        # Not by their bytes: safetensors writes the two entries of a header's metadata in any order.
        here, there = (load(found.pop(models.ADAPTERS)) for found in (disk, s3))
        assert here.keys() == there.keys()
        assert all(torch.equal(here[name], there[name]) for name in here)
    else:
        assert "unet/diffusion_pytorch_model.safetensors" in disk
    assert disk == s3


@pytest.mark.slow
def test_a_torn_checkpoint_on_s3_is_not_taken_and_is_swept(finished: TrainConfig, remote: TrainConfig) -> None:
    train_until_killed(remote, 5)
    torn = files.join(remote.output, checkpoint.name_of(4))
    files.remove(files.join(torn, checkpoint.COMPLETE))
    files.remove(files.join(torn, "optimizer.safetensors"))
    files.write_bytes(files.join(torn, "left.bin"), b"of the torn one")
    files.write_bytes(files.join(remote.output, checkpoint.name_of(3), "left.bin"), b"of another")
    assert checkpoint.complete_steps(remote.output) == [2]
    loop.train(remote, assembly.Rank())  # on the machine whose disk still holds step 4, complete
    assert losses(notes(remote.output)) == losses(notes(finished.output))
    assert not [path for path in files.list_files(remote.output) if path.endswith("left.bin")]
    assert checkpoint.complete_steps(remote.output) == [4, 6]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["altered", "missing"])
def test_a_checkpoint_that_is_not_what_its_marker_says_is_refused(
    remote: TrainConfig, tmp_path: Path, what: str
) -> None:
    train_until_killed(remote, 3)
    path = files.join(remote.output, checkpoint.name_of(2), "network.safetensors")
    content = files.read_bytes(path)
    files.remove(path)
    if what == "altered":
        files.write_bytes(path, content[:-1] + b"?")
    with pytest.raises(UserError, match=rf"^s3://.*/step-0000002/network\.safetensors: {what}.*; delete s3://"):
        loop.train(elsewhere(remote, tmp_path), assembly.Rank())


def test_the_marker_is_sent_last_and_deleted_first(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, told = Mirror(f"{bucket}/{tmp_path.name}", tmp_path / "local"), []
    copy, remove = files.copy, files.remove

    def spied_copy(source: str, target: str) -> str:
        told.append(("send", target))
        return copy(source, target)

    def spied_remove(path: str, below: str | None = None) -> None:
        told.append(("delete", path))
        remove(path, below)

    monkeypatch.setattr(files, "copy", spied_copy)
    monkeypatch.setattr(files, "remove", spied_remove)
    for step in (2, 4):
        folder = checkpoint.begin(mirror.local, step)
        (folder / "network.safetensors").write_bytes(b"weights")
        state = checkpoint.State(step=step, seed=0, global_batch=8, store_hash="s", labels_hash="l")
        hashes = {"network.safetensors": files.sha256(str(folder / "network.safetensors"))}
        checkpoint.mark(folder, state, hashes)
        mirror.send(step, keep=1, best=None)
    for step in (2, 4):
        place = files.join(mirror.place, checkpoint.name_of(step))
        sent = [path for what, path in told if what == "send" and path.startswith(place)]
        assert sent == [f"{place}/network.safetensors", f"{place}/{checkpoint.COMPLETE}"]
    mirror.send(4, keep=1, best=None)  # makes room first: step 2 is neither the latest nor the best
    place = files.join(mirror.place, checkpoint.name_of(2))
    deleted = [path for what, path in told if what == "delete" and path.startswith(mirror.place)]
    assert deleted == [f"{place}/{checkpoint.COMPLETE}", place]
    assert checkpoint.complete_steps(mirror.place) == [4]
    (folder / "network.safetensors").write_bytes(b"others")
    with pytest.raises(OSError, match="altered since it was written"):
        mirror.send(4, keep=1, best=None)


@pytest.mark.slow
def test_the_command_finds_on_s3_what_it_finds_on_disk(
    remote: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(config: TrainConfig, _: str) -> None:
        loop.train(config, assembly.Rank())

    monkeypatch.setattr("training.run.alone.launch", launch)
    train_dpo.main(remote)
    assert files.read_json(files.join(remote.output, "config.json"))["steps"] == 6
    train_dpo.main(elsewhere(remote, tmp_path))
    said = capsys.readouterr().out
    assert f"{remote.output}: already finished, nothing to do\n{remote.output}/result: the result, " in said
    with pytest.raises(UserError, match="seed was 0, now 1"):
        train_dpo.main(replace(remote, seed=1))
    with pytest.raises(UserError, match=r"--resume-from 3: .* has complete checkpoints of steps \[4, 6\]"):
        train_dpo.main(replace(remote, resume_from=3))
    before = losses(notes(remote.output))
    monkeypatch.setattr("training.run.alone.launch", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        train_dpo.main(replace(remote, resume_from=4))
    assert checkpoint.complete_steps(remote.output) == [4, 6]  # nothing goes before a worker has read step 4
    assert is_finished(remote.output, 6)
    monkeypatch.setattr("training.run.alone.launch", launch)
    train_dpo.main(replace(remote, resume_from=4))
    assert losses(notes(remote.output)) == before
    left = {path.removeprefix(f"{remote.output}/").split("/")[0] for path in files.list_files(remote.output)}
    about = {".lock", "config.json", "identities.json", "revisions.json", "run.json", "stores.json"}
    assert left == {*about, STEPS, ASSESSMENTS, "checkpoints", "tensorboard", RESULT}


@pytest.mark.slow
def test_a_note_of_the_driver_on_s3_ends_the_run_after_a_step(
    remote: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "LOOK_EVERY", 0.01)

    def term(metrics: dict[str, object]) -> None:
        if metrics["step"] == 1:
            with stopping.passing_on(remote.output):
                os.kill(os.getpid(), signal.SIGTERM)
            assert termination._asked.wait(60)

    with pytest.raises(stopping.Stopped, match="after step 1"):
        loop.train(remote, assembly.Rank(on_step=term))
    assert checkpoint.complete_steps(remote.output) == [1]


@pytest.mark.slow
def test_a_look_for_the_note_that_s3_does_not_answer_holds_up_no_step(
    remote: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, answer, told = threading.Event(), threading.Event(), threading.Event()

    def look(_: str) -> bool:
        asked.set()
        assert answer.wait(60)
        told.set()
        raise UserError("S3 was silent")

    def at_step(metrics: dict[str, object]) -> None:
        if metrics["step"] == 3:
            assert asked.is_set()  # and is not answered before the third step is taken
            answer.set()
            assert told.wait(60)

    monkeypatch.setattr(stopping, "asked_by_driver", look)
    monkeypatch.setattr(stopping, "LOOK_EVERY", 0.01)  # so there are several looks
    loop.train(remote, assembly.Rank(on_step=at_step))
    assert is_finished(remote.output, 6)
    assert capsys.readouterr().err.count("S3 was silent; nobody can ask this run to stop") == 1


def two_ranks(rank: int, runs: list[TrainConfig], meeting: str) -> None:
    """Take part in runs as one of two ranks, whose caches are disks of their own where a run says so."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for one in runs:
        cache = str(one.data.cache).format(rank=rank)
        loop.train(replace(one, data=replace(one.data, cache=cache)), assembly.Rank(rank=rank, world_size=2))
    dist.destroy_process_group()


@pytest.mark.long  # the test of shards below has two machines too, with kills and a failing disk
def test_two_machines_go_on_with_what_two_ranks_of_one_began(
    straight: TrainConfig, remote: TrainConfig, tmp_path: Path
) -> None:
    straight, remote = (replace(run, data=replace(run.data, micro_batch=4)) for run in (straight, remote))
    apart = replace(remote.data, cache=str(tmp_path / "machine-{rank}"))
    runs = [straight, replace(remote, steps=4), replace(remote, data=apart)]
    run_ranks(two_ranks, runs, f"file://{tmp_path / 'meeting'}")
    assert losses(notes(remote.output)) == losses(notes(straight.output))
    assert is_finished(remote.output, 6)
    assert not list(tmp_path.glob("machine-*/run-*"))


def two_machines(rank: int, run: TrainConfig, meeting: str) -> None:
    """Write shards from two disks to S3: killed twice, once with a disk that cannot be read; then to the end."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    run = replace(run, data=replace(run.data, cache=str(run.data.cache).format(rank=rank)))
    mirror = open_mirror(run)
    assert mirror is not None

    def after(last: int) -> assembly.Rank:
        def die(metrics: dict[str, object]) -> None:
            if metrics["step"] == last:
                raise Killed

        return assembly.Rank(rank=rank, world_size=2, on_step=die)

    with pytest.raises(Killed):
        loop.train(run, after(3))
    here = {path.name for path in (mirror.local / checkpoint.name_of(2) / "shards").glob("*")}
    assert len(here) == (rank == 0)  # what S3 has whole stays only where rank 0 sweeps
    send = Mirror._send_file
    if rank == 1:
        Mirror._send_file = no_route  # type: ignore[assignment, method-assign]
    with pytest.raises(UserError, match=r"a checkpoint could not be written \(rank 1: .*no route"):
        loop.train(run, assembly.Rank(rank=rank, world_size=2))
    Mirror._send_file = send  # type: ignore[method-assign]
    assert checkpoint.complete_steps(run.output) == [2]
    loop.train(run, assembly.Rank(rank=rank, world_size=2))
    assert not mirror.local.exists()
    dist.destroy_process_group()


def no_route(*_: object) -> str:
    raise OSError(113, "no route to host")


@pytest.mark.slow
def test_shards_of_two_machines_go_on_from_s3_bit_for_bit(
    straight: TrainConfig, remote: TrainConfig, tmp_path: Path
) -> None:
    data, shards = replace(straight.data, micro_batch=4), ShardingConfig(sharding="fsdp")
    rate = replace(straight.optimizer, optimizer="adafactor")
    straight, remote = (replace(run, data=data, sharding=shards, optimizer=rate) for run in (straight, remote))
    run_ranks(two_ranks, [straight], f"file://{tmp_path / 'meeting'}")
    apart = replace(remote, data=replace(remote.data, cache=str(tmp_path / "machine-{rank}")))
    run_ranks(two_machines, apart, f"file://{tmp_path / 'another'}")
    assert losses(notes(remote.output)) == losses(notes(straight.output))
    assert checkpoint.complete_steps(remote.output) == [4, 6]
    for step in (4, 6):
        place = files.join(remote.output, checkpoint.name_of(step))
        marked = files.read_json(files.join(place, checkpoint.COMPLETE))["sha256"]
        assert {name: files.sha256(files.join(place, name)) for name in marked} == marked
        assert len(marked) == 2
    disk, s3 = (contents(files.join(run.output, RESULT)) for run in (straight, remote))
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert disk[weights] == s3[weights]
