"""Files, console scripts and make targets that pages, docstrings and comments name are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from infra.base.files import ROOT

FOLDERS = ("pipelines", "training", "labelers", "infra", "tests")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if path != Path(__file__))
# `pipelines/x.py` stands for any command; the scorer is the one that CONTRIBUTING.md shows how to write.
EXAMPLES = {
    "pipelines/x.py",
    "labelers/scoring/vividness.py",
    "tests/labelers/scoring/test_vividness.py",
}
NEVER = {
    "hpsv2.py",
    "datasets.py",
    "evaluate.py",
    "clip.py",
}  # design.md: names that no file of a command's folder may have


def named_paths(text: str) -> set[str]:
    """Find each `folder/file.ext` of this repository's folders; a path that goes on before it is another's."""
    folders = "|".join((*FOLDERS, "docs"))
    return set(re.findall(rf"(?<![\w./-])((?:{folders})/[a-z0-9_./-]*\.(?:py|md|json|yaml|txt|tsv))\b", text))


def missing_paths(text: str) -> list[str]:
    return sorted(path for path in named_paths(text) - EXAMPLES if not (ROOT / path).is_file())


def missing_names(text: str) -> list[str]:
    """List the Python files, named without a folder in backticks, that no folder has."""
    named = set(re.findall(r"`([a-z_0-9]+\.py)\b", text))
    return sorted(named - NEVER - {path.name for path in SOURCES})


def test_each_file_that_a_text_names_is_there() -> None:
    missing = {str(path.relative_to(ROOT)): missing_paths(path.read_text()) for path in [*PAGES, *SOURCES]}
    assert {path: names for path, names in missing.items() if names} == {}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_each_name_of_a_file_is_one(path: Path) -> None:
    assert missing_names(path.read_text()) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_each_console_script_and_make_target_is_there(path: Path) -> None:
    text = path.read_text()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(re.findall(r"`(dpo-[a-z]+)", text)) <= set(scripts)
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    commands = re.findall(r"(?m)(?:^|`)make ([a-z -]+)(?=`|  |$)", text)
    assert {target for command in commands for target in command.split()} <= targets


def names_elsewhere(text: str) -> list[str]:
    """List the names that stand in backticks before "in" and a link of docs/, and not in the file that it leads to."""
    pairs = re.findall(r"`(\w+)` in \[[^\]]+\]\(([\w./-]+)\)", text)
    assert pairs
    return [name for name, path in pairs if not re.search(rf"\b{name}\b", (ROOT / "docs" / path).read_text())]


def test_each_name_of_the_walkthrough_is_in_the_file_beside_it() -> None:
    assert names_elsewhere((ROOT / "docs" / "walkthrough.md").read_text()) == []
    assert names_elsewhere("`apply_labels` in [a loader](../training/data/loader.py)") == ["apply_labels"]


def test_a_file_that_is_gone_is_seen() -> None:
    assert missing_paths("see pipelines/store.py, ../pipelines/gone.py and `pipelines/latents/store.py`") == [
        "pipelines/store.py"
    ]
    assert missing_names("`engine.py` is gone, `store.py` is there") == ["engine.py"]
