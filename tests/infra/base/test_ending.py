"""A command that ended well is not taken apart by Python; a failed one, and a process of another kind, end as ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.base.files import ROOT

PROGRAM = """
import atexit, sys, types
from dataclasses import dataclass
from infra.base import cli
from infra.base.errors import UserError

class Library:
    def __del__(self):
        print("taken apart")

loaded = sys.modules["loaded"] = types.ModuleType("loaded")
loaded.library = Library()
loaded.library.itself = loaded.library  # as libraries are: only Python's last collection finds it
del loaded

@dataclass(frozen=True)
class Config:
    fails: bool = False
    '''Whether to fail.'''

def main(config):
    atexit.register(lambda: print("atexit", end=""))
    print("done", end=" ")
    if config.fails:
        raise UserError("no")

def NAME():
    cli.run(main, Config)

NAME()
"""


@pytest.mark.parametrize(
    ("name", "flags", "code", "told"),
    [
        ("command", [], 0, "done atexit"),
        ("command", ["--fails"], 2, "done atexittaken apart\n"),
        ("other", [], 0, "done atexittaken apart\n"),
    ],
)
def test_only_a_command_that_ended_well_ends_at_once(
    tmp_path: Path, name: str, flags: list[str], code: int, told: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROGRAM.replace("NAME", name))
    done = subprocess.run(
        [sys.executable, str(script), *flags], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (code, told), done.stderr
