"""Every command starts: its help is printed, and nothing that needs torchvision's operators comes before the guard."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.base import cli
from infra.base.files import ROOT
from infra.base.flags import read_flags

FOLDERS = ("pipelines", "training", "labelers", "infra")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
ENTRY_POINTS = [path for path in SOURCES if "    cli.run(" in path.read_text()]
GUARD = "infra.base.torchvision_guard"
GUARDED = {"torchvision", "diffusers", "open_clip", "transformers"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_known_commands_are_among_them() -> None:
    known = {"pipelines/encode_latents.py", "training/train_dpo.py", "infra/cluster.py", "infra/world/train_world.py"}
    assert known <= set(map(name, ENTRY_POINTS))


@pytest.mark.parametrize("path", ENTRY_POINTS, ids=name)
def test_help(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(path), run_name="__main__")
    assert not stopped.value.code
    assert capsys.readouterr().out.split()[:2] == ["usage:", str(path)]


COMMANDS = [path for path in ENTRY_POINTS if path.parent.parent == ROOT]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def example(path: Path) -> list[str]:
    """Return the example of a command's docstring, as words."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    found = re.search(r"\nExample:\n    (.+)(?:\n    .+)*\Z", text)
    assert found, "its docstring ends with no example"
    return shlex.split(found[1])


@pytest.mark.parametrize("path", COMMANDS, ids=name)
def test_the_example_of_the_help_is_a_command_that_parses(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in example(path) if word not in ("nice", "python")]
    if words[0] in SCRIPTS:
        assert SCRIPTS[words[0]] == f"{module(path)}:command"
    else:
        assert words[0] == name(path)
    monkeypatch.setattr(sys, "argv", [*words, "--print-config"])
    runpy.run_path(str(path), run_name="__main__")
    assert isinstance(yaml.safe_load(capsys.readouterr().out), dict)


def settings_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """Return the class of a command's settings."""
    seen: list[type] = []

    def keep(_: Any, config_class: type, *__: Any, **___: Any) -> None:
        seen.append(config_class)

    monkeypatch.setattr(cli, "run", keep)
    importlib.import_module(module(path)).command()
    return seen[0]


@pytest.mark.parametrize("path", COMMANDS, ids=name)
def test_every_flag_has_a_text_and_long_lists_have_groups(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(path, monkeypatch)
    every = read_flags(settings)
    flags = [flag for flag in every if flag.shown]
    assert [flag.dashed for flag in flags if not flag.text.endswith(".")] == []
    assert len({flag.name for flag in flags}) == len(flags)
    assert {flag.name for flag in flags} & {"config", "print_config", "verbose", "quiet"} == set()
    named = [flag for group in getattr(settings, "GROUPS", {}).values() for flag in group]
    assert sorted(set(named) - {flag.name for flag in every}) == []
    if len(flags) > 12:
        assert [flag.dashed for flag in flags if flag.group == "other"] == []
        assert getattr(settings, "GROUPS", None), "no group of basic flags"
        assert next(iter(settings.GROUPS)) == "basic"  # type: ignore[attr-defined]


def test_console_scripts_are_commands() -> None:
    assert set(SCRIPTS.values()) <= {f"{module(path)}:command" for path in COMMANDS}


def imported_at_the_top(path: Path) -> list[str]:
    """List the modules that a file imports when it is imported itself, in order."""
    found: list[str] = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def is_unguarded(modules: list[str]) -> bool:
    """Say whether something guarded comes before the guard."""
    guarded = [index for index, module in enumerate(modules) if module.split(".")[0] in GUARDED]
    return bool(guarded) and GUARD not in modules[: guarded[0]]


def test_the_guard_comes_before_what_it_guards() -> None:
    assert is_unguarded(["torch", "diffusers", GUARD])
    assert not is_unguarded([GUARD, "torch", "diffusers"])
    assert [name(path) for path in SOURCES if is_unguarded(imported_at_the_top(path))] == []


NO_PATHS = {  # texts that name no place on a disk, by command or for all
    *("split", "revision", "base_revision", "reference_revision", "safety_revision", "validation_split"),
    *("accelerator_type", "category_column", "preset", "lora_targets", "address", "host"),
    *("scorer", "scorers", "judge", "judges", "validation_scorer"),
    *("labels", "sets", "names", "name", "reference", "fleet", "price", "assume"),
    *("endpoint_model", "request_options"),
    *("push_to_hub", "hub_license"),
    "beta",  # a number or auto
    "folder",  # smoke refuses a relative one
}


@pytest.mark.parametrize("path", COMMANDS, ids=name)
def test_each_text_flag_is_a_path_or_known_to_be_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [flag for flag in read_flags(settings_of(path, monkeypatch)) if flag.shown and "str" in str(flag.kind)]
    unknown = {flag.name for flag in texts if flag.place is None and "Literal" not in str(flag.kind)} - NO_PATHS
    sets = {"output"} if path.name == "combine.py" else set()  # its output is the name of a label set
    assert unknown == sets
