"""The smoke run: the project's commands, the given cluster, the first failure named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from support.parsed_commands import parsed

from infra.base.errors import UserError
from infra.local import smoke, steps
from infra.local.smoke import SmokeConfig

CONFIG = SmokeConfig(address="http://head:8265", folder="/shared/smoke/")


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Mapping[str, str]]]:
    """Record what would be submitted, with its environment; each step passes."""
    seen: list[tuple[list[str], Mapping[str, str]]] = []

    def record(command: list[str], surroundings: Mapping[str, str]) -> int:
        seen.append((command, surroundings))
        return 0

    monkeypatch.setattr(steps, "run_step", record)
    monkeypatch.setattr(smoke, "check_answers", lambda *_: None)
    return seen


def test_every_step_is_a_command_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = {name: parsed(command, monkeypatch) for name, command in smoke.steps(CONFIG)}
    assert list(configs) == ["encode", "relabel", "train", "generate", "score"]
    assert configs["encode"].store == configs["relabel"].store == configs["train"].data.store == "/shared/smoke/store"
    assert configs["train"].data.labels in configs["relabel"].scorer
    assert configs["train"].steps == 2
    assert configs["generate"].model == f"{configs['train'].output}/result" == "/shared/smoke/run/result"
    assert configs["score"].images == (configs["generate"].output,) == ("/shared/smoke/images",)


def test_a_bucket_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SmokeConfig(address="http://head:8265", folder="s3://bucket/smoke/")
    configs = {name: parsed(command, monkeypatch) for name, command in smoke.steps(config)}
    assert (configs["encode"].store, configs["train"].output) == ("s3://bucket/smoke/store", "s3://bucket/smoke/run")
    assert configs["generate"].model == "s3://bucket/smoke/run/result"


def test_all_steps_go_to_the_given_cluster(
    submitted: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:8265")  # Ray takes it before --address
    monkeypatch.setenv("RAY_AUTH_TOKEN", "its-token")
    smoke.main(CONFIG)
    assert len(submitted) == 5
    for command, surroundings in submitted:
        assert command[:7] == ["ray", "job", "submit", "--address", "http://head:8265", "--", "python"]
        assert surroundings["RAY_API_SERVER_ADDRESS"] == "http://head:8265"
        assert surroundings["RAY_AUTH_TOKEN"] == "its-token"
    out = capsys.readouterr().out
    assert "all 5 steps passed on http://head:8265: encode " in out
    assert "its-token" not in out


def test_the_first_failure_is_named_and_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(command: list[str], _: Mapping[str, str]) -> int:
        ran.append(command[7])
        return 7 if command[7] == "training/train_dpo.py" else 0

    monkeypatch.setattr(steps, "run_step", run)
    monkeypatch.setattr(smoke, "check_answers", lambda *_: None)
    with pytest.raises(UserError, match=r"step 3 of 5 \(train\) failed with exit code 7, after: encode 0 s, relabel"):
        smoke.main(CONFIG)
    assert len(ran) == 3


def test_a_relative_folder_is_refused(submitted: list[Any]) -> None:
    with pytest.raises(UserError, match="--folder runs/smoke: give an absolute path on a shared disk, or s3://"):
        smoke.main(SmokeConfig(address="http://head:8265", folder="runs/smoke"))
    assert not submitted


@pytest.mark.slow
def test_an_address_where_nothing_answers_is_refused() -> None:
    with pytest.raises(UserError, match=r"--address http://127\.0\.0\.1:9: no job server takes this command .*connect"):
        smoke.main(SmokeConfig(address="http://127.0.0.1:9", folder="/shared/smoke"))
