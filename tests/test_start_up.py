"""A command imports what it runs: flags and help load no network's libraries, and every function it names is there."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra.base.files import ROOT

FOLDERS = ("pipelines", "training", "labelers", "infra")
COMMANDS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py") if path.stem != "__init__")
HEAVY = (  # each takes 0.1 to 3 s of CPU
    *("torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "open_clip"),
    *("ray", "datasets", "pandas", "scipy", "matplotlib", "boto3", "PIL", "jinja2", "pydantic"),
)
HELP = """
import json, runpy, sys
heavy, commands = json.loads(sys.argv[1])
imported = {}
for command in commands:
    before = set(sys.modules)
    sys.argv = [command, "--help"]
    try:
        runpy.run_path(command, run_name="__main__")
    except SystemExit as stopped:
        assert not stopped.code
    imported[command] = sorted((set(sys.modules) - before) & set(heavy))
print(json.dumps(imported), file=sys.stderr)
"""


def test_help_imports_no_heavy_library() -> None:
    commands = [str(path.relative_to(ROOT)) for path in COMMANDS]
    asked = json.dumps([HEAVY, commands])
    done = subprocess.run([sys.executable, "-c", HELP, asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr.splitlines()[-1]) == {command: [] for command in commands}


WITHOUT_RAY = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
print([name for name in ("ray", "pipelines.engine.on_ray", "pipelines.engine.ray_cluster") if name in sys.modules])
"""


@pytest.mark.slow
def test_what_runs_in_one_process_imports_no_ray() -> None:
    named = [function.partition(":")[0] for path in COMMANDS for function in named_functions(path)]
    modules = sorted({*named, "training.run.alone"} - {"pipelines.experiments.sweep"})  # whose trials are Ray's tasks
    command = [sys.executable, "-c", WITHOUT_RAY, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def named_functions(path: Path) -> list[str]:
    """List the strings that a command gives to cli.run."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    given = [
        value
        for call in calls
        if ast.unparse(call.func) == "cli.run"
        for value in (call.args[0], *(keyword.value for keyword in call.keywords if keyword.arg == "plan"))
    ]
    return [ast.literal_eval(value) for value in given]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_functions_that_a_command_names_exist(path: Path) -> None:
    named = named_functions(path)
    assert named
    for one in named:
        module, _, function = one.partition(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
