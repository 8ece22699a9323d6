"""Every command starts: its help is printed, and nothing that needs torchvision's operators comes before the guard."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest

from infra.base.files import ROOT

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


def imported_at_the_top(path: Path) -> list[str]:
    """List the modules that a file imports when it is imported itself, in order."""
    found: list[str] = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_the_guard_comes_before_what_it_guards(path: Path) -> None:
    modules = imported_at_the_top(path)
    guarded = [index for index, module in enumerate(modules) if module.split(".")[0] in GUARDED]
    if guarded:
        assert GUARD in modules[: guarded[0]]
