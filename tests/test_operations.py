"""docs/operations.md quotes messages that the code has, docs/security.md names files that are there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from infra.base.files import ROOT

FOLDERS = ("pipelines", "training", "labelers", "infra")


@functools.cache
def texts() -> list[str]:
    """Return each string of the code, what is filled in left out as a NUL."""
    messages = []
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                messages.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                messages.append(node.value)
    return messages


def rows(name: str) -> list[list[str]]:
    lines = (ROOT / "docs" / name).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]


def said(message: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in message.split("…"))
    return any(re.search(pattern, text, re.DOTALL) for text in texts())


QUOTED = [row[0].strip("`") for row in rows("operations.md") if row[0].startswith("`")]
MESSAGES = [message for message in QUOTED if message != "stop.json` or `.lock` left behind"]


def test_the_table_is_there_and_the_look_up_can_fail() -> None:
    assert len(MESSAGES) > 40
    assert not said("a sentence …that nobody wrote")


@pytest.mark.parametrize("message", MESSAGES)
def test_each_message_is_the_codes(message: str) -> None:
    assert said(message)


@pytest.mark.parametrize("name", ["security.md", "operations.md"])
def test_each_file_named_is_there(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    named = re.findall(r"`((?:pipelines|training|labelers|infra|tests)/\S+?\.py)`", text)
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []
    assert [link for link in re.findall(r"\]\((\S+?\.md)\)", text) if not (ROOT / "docs" / link).is_file()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_each_link_of_a_page_leads_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []
