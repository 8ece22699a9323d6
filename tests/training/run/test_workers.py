"""A worker's refusal reaches the user as its sentence, where the run folder takes no file too; no Ray cluster here."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from ray.train import WorkerGroupError
from ray.train.torch import TorchTrainer
from support.faulty_s3 import Fault, faulty

from infra.base import files, termination
from infra.base.errors import UserError
from training.run import entry, one_worker, stopping, workers
from training.settings.config import TrainConfig

SENTENCE = "s3://dpo-test/run: a checkpoint could not be written (SlowDown); the last complete one stands"


@pytest.fixture
def remote(bucket: str, tmp_path: Path) -> TrainConfig:
    return TrainConfig(output=f"{bucket}/{tmp_path.name}")


@pytest.fixture
def failing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that has S3 refuse the methods it is given from then on, with one attempt to each request."""
    refused: set[str] = set()

    def fault(method: str, path: str) -> Fault:
        return "SlowDown" if method in refused and path.startswith(bucket.removeprefix("s3:/")) else None

    with faulty(os.environ["AWS_ENDPOINT_URL"], fault) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield lambda *methods: refused.update(methods)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stand in for the loop, in a worker that is alone; it refuses."""
    context = Mock(**{"get_world_rank.return_value": 0, "get_world_size.return_value": 1})
    monkeypatch.setattr(one_worker.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(one_worker.ray.train.torch, "get_device", lambda: torch.device("cpu"))
    train = Mock(side_effect=UserError(SENTENCE))
    monkeypatch.setattr(one_worker, "train", train)
    return train


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stand in for Ray Train's fit, and for the cluster."""
    fit = Mock()
    monkeypatch.setattr(workers.ray_cluster, "connect", Mock())
    monkeypatch.setattr(workers.ray_cluster, "device_count", lambda: 0)
    monkeypatch.setattr(workers, "_check_room", Mock())
    monkeypatch.setattr(workers, "_trainer", Mock(return_value=Mock(fit=fit)))
    return fit


def callbacks(trainer: Any) -> list[str]:
    """Name what Ray Train would run beside a trainer's workers."""
    return [type(one).__name__ for one in trainer._create_default_callbacks()]


def lost(error: Exception) -> WorkerGroupError:
    return WorkerGroupError("a traceback\nof many lines", {1: error})


def test_a_refusal_is_left_and_the_next_attempt_returns_at_once(remote: TrainConfig, loop: Mock) -> None:
    with pytest.raises(UserError, match="the last complete one stands"):
        one_worker.run_worker({"config": remote})
    assert files.read_json(files.join(remote.output, workers.REFUSAL)) == {"sentence": SENTENCE}
    one_worker.run_worker({"config": remote})
    loop.assert_called_once()


@pytest.mark.usefixtures("loop")
def test_a_refusal_that_s3_does_not_take_is_raised_and_told(
    remote: TrainConfig, failing: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing("PUT", "POST")
    with pytest.raises(UserError) as refused:
        one_worker.run_worker({"config": remote})
    assert str(refused.value) == SENTENCE
    told = capsys.readouterr().err
    assert told.startswith(f"{remote.output}/{workers.REFUSAL}: could not be written (")
    assert told.count("\n") == 1


@pytest.mark.usefixtures("loop")
def test_a_refusal_that_the_disk_does_not_take_is_raised_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("a file, in which no file can be")
    with pytest.raises(UserError, match="the last complete one stands"):
        one_worker.run_worker({"config": TrainConfig(output=str(tmp_path / "run"))})
    assert f"{workers.REFUSAL}: could not be written (" in capsys.readouterr().err


def test_a_worker_that_starts_while_s3_is_down_says_so_in_one_sentence(
    remote: TrainConfig, loop: Mock, failing: Callable[..., None]
) -> None:
    failing("GET", "HEAD")
    with pytest.raises(UserError, match=rf"^{remote.output}/{workers.REFUSAL}: cannot be reached \(.*\)$"):
        one_worker.run_worker({"config": remote})
    loop.assert_not_called()


def test_the_driver_tells_the_note_a_worker_left(remote: TrainConfig, fit: Mock) -> None:
    def refuse() -> None:
        files.write_json(files.join(remote.output, workers.REFUSAL), {"sentence": SENTENCE})
        raise lost(RuntimeError("of another rank"))

    fit.side_effect = refuse
    with pytest.raises(UserError) as refused:
        workers.launch(remote, remote.output)
    assert str(refused.value) == SENTENCE


@pytest.mark.parametrize("methods", [(), ("GET", "HEAD", "PUT", "POST")])
def test_the_driver_tells_the_sentence_of_a_worker_that_could_leave_none(
    remote: TrainConfig, fit: Mock, failing: Callable[..., None], methods: tuple[str, ...]
) -> None:
    def refuse() -> None:
        failing(*methods)
        raise lost(UserError(SENTENCE))

    fit.side_effect = refuse
    with pytest.raises(UserError) as refused:
        workers.launch(remote, remote.output)
    assert str(refused.value) == SENTENCE


@pytest.mark.parametrize(("methods", "told"), [(("GET", "HEAD"), "cannot be reached"), (("GET",), "cannot be read")])
def test_a_note_that_the_driver_cannot_read_is_one_sentence(
    remote: TrainConfig, fit: Mock, failing: Callable[..., None], methods: tuple[str, ...], told: str
) -> None:
    def refuse() -> None:
        files.write_json(files.join(remote.output, workers.REFUSAL), {"sentence": SENTENCE})
        failing(*methods)
        raise lost(RuntimeError("a lost worker"))

    fit.side_effect = refuse
    with pytest.raises(UserError, match=rf"^{remote.output}/{workers.REFUSAL}: {told} \(.*\)$"):
        workers.launch(remote, remote.output)


def test_a_failure_that_is_no_refusal_stays_what_it_is(remote: TrainConfig, fit: Mock) -> None:
    failure = lost(RuntimeError("a bug"))
    fit.side_effect = failure
    with pytest.raises(WorkerGroupError) as raised:
        workers.launch(remote, remote.output)
    assert raised.value is failure


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("keys")
def test_a_request_that_s3_does_not_pass_on_is_told_and_the_driver_goes_on(
    sent: signal.Signals, remote: TrainConfig, failing: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing("PUT", "POST")
    with stopping.passing_on(remote.output):
        os.kill(os.getpid(), sent)
    told = capsys.readouterr().err
    assert told.startswith(f"{remote.output}/{stopping.STOP}: the request could not be passed on to the workers (")
    assert told.endswith(f"; send SIGTERM to process {os.getpid()}\n")  # a second Ctrl-C would lose steps
    assert told.count("\n") == 1
    assert not stopping.asked_by_driver(remote.output)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("keys")
def test_a_request_to_the_driver_ends_the_run_with_a_sentence(
    sent: signal.Signals, fit: Mock, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The workers see the driver's note and end; no step was taken here."""
    output = str(tmp_path / "run")
    fit.side_effect = lambda: signal.raise_signal(sent)
    with pytest.raises(SystemExit) as ended:
        workers.launch(TrainConfig(output=output), output)
    assert ended.value.code == termination.EXIT == 143
    key = "stopping after the work in hand; Ctrl-C again ends at once\n" if sent == signal.SIGINT else ""
    assert capfd.readouterr().err == f"{key}{output}: {stopping.Stopped(0)}\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("keys")
def test_a_second_ctrl_c_ends_the_driver_at_once(fit: Mock, tmp_path: Path) -> None:
    """Also where Ray puts the handler back that it met before the first, as its DeferSigint does."""
    output = str(tmp_path / "run")

    def twice() -> None:
        met = signal.getsignal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, met)
        signal.raise_signal(signal.SIGINT)

    fit.side_effect = twice
    with pytest.raises(KeyboardInterrupt):
        workers.launch(TrainConfig(output=output), output)


def test_ray_train_takes_no_key_itself() -> None:
    """Its handler would end this process with code 0, as if the training were done."""
    assert hasattr(TorchTrainer, "_register_sigint_handler")  # else another function takes keys for Ray
    before = signal.getsignal(signal.SIGINT)
    workers._Trainer(lambda: None)._register_sigint_handler(Mock())
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_cluster_that_ends_leaves_a_sentence_and_the_code(is_asked: bool, tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    if is_asked:
        files.write_json(files.join(output, stopping.STOP), {})
    lost = f"error: {output}: Ray's own process on this machine ended, perhaps killed for want of memory; the same"
    told, code = workers._left(output)
    assert told.startswith(f"{output}: stopped on request after step 0" if is_asked else lost)
    assert code == (143 if is_asked else 2)


def test_an_error_that_would_come_again_ends_the_run_at_once(tmp_path: Path, loop: Mock) -> None:
    config = TrainConfig(output=str(tmp_path / "run"))
    loop.side_effect = NotImplementedError("Cannot copy out of meta tensor; no data!")
    with pytest.raises(UserError, match=r"^a worker: NotImplementedError: Cannot copy out of meta tensor.*come again"):
        one_worker.run_worker({"config": config})
    assert "Cannot copy out of meta" in files.read_json(files.join(config.output, workers.REFUSAL))["sentence"]
    one_worker.run_worker({"config": config})  # Ray Train's next attempt
    loop.assert_called_once()


@pytest.mark.parametrize("error", [RuntimeError("[gloo] Connection closed by peer"), OSError("no route to host")])
def test_what_may_go_away_is_left_to_ray_train(tmp_path: Path, loop: Mock, error: Exception) -> None:
    config = TrainConfig(output=str(tmp_path / "run"))
    loop.side_effect = error
    with pytest.raises(type(error)):
        one_worker.run_worker({"config": config})
    assert not files.exists(files.join(config.output, workers.REFUSAL))


@pytest.mark.parametrize("own", [True, False])
def test_ray_train_starts_no_process_that_training_does_not_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: bool
) -> None:
    monkeypatch.setattr(workers.ray_cluster, "is_own", lambda: own)
    config = TrainConfig(output=str(tmp_path / "run"))
    made = callbacks(workers._trainer(config, config.output, False))
    unused = ["PlacementGroupCleanerCallback", "DatasetsCallback"] if own else ["DatasetsCallback"]
    assert [name for name in callbacks(TorchTrainer(entry.work)) if name not in made] == unused


@pytest.mark.parametrize(("own", "told"), [(True, "0"), (False, None)])
def test_nodes_that_their_owner_takes_back_are_watched_on_clusters_of_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fit: Mock, own: bool, told: str | None
) -> None:
    for name in (workers.WATCH_NODES, workers.POLL, workers.PRINT_TWICE):  # taken back after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(workers.ray_cluster, "is_own", lambda: own)
    config = TrainConfig(output=str(tmp_path / "run"), steps=0)
    seen = []
    fit.side_effect = lambda: seen.append(os.environ.get(workers.WATCH_NODES))
    workers.launch(config, config.output)
    assert seen == [told]


def test_lost_workers_are_told_in_one_line_and_what_is_told_elsewhere_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    losses = entry.Losses()
    errors = {1: RuntimeError("NCCL error\nmore"), 0: OSError("Connection reset"), 2: UserError("refused")}
    losses.after_exception(None, errors)
    losses.after_exception(None, {0: stopping.Stopped(3), 1: UserError("refused")})
    assert capsys.readouterr().out == "workers 0, 1 ended early (OSError: Connection reset)\n"
    losses.after_exception(None, {1: errors[1]})
    assert capsys.readouterr().out == "worker 1 ended early (RuntimeError: NCCL error)\n"


def test_workers_that_wait_for_other_jobs_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers.ray, "cluster_resources", lambda: {"CPU": 4.0})
    free = {"CPU": 1.5}
    monkeypatch.setattr(workers.ray, "available_resources", lambda: free)
    workers._check_room(TrainConfig(workers=2, cpus_per_worker=1.0), use_gpu=False)
    assert capsys.readouterr().out == "training waits for 2 CPUs; 1.5 of the cluster's 4 are free\n"
    free["CPU"] = 2.0
    workers._check_room(TrainConfig(workers=2, cpus_per_worker=1.0), use_gpu=False)
    assert capsys.readouterr().out == ""
