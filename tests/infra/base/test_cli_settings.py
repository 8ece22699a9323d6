"""Settings on the command line: grouped flags, files of settings, and what a run was begun with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
import yaml

from infra.base import cli, files
from infra.base.errors import UserError
from infra.base.flags import Hidden, Shown, read_flags


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How the weights move."""

    rate: float = 1e-5
    """Size of
    a step."""
    kind: Literal["adam", "sgd"] = "adam"
    """Which one."""


@dataclass(frozen=True, kw_only=True)
class Run:
    GROUPS: ClassVar = {"basic": ("store", "rate"), "limits": ("steps",)}

    store: str = "s"
    """Where."""
    steps: int | None = None
    """How many; by default all."""
    layers: tuple[str, ...] = ()
    """Which."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    second: Annotated[Optimizer, Shown()] = field(default_factory=Optimizer)


RUNS = {"fast": Run(store="f", optimizer=Optimizer(rate=0.5), second=Optimizer(kind="sgd"))}


def read(*arguments: str) -> Run:
    return cli.parse(Run, RUNS, list(arguments))


def test_a_files_settings_lie_between_the_preset_and_the_flags(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("rate: 1e-3\nlayers: [a, b]\nsteps: 7\n")
    found = read("--preset", "fast", "--config", str(path), "--steps", "9")
    assert (found.store, found.optimizer.rate, found.layers, found.steps) == ("f", 1e-3, ("a", "b"), 9)
    assert found.second.kind == "sgd"  # a part without flags has the preset's settings


def test_a_runs_settings_are_read_back_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = Run(steps=3, layers=("a",), optimizer=Optimizer(rate=1e-08), second=Optimizer(rate=float("inf")))
    cli.save_config(str(tmp_path), begun)
    assert read("--config", str(tmp_path / "config.json")) == begun
    ran: list[Run] = []
    cli.run(ran.append, Run, RUNS, ["--config", str(tmp_path / "config.json"), "--print-config"])
    printed = capsys.readouterr().out
    assert ran == []
    assert yaml.safe_load(printed)["optimizer"] == {"rate": 1e-08, "kind": "adam"}
    result = {"win_rate": 0.6, "config": json.loads((tmp_path / "config.json").read_text())}
    (tmp_path / "report.json").write_text(json.dumps(result))
    assert read("--config", str(tmp_path / "report.json")) == begun
    (tmp_path / "again.yaml").write_text(printed)
    assert read("--config", str(tmp_path / "again.yaml")) == begun


@pytest.mark.parametrize(
    ("holds", "hint"), [("config.json", "give {}/config.json"), ("other", "and it holds no config.json")]
)
def test_a_folder_as_settings_is_refused_with_the_file_in_it(holds: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / holds).write_text("{}")
    with pytest.raises(UserError) as refused:
        read("--config", str(tmp_path))
    told = f"--config {tmp_path}: is a folder, not a file of settings; {hint.format(tmp_path)}"
    assert str(refused.value) == told


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("rat: 1", "rat is no setting of this command; did you mean rate?"),
        ("zzz: 1", "zzz is no setting of this command; --print-config lists the settings that there are"),
        ("optimizer: {steps: 1}", "optimizer.steps is no setting of this command; did you mean steps?"),
        ("optimizer: 3", "optimizer is 3, but holds settings of its own"),
        ("steps: many", "steps is 'many': input should be a valid integer, unable to parse string as an integer"),
        ("kind: adamw", "kind is 'adamw': input should be 'adam' or 'sgd'"),
        ("- 1", "holds no settings; write NAME: VALUE on each line"),
        ("a: [", "neither JSON nor YAML"),
        pytest.param("a: " + "[" * 10_000, "its lists or objects are nested too deeply", id="too deep"),
        ("store: s3://KEY:PLANTED@bucket/run", f"store: {files.NO_SECRETS}"),
        ("layers: [a, 's3://b/x?X-Amz-Signature=PLANTED']", f"layers: {files.NO_SECRETS}"),
        ("'https://u:PLANTED@host/a': 1", f"a name: {files.NO_SECRETS}"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(
    text: str, refusal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda _: None, Run, RUNS, ["--config", str(path)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.startswith(f"error: --config {path}: {refusal}")
    assert said.count("\n") == 1
    assert "PLANTED" not in said


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read("--config", str(tmp_path / "none.yaml"))


def test_flags_are_grouped_and_have_their_docstrings() -> None:
    found = {flag.path: (flag.group, flag.text, flag.shown) for flag in read_flags(Run)}
    assert found == {
        ("store",): ("basic", "Where.", True),
        ("steps",): ("limits", "How many; by default all.", True),
        ("layers",): ("other", "Which.", True),
        ("optimizer", "rate"): ("basic", "Size of a step.", True),
        ("optimizer", "kind"): ("optimizer", "Which one.", True),
        ("second", "rate"): ("basic", "Size of a step.", False),
        ("second", "kind"): ("second", "Which one.", False),
    }


@dataclass(frozen=True, kw_only=True)
class Chosen:
    first: Annotated[Optimizer, Shown("rate")] = field(default_factory=Optimizer)
    second: Annotated[Optimizer, Hidden("rate")] = field(default_factory=Optimizer)


def test_a_part_shows_the_fields_that_are_named_or_all_but_those() -> None:
    shown = [flag.path for flag in read_flags(Chosen) if flag.shown]
    assert shown == [("first", "rate"), ("second", "kind")]


def test_help_describes_presets_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    about = "Do it.\n\nExample:\n    dpo-do --store s\n"
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda _: None, Run, RUNS, ["--help"], about=about, lines={"fast": "Quick, 512 px"})
    page = capsys.readouterr().out
    assert not stopped.value.code
    assert "Do it.\n\nExample:\n    dpo-do --store s\n" in page
    assert "- fast: Quick, 512 px." in page
    titles = re.findall(r"(?m)^\W+(\w[\w ]*) options\W+$", page)
    assert titles == ["basic", "limits", "other", "optimizer", "general"]


def test_what_a_run_was_begun_with_is_json(tmp_path: Path) -> None:
    cli.save_config(str(tmp_path), Run(layers=("a",)))
    assert json.loads((tmp_path / "config.json").read_text())["layers"] == ["a"]


def test_settings_of_another_command_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"source": "raw", "split": "train", "steps": 3}))  # two of three names are not Run's
    with pytest.raises(UserError, match=r"config\.json: is of another command, as it has source, split; give a folder"):
        cli.save_config(str(tmp_path), Run())
    with pytest.raises(UserError, match=r"config\.json: is of another command"):  # and not one of other settings
        cli.begun_with(str(path), Run())
    assert json.loads(path.read_text())["source"] == "raw"
    for content in ('{"ste', json.dumps({"steps": 3, "gone": 1})):  # torn by a kill; of an earlier version
        path.write_text(content)
        cli.save_config(str(tmp_path), Run())
        assert json.loads(path.read_text()) == cli.as_saved(Run())
