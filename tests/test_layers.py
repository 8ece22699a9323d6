"""Which file may know what: Ray in one place per folder, no file named like a library, no pickle, no remote code."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from infra.base.files import ROOT

FOLDERS = ("pipelines", "training", "labelers", "infra")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MAY_IMPORT_RAY = {
    "pipelines/engine/on_ray.py",
    "pipelines/engine/ray_cluster.py",
    "training/run/entry.py",
    "training/run/workers.py",
}
LAYERS = re.findall(r"(?m)^\d+\. `([\w/]+)`", (ROOT / "docs" / "design.md").read_text())


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


def room(module: str) -> str:
    """Name the folder that a module's file lies in."""
    return module.rpartition(".")[0].replace(".", "/")


def own_imports(path: Path) -> set[str]:
    """List this project's modules that a file imports, anywhere in it."""
    modules = {".".join(source.relative_to(ROOT).with_suffix("").parts) for source in SOURCES}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & modules


def against_the_order(path: Path, layers: list[str]) -> list[str]:
    """List a file's imports of what stands above its own folder; commands stand above all, and import none."""
    here = str(path.relative_to(ROOT).parent)
    height = {name: number for number, name in enumerate(layers)}
    top = len(layers)
    return sorted(
        module
        for module in own_imports(path)
        if room(module) != here and height.get(room(module), top) >= height.get(here, top)
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    assert against_the_order(path, LAYERS) == []


def test_the_order_names_every_room_and_no_other() -> None:
    rooms = {str(path.relative_to(ROOT).parent) for path in SOURCES}
    assert sorted([*LAYERS, *FOLDERS]) == sorted(rooms)


def test_an_import_against_the_order_is_seen() -> None:
    # objectives.py imports nothing of ours; loop.py imports training/method, which must then stand below it.
    assert against_the_order(ROOT / "training/run/loop.py", LAYERS) == []
    upside_down = list(reversed(LAYERS))
    assert "training.method.forward" in against_the_order(ROOT / "training/run/loop.py", upside_down)


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_test_imports_no_other_test_and_reads_nothing_outside(path: Path) -> None:
    assert [module for module in imports(path) if module.startswith("test_")] == []
    above = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    assert [ast.unparse(node) for node in above if ast.unparse(node).endswith("ROOT.parent")] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_commands_has_nothing_else(folder: str) -> None:
    files = [path for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"]
    assert [path.name for path in files if "    cli.run(" not in path.read_text()] == []


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if "    cli.run(" in path.read_text()],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_no_file_shadows_a_library(path: Path) -> None:
    # `python pipelines/x.py` puts pipelines/ first on the path: what is named like a library would replace it.
    for beside in [*path.parent.glob("*.py"), *(p for p in path.parent.iterdir() if (p / "__init__.py").exists())]:
        if beside.stem != "__init__":
            check_name(beside)


def check_name(path: Path) -> None:
    """Hold that no library has a file's or a folder's name."""
    assert path.stem not in sys.stdlib_module_names
    spec = importlib.util.find_spec(path.stem)
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
    assert all(place is None or place.startswith(str(ROOT / "tests")) for place in places)


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
