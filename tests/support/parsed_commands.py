"""Reads a command line with the parser of the entry point that it names."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from infra.base import cli
from infra.base.files import ROOT


def parsed(command: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the settings that a command `python FOLDER/FILE.py --flags` would run with; nothing runs.

    Raises:
        SystemExit: for a flag or a preset that the entry point does not have.
    """
    settings: list[Any] = []
    run = cli.run

    def record(_main: Any, config_class: Any, presets: Any = None, plan: Any = None, **_texts: Any) -> None:
        run(settings.append, config_class, presets, command[2:], plan)

    assert command[0] == "python"
    with monkeypatch.context() as patched:
        patched.setattr(cli, "run", record)
        runpy.run_path(str(ROOT / command[1]), run_name="__main__")
    return settings[0]
