"""The pages' templates, scripts and styles, read by parsers: what ruff and mypy do not see. No browser is needed.

`make check` runs this file, and tests/pipelines/ renders the pages; what a browser makes of them is tested there too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import esprima
import jinja2.meta
import pytest
import tinycss2

from infra.pages import page

ROOT = Path(__file__).parents[1]
PACKAGES = ("infra", "labelers", "pipelines", "training")
TEMPLATES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.jinja"))
SCRIPTS = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.js"))
STYLES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.css"))
MARKUP_FROM_TEXT = {"innerHTML", "outerHTML", "insertAdjacentHTML", "write", "writeln"}
RUNS_TEXT = {"eval", "Function", "alert"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def style_of(template: str) -> str:
    """Return what stands in a template's <style> element or in its style block, without Jinja's statements."""
    bodies = re.findall(r"<style>(.*?)</style>|{% block style %}(.*?){%-? endblock", template, re.DOTALL)
    return re.sub(r"{%.*?%}", "", "\n".join(one or other for one, other in bodies), flags=re.DOTALL)


def nodes(tree: Any) -> Iterator[Any]:
    """Yield every node of a script's syntax tree."""
    if isinstance(tree, list):
        for part in tree:
            yield from nodes(part)
    elif hasattr(tree, "type"):
        yield tree
        for part in vars(tree).values():
            yield from nodes(part)


def faults_of_script(content: str) -> list[str]:
    """List what a script of this project must not have; raises esprima.Error where it is not JavaScript."""
    faults = []
    for node in nodes(esprima.parseScript(content, {"loc": True})):
        line = node.loc.start.line if node.loc else 0
        if node.type == "MemberExpression" and node.property.name in MARKUP_FROM_TEXT:
            faults.append(f"line {line}: {node.property.name} makes markup of text")
        if node.type in ("CallExpression", "NewExpression") and node.callee.name in RUNS_TEXT:
            faults.append(f"line {line}: {node.callee.name}")
        if node.type == "MemberExpression" and node.object.name == "console":
            faults.append(f"line {line}: console")
        if node.type == "VariableDeclaration" and node.kind == "var":
            faults.append(f"line {line}: var")
        if node.type == "BinaryExpression" and node.operator in ("==", "!="):
            faults.append(f"line {line}: {node.operator}")
        if node.type == "DebuggerStatement":
            faults.append(f"line {line}: debugger")
    return faults


def faults_of_rules(rules: list[Any]) -> list[str]:
    """List where a parsed style sheet is no CSS, or a rule sets one property twice."""
    faults = []
    for rule in rules:
        if rule.type == "error":
            faults.append(f"line {rule.source_line}: {rule.message}")
        if rule.type == "at-rule" and rule.at_keyword in ("media", "supports") and rule.content is not None:
            inside = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            faults += faults_of_rules(inside)
        if rule.type == "qualified-rule":
            declared = tinycss2.parse_blocks_contents(rule.content, skip_comments=True, skip_whitespace=True)
            faults += [f"line {part.source_line}: {part.message}" for part in declared if part.type == "error"]
            names = [part.name for part in declared if part.type == "declaration"]
            faults += [f"line {rule.source_line}: {one} twice" for one in sorted(set(names)) if names.count(one) > 1]
    return faults


def faults_of_style(content: str) -> list[str]:
    """List a style sheet's faults."""
    return faults_of_rules(tinycss2.parse_stylesheet(content, skip_comments=True, skip_whitespace=True))


@pytest.mark.parametrize("path", TEMPLATES, ids=name)
def test_a_template_parses_and_finds_what_it_extends_and_imports(path: Path) -> None:
    environment = page.template(path.name, path.parent).environment  # as the pages load it, which compiles it
    assert environment.loader is not None
    for other in jinja2.meta.find_referenced_templates(environment.parse(path.read_text())):
        assert other in environment.loader.list_templates()  # a name that is computed, None here, cannot be checked


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_parse_and_have_no_fault(path: Path) -> None:
    assert faults_of_script(path.read_text()) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=name)
def test_scripts_are_files_of_their_own(path: Path) -> None:
    bodies = re.findall(r"<script[^>]*>(.*?)</script>", path.read_text(), re.DOTALL)
    assert [body for body in bodies if not re.fullmatch(r'\s*({% include "\w+\.js" %})?\s*', body)] == []


@pytest.mark.parametrize("path", [*STYLES, *TEMPLATES], ids=name)
def test_styles_parse_and_set_nothing_twice(path: Path) -> None:
    content = path.read_text()
    assert faults_of_style(content if path.suffix == ".css" else style_of(content)) == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in TEMPLATES}), ids=name)
def test_every_colour_and_size_that_is_used_has_a_value(folder: Path) -> None:
    standing_alone = folder.parent.name == "arena_app"
    paths = [*folder.parent.rglob("*"), *([] if standing_alone else page.SHARED.iterdir())]
    pages = [path.read_text() for path in paths if path.suffix in (".jinja", ".css")]
    used = {variable for page in pages for variable in re.findall(r"var\((--[\w-]+)", page)}
    assert used
    assert used <= {variable for page in pages for variable in re.findall(r"(--[\w-]+):", page)}


def test_the_known_files_are_among_them() -> None:
    assert {path.name for path in SCRIPTS} >= {"arena.js", "evaluation.js"}
    assert {path.name for path in STYLES} >= {"arena.css"}
    assert {path.name for path in TEMPLATES} >= {"arena.html.jinja", "report.html.jinja", "paper.html.jinja"}
    assert style_of((ROOT / "pipelines/reports/templates/report.html.jinja").read_text()).count("{") > 5


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("box.innerHTML = text;", "line 1: innerHTML makes markup of text"),
        ("const a = 1;\nif (a == 2) eval(b);", "line 2: =="),
        ("var a = 1;", "line 1: var"),
        ("console.log(1);", "line 1: console"),
    ],
)
def test_a_fault_of_a_script_is_seen(content: str, fault: str) -> None:
    assert fault in faults_of_script(content)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("p { color: red; color: blue; }", "line 1: color twice"),
        ("@media print { p { margin 0; } }", "line 1: Stop token reached"),
        ("p { color: red; } }", "line 1: EOF reached"),
    ],
)
def test_a_fault_of_a_style_is_seen(content: str, fault: str) -> None:
    assert any(variable.startswith(fault) for variable in faults_of_style(content))
