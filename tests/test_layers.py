"""Which file may know what: Ray in one place per folder, no file named like a library, no pickle, no remote code."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from infra.files import ROOT

FOLDERS = ("pipelines", "training", "labelers", "infra")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MAY_IMPORT_RAY = {"pipelines/engine.py", "training/workers.py"}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def unsafe_loads(tree: ast.Module) -> list[str]:
    """Find every load of torch's but a call of torch.load that itself says weights_only=True."""
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            found += [alias.name for alias in node.names if alias.name == "load"]
        if isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node).startswith("torch."):
            call = calls.get(id(node))
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords} if call else {}
            if ast.unparse(node) != "torch.load" or said.get("weights_only") != "True":
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_adapters_import_ray(path: Path) -> None:
    allowed = str(path.relative_to(ROOT)) in MAY_IMPORT_RAY or "benchmarks" in path.parts
    assert allowed or "ray" not in imports(path)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_shadows_a_library(path: Path) -> None:
    # `python pipelines/x.py` puts pipelines/ first on the path: a file named like a library would replace it.
    if path.stem == "__init__":
        return
    assert path.stem not in sys.stdlib_module_names
    spec = importlib.util.find_spec(path.stem)
    assert spec is None or (spec.origin or "").startswith(str(ROOT / "tests"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_loads_pickles_or_remote_code(path: Path) -> None:
    text = path.read_text()
    assert not {"pickle", "dill", "joblib"} & imports(path)
    assert not re.search(r"trust_remote_code\s*=\s*True|weights_only\s*=\s*False", text)
    assert not unsafe_loads(ast.parse(text))


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("torch.load(p, weights_only=True)", True),
        ("torch.load(p)", False),
        ("torch.load(p, weights_only=safe)", False),
        ("load = torch.load", False),
        ("from torch import load", False),
        ("torch.jit.load(p)", False),
    ],
)
def test_the_rule_sees_each_way_to_unpickle(line: str, allowed: bool) -> None:
    assert bool(unsafe_loads(ast.parse(line))) is not allowed
