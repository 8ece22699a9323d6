"""The trainer's command: the same stream at any world size, a killed worker, a second run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support.forked import Forked
from support.material import MODEL, Submit, notes, wait_for
from support.train_jobs import SCRIPT, begin, driver, steps, train_workers
from support.trained_models import Killed, moved_model

from infra.base import cli, files, models, result_files
from infra.base.errors import UserError
from infra.base.files import ROOT
from infra.base.one_writer import writer_lock
from pipelines.latents import store
from training.backbones.schedule_config import ScheduleConfig
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import RESULT
from training.method.policy_config import PolicyConfig
from training.run import assembly, loop
from training.run.train_dpo import _refuse_fewer_steps, _refuse_other_settings, main
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS


@pytest.mark.slow
def test_one_and_two_workers_see_the_same_stream(one_process: Path, two_workers: Path) -> None:
    one, two = notes(one_process), notes(two_workers)
    assert [row["stream"] for row in one] == [row["stream"] for row in two]
    assert len({str(row["stream"]) for row in one}) == 24
    # Losses agree within rounding, which grows with the steps.
    assert [row["loss"] for row in one[:3]] == pytest.approx([row["loss"] for row in two[:3]], abs=1e-4)


@pytest.mark.long  # the test above compares two workers of the cluster with one process
def test_one_process_trains_as_one_worker_of_ray_to_the_last_bit(one_process: Path, one_worker: Path) -> None:
    for name in ("step", "loss", "stream", "gradient_norm", "learning_rate"):
        assert [row[name] for row in notes(one_process)] == [row[name] for row in notes(one_worker)]
    weights = f"{RESULT}/unet/diffusion_pytorch_model.safetensors"
    assert (one_process / weights).read_bytes() == (one_worker / weights).read_bytes()


@pytest.mark.slow
def test_sigterm_ends_a_training_of_one_process_after_a_checkpoint_and_the_same_command_goes_on(
    training_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    flags = [*training_flags, "--steps", "4", "--output", str(output)]
    job = Forked(SCRIPT, flags, tmp_path / "printed", os.environ)
    wait_for(lambda: steps(output) >= 1, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 143
    assert job.stdout.startswith("engine: this process, as no cluster is named and one copy is enough\n")
    (kept,) = checkpoint.complete_steps(str(output))
    assert f"{output}: stopped on request after step {kept}; the same command goes on from there" in job.stderr
    cli.run(main, TrainConfig, PRESETS, flags, runs_jobs=True)
    last = capsys.readouterr().out
    assert last.splitlines()[-1].startswith(f"{output}/result: the result, ")
    assert last.endswith(f" bytes; next: python pipelines/generate.py --model {output}/result --prompts FILE\n")
    assert [row["step"] for row in notes(output)] == [1, 2, 3, 4]
    assert not (output / "refusal.json").exists()


def first_rank(output: Path) -> int | None:
    """Find the worker of rank 0, which alone writes checkpoints, by the steps that it alone tells; None before."""
    told = re.findall(r"RayTrainWorker pid=(\d+)\)\S* step \d", output.with_suffix(".log").read_text())
    return int(told[-1]) if told else None


def caught_writing(worker: int, output: Path) -> bool:
    """Stop the worker of rank 0 where it has begun a checkpoint that is not complete; else leave it running."""
    folder = max((output / checkpoint.CHECKPOINTS).glob("*"), default=None)
    if folder is None or (folder / checkpoint.COMPLETE).exists():
        return False
    os.kill(worker, signal.SIGSTOP)
    if not (folder / checkpoint.COMPLETE).exists():
        return True
    os.kill(worker, signal.SIGCONT)  # a little late: the next one
    return False


@pytest.mark.chaos
@pytest.mark.long  # tests/faults/test_train_faults.py has a kill in another step, beside one of the driver
@pytest.mark.parametrize(
    "moment",
    ["in the last step of an epoch", "in the first step of the next", "in a checkpoint"],
)
def test_sigkill_of_a_worker_changes_no_loss(
    moment: str,
    two_workers: Path,
    encoded_store: Path,
    training_flags: list[str],
    ray_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    output = tmp_path / "killed"
    epoch = store.read_manifest(str(encoded_store)).counts.kept // 16
    assert epoch < 24
    noted = {"in the last step of an epoch": epoch - 1, "in the first step of the next": epoch, "in a checkpoint": 8}
    said_by = {"RAY_DISABLE_WORKER_LOG_PREFIX": "0"}  # first_rank reads which worker a line is of
    job = begin([*training_flags, "--workers", "2"], output, ray_environment, **said_by)
    wait_for(lambda: steps(output) >= noted[moment], job)
    before = train_workers(ray_environment)
    assert len(before) == 2
    victim = max(before)
    if moment == "in a checkpoint":
        wait_for(lambda: first_rank(output) in before, job)
        (victim,) = before & {first_rank(output)}
        wait_for(lambda: caught_writing(victim, output), job)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: len(train_workers(ray_environment) - before) == 2, job)  # a new group goes on
    assert job.wait(timeout=300) == 0
    for name in ("step", "loss", "stream", "gradient_norm"):
        assert [row[name] for row in notes(output)] == [row[name] for row in notes(two_workers)]


@pytest.mark.long  # tests/faults/test_train_faults.py has a lost worker and a lost driver
def test_elastic_workers_outlive_a_sigkill_and_a_stopped_driver_leaves_a_checkpoint(
    two_workers: Path, training_flags: list[str], drive: Submit, ray_environment: dict[str, str], tmp_path: Path
) -> None:
    output, log = tmp_path / "elastic", tmp_path / "log"
    elastic = [*training_flags, "--workers", "2", "--min-workers", "1", "--output", str(output), "--steps"]
    with log.open("w") as out:
        job = subprocess.Popen(
            ["ray", "job", "submit", "--", "python", SCRIPT, *elastic, "10000"],
            cwd=ROOT,
            env=ray_environment,
            stdout=out,
            stderr=out,
        )
        metrics = output / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 8, job)
        before = train_workers(ray_environment)
        os.kill(max(before), signal.SIGKILL)
        wait_for(lambda: bool(train_workers(ray_environment) - before), job)  # a new group, of one or two
        killed_at = len(notes(output))
        wait_for(lambda: len(metrics.read_text().splitlines()) > killed_at, job)  # is past where it was
        os.kill(driver(output), signal.SIGTERM)
        assert job.wait(timeout=300) != 0
    step = len(notes(output))
    assert f"stopped on request after step {step}; the same command goes on from there" in log.read_text()
    assert checkpoint.complete(output)[-1] == checkpoint.folder_of(output, step)
    drive(SCRIPT, *elastic, str(step + 1))
    streams = [[row["stream"] for row in notes(path)] for path in (output, two_workers)]
    assert len(streams[0]) == step + 1
    assert all(one == other for one, other in zip(*streams, strict=False))


def test_fewer_steps_than_a_finished_run_took_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_files, "read_facts", lambda _: {"train": {"steps": 15}})
    _refuse_fewer_steps("run", 15)
    with pytest.raises(UserError, match="--steps 6: this run has already taken 15; give another --output"):
        _refuse_fewer_steps("run", 6)


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_other_settings_are_refused(
    one_process: Path, training_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    again = [*training_flags, "--workers", "2", "--output", str(one_process)]
    cli.run(main, TrainConfig, PRESETS, again)
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.run(main, TrainConfig, PRESETS, [*again, "--beta", "7"])
    assert "beta was 500.0, now 7.0" in capsys.readouterr().err


@pytest.mark.chaos
def test_a_second_job_on_the_same_run_is_refused(config: TrainConfig) -> None:
    with writer_lock(config.output), pytest.raises(UserError, match="another job is writing here"):
        main(config)
    assert [path.name for path in Path(config.output).iterdir()] == [".lock"]  # nothing was touched


def in_this_process(config: TrainConfig, _: str) -> None:
    loop.train(config, assembly.Rank())


@pytest.mark.chaos
def test_a_run_goes_on_only_with_the_models_that_it_began_with(config: TrainConfig, tmp_path: Path) -> None:
    folder = Path(moved_model(tmp_path / "model", 0, config.model))
    begun = replace(config, model=str(folder))

    def killed(_: TrainConfig, __: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        main(begun, killed)
    path = folder / "scheduler" / "scheduler_config.json"
    settings = path.read_text()
    path.write_text(settings.replace('"beta_end": 0.012', '"beta_end": 0.02'))
    with pytest.raises(UserError, match=rf"--model {folder}: its scheduler changed since .* was begun; put it back"):
        main(begun, killed)
    path.write_text(settings)
    moved_model(tmp_path / "other", 1e-3, config.model)
    shutil.copytree(tmp_path / "other" / "unet", folder / "unet", dirs_exist_ok=True)
    with pytest.raises(UserError, match=rf"--model {folder}: its unet changed since"):
        main(begun, killed)


def test_settings_of_a_run_that_was_refused_before_its_first_step_are_forgotten(config: TrainConfig) -> None:
    def refused(_: TrainConfig, __: str) -> None:
        raise UserError("no Ray cluster answers there")

    other = replace(config, seed=1)
    for mistaken in (config, config):
        with pytest.raises(UserError, match="no Ray cluster"):
            main(mistaken, refused)
    with pytest.raises(UserError, match="no Ray cluster"):  # not "begun with other settings (seed was 0, now 1)"
        main(other, refused)
    assert [path.name for path in Path(config.output).iterdir()] == [".lock"]


def everything(output: str) -> dict[str, int]:
    """Return the size of each file of a run that a refusal must not change."""
    found = files.stamps(output)
    free = (".lock", "config.json", "tensorboard/")
    return {name: size for name, size, _ in found if not name.startswith(free)}


@pytest.mark.slow
@pytest.mark.chaos
def test_a_refused_resume_from_loses_nothing_and_an_accepted_one_repeats_the_run(config: TrainConfig) -> None:
    config = replace(config, keep_checkpoints=9, data=replace(config.data, held_out_store=None))
    main(config, in_this_process)
    before = everything(config.output)
    losses = [row["loss"] for row in notes(config.output)]
    again = replace(config, resume_from=2)

    def no_cluster(_: TrainConfig, __: str) -> None:
        raise UserError("no Ray cluster answers there")

    with pytest.raises(UserError, match="no Ray cluster answers there"):
        main(again, no_cluster)
    assert everything(config.output) == before | {checkpoint.REWIND: len('{\n  "step": 2\n}\n')}
    tensors = checkpoint.folder_of(Path(config.output), 2) / "network.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="altered since it was written"):
        main(again, in_this_process)
    assert before.items() <= everything(config.output).items()
    tensors.write_bytes(whole)
    marker = tensors.parent / checkpoint.COMPLETE
    other = marker.read_text().replace('"seed": 0', '"seed": 1')
    right = marker.read_text()
    marker.write_text(other)
    with pytest.raises(UserError, match="holds another run"):  # what a worker refuses
        main(again, in_this_process)
    assert before.items() <= everything(config.output).items()
    marker.write_text(right)
    main(config, no_cluster)  # without --resume-from the run is as finished as before
    main(again, in_this_process)
    assert [row["loss"] for row in notes(config.output)] == losses
    assert everything(config.output).keys() == before.keys()


@pytest.mark.chaos
@pytest.mark.parametrize("noted", ["stores.json", "facts.json", "nothing"])
def test_a_run_goes_on_with_its_store_wherever_that_lies(config: TrainConfig, copied_store: Path, noted: str) -> None:
    output = Path(config.output)
    cli.save_config(config.output, config)
    content = store.read_manifest(str(copied_store)).content_hash
    if noted == "stores.json":
        files.write_json(str(output / "stores.json"), {"store": content})
    elif noted == "facts.json":
        files.write_json(str(output / "result" / "facts.json"), {"store_hash": content})

    def spelled(path: str) -> TrainConfig:
        return replace(config, data=replace(config.data, store=path))

    _refuse_other_settings(output, spelled(f"{config.data.store}/"))
    if noted == "nothing":  # nobody knows what the store was
        with pytest.raises(UserError, match="store was "):
            _refuse_other_settings(output, spelled(str(copied_store)))
        return
    moved = output.parent / "elsewhere"
    output.rename(moved)
    _refuse_other_settings(moved, spelled(str(copied_store)))
    manifest = files.read_json(str(copied_store / "manifest.json"))
    files.write_json(str(copied_store / "manifest.json"), manifest | {"content_hash": "of other pairs"})
    with pytest.raises(UserError, match="store was "):
        _refuse_other_settings(moved, spelled(str(copied_store)))


def test_a_run_goes_on_with_its_own_settings_and_with_flags_that_are_newer_than_it(tmp_path: Path) -> None:
    turbo = replace(PRESETS["sdxl-turbo"], output=str(tmp_path))
    cli.save_config(str(tmp_path), turbo)
    _refuse_other_settings(tmp_path, turbo)
    with pytest.raises(UserError, match=r"timesteps was \[249, 499, 749\], now \[249\]"):
        _refuse_other_settings(tmp_path, replace(turbo, schedule=replace(turbo.schedule, timesteps=(249,))))
    before = files.read_json(str(tmp_path / "config.json"))
    del before["schedule"]  # begun before there were such flags, when all timesteps were drawn
    files.write_json(str(tmp_path / "config.json"), before)
    _refuse_other_settings(tmp_path, replace(turbo, schedule=ScheduleConfig()))
    with pytest.raises(UserError, match="zero_terminal_snr was False, now True"):
        _refuse_other_settings(tmp_path, turbo)


def test_a_resumed_run_keeps_the_commits_it_began_with(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[TrainConfig] = []

    def launch(pinned: TrainConfig, _: Path) -> None:
        launched.append(pinned)
        raise Killed

    monkeypatch.setattr("training.run.alone.launch", launch)
    config = replace(config, policy=PolicyConfig(lora_rank=2, lora_targets=("to_q", "to_k")))
    for newest in ("1111", "2222"):
        pinned = lambda model, newest=newest: models.Model(str(MODEL), model.revision or newest)  # noqa: E731
        monkeypatch.setattr(models.Model, "pinned", pinned)
        with pytest.raises(Killed):
            main(config)
    assert [one.revision for one in launched] == ["1111", "1111"]
    with pytest.raises(UserError, match=r"lora_targets was \['to_q', 'to_k'\], now \['to_q'\]"):
        main(replace(config, policy=PolicyConfig(lora_rank=2, lora_targets=("to_q",))))
