"""Which file may know what: Ray in one place per folder, no file named like a library, no pickle, no remote code."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.base.files import ROOT

FOLDERS = ("pipelines", "training", "labelers", "infra")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MAY_IMPORT_RAY = {
    "pipelines/engine/on_ray.py",
    "pipelines/engine/own_copies.py",
    "pipelines/engine/ray_cluster.py",
    "training/run/entry.py",
    "training/run/one_worker.py",
    "training/run/workers.py",
}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES}
LAYERS = re.findall(r"(?m)^\d+\. `([\w/]+)`", (ROOT / "docs" / "design.md").read_text())


def name(path: Path) -> str:
    """Name a file by its place in the repository."""
    return str(path.relative_to(ROOT))


def imported(nodes: list[ast.AST]) -> set[str]:
    """List the modules that are imported, and the names that are imported from them."""
    modules: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def unsafe_loads(nodes: list[ast.AST]) -> list[str]:
    """Find every load of torch's but a call of torch.load that itself says weights_only=True."""
    calls = {id(node.func): node for node in nodes if isinstance(node, ast.Call)}
    found = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            found += [alias.name for alias in node.names if alias.name == "load"]
        if isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node).startswith("torch."):
            call = calls.get(id(node))
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords} if call else {}
            if ast.unparse(node) != "torch.load" or said.get("weights_only") != "True":
                found.append(ast.unparse(node))
    return found


def is_above(node: ast.AST) -> bool:
    """Say whether a node is the folder above the repository."""
    return isinstance(node, ast.Attribute) and node.attr == "parent" and ast.unparse(node).endswith("ROOT.parent")


@dataclass(frozen=True)
class Looked:
    """What these tests ask of a file; its tree is not kept, as Python would search it for garbage."""

    modules: set[str]
    unsafe_loads: list[str]
    looks_above: bool

    @property
    def packages(self) -> set[str]:
        """The first names of what it imports."""
        return {module.split(".")[0] for module in self.modules}


@functools.cache
def look(path: Path) -> Looked:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return Looked(imported(nodes), unsafe_loads(nodes), any(map(is_above, nodes)))


def test_only_the_adapters_import_ray() -> None:
    importing = {name(path) for path in SOURCES if "ray" in look(path).packages and "benchmarks" not in path.parts}
    assert importing - MAY_IMPORT_RAY == set()


def room(module: str) -> str:
    """Name the folder that a module's file lies in."""
    return module.rpartition(".")[0].replace(".", "/")


def against_the_order(path: Path, layers: list[str]) -> list[str]:
    """List a file's imports of what stands above its own folder; commands stand above all, and import none."""
    here = str(path.relative_to(ROOT).parent)
    height = {name: number for number, name in enumerate(layers)}
    top = len(layers)
    return sorted(
        module
        for module in look(path).modules & MODULES
        if room(module) != here and height.get(room(module), top) >= height.get(here, top)
    )


def test_imports_go_one_way() -> None:
    against = {name(path): against_the_order(path, LAYERS) for path in SOURCES}
    assert {path: modules for path, modules in against.items() if modules} == {}


def test_the_order_names_every_room_and_no_other() -> None:
    rooms = {str(path.relative_to(ROOT).parent) for path in SOURCES}
    assert sorted([*LAYERS, *FOLDERS]) == sorted(rooms)


def test_an_import_against_the_order_is_seen() -> None:
    # objectives.py imports nothing of ours; loop.py imports training/method, which must then stand below it.
    assert against_the_order(ROOT / "training/run/loop.py", LAYERS) == []
    upside_down = list(reversed(LAYERS))
    assert "training.method.forward" in against_the_order(ROOT / "training/run/loop.py", upside_down)


TESTS = sorted((ROOT / "tests").rglob("*.py"))


def test_a_test_imports_no_other_test_and_reads_nothing_outside() -> None:
    assert [name(path) for path in TESTS if any(one.startswith("test_") for one in look(path).packages)] == []
    assert [name(path) for path in TESTS if look(path).looks_above] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_commands_has_nothing_else(folder: str) -> None:
    files = [path for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"]
    assert [path.name for path in files if "    cli.run(" not in path.read_text()] == []


def test_no_file_shadows_a_library() -> None:
    # `python pipelines/x.py` puts pipelines/ first on the path: what is named like a library would replace it.
    for folder in {path.parent for path in SOURCES if "    cli.run(" in path.read_text()}:
        for beside in [*folder.glob("*.py"), *(p for p in folder.iterdir() if (p / "__init__.py").exists())]:
            if beside.stem != "__init__":
                check_name(beside)


def check_name(path: Path) -> None:
    """Hold that no library has a file's or a folder's name."""
    assert path.stem not in sys.stdlib_module_names, path
    spec = importlib.util.find_spec(path.stem)
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
    assert all(place is None or place.startswith(str(ROOT / "tests")) for place in places), path


def test_nothing_loads_pickles_or_remote_code() -> None:
    unsafe = re.compile(r"trust_remote_code\s*=\s*True|weights_only\s*=\s*False")
    assert [name(path) for path in SOURCES if {"pickle", "dill", "joblib"} & look(path).packages] == []
    assert [name(path) for path in SOURCES if unsafe.search(path.read_text())] == []
    assert [name(path) for path in SOURCES if look(path).unsafe_loads] == []


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
    assert bool(unsafe_loads(list(ast.walk(ast.parse(line))))) is not allowed
