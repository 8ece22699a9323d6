"""How the code is written, counted: one statement a line, built by keyword, names that say what a thing is.

`python tests/test_style.py` prints the counts, as docs/measurements.md quotes them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipelines", "training", "labelers", "infra")
EMPTY_NAMES = {"told", "found", "few", "more"}  # they say of a thing only that somebody has it
FEW_FIELDS = 4  # of a dataclass that may be built by position


@dataclass(frozen=True)
class Place:
    """Where a file does what the counts are of."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Source:
    """One file, parsed."""

    file: str
    lines: int
    tree: ast.Module

    def places(self, nodes: Iterable[ast.stmt | ast.expr | ast.arg]) -> list[Place]:
        """Say where nodes of this file stand."""
        return [Place(self.file, node.lineno) for node in nodes]


def parse(file: str, text: str) -> Source:
    return Source(file, len(text.splitlines()), ast.parse(text))


def read_sources() -> list[Source]:
    """Parse all files of the four packages."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return [parse(str(path.relative_to(ROOT)), path.read_text()) for path in paths]


def assignments(source: Source) -> list[Place]:
    """List all assignments."""
    kinds = (ast.Assign, ast.AnnAssign, ast.AugAssign)
    return source.places(node for node in ast.walk(source.tree) if isinstance(node, kinds))


def packed_assignments(source: Source) -> list[Place]:
    """List assignments of several values to several names; taking apart what one call returns is none."""

    def packed(node: ast.AST) -> bool:
        several = (ast.Tuple, ast.GeneratorExp, ast.ListComp)
        return (
            isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, several)
        )

    return source.places(node for node in ast.walk(source.tree) if isinstance(node, ast.Assign) and packed(node))


def walruses(source: Source) -> list[Place]:
    """List assignments inside expressions."""
    return source.places(node for node in ast.walk(source.tree) if isinstance(node, ast.NamedExpr))


def empty_names(source: Source) -> list[Place]:
    """List where a name is bound that says nothing of what it holds."""

    def bound() -> Iterator[ast.Name | ast.arg]:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in EMPTY_NAMES:
                yield node
            if isinstance(node, ast.arg) and node.arg in EMPTY_NAMES:
                yield node

    return source.places(bound())


def dataclasses_of(source: Source) -> Iterator[tuple[ast.ClassDef, int, bool]]:
    """Yield a file's dataclasses, how many fields each declares, and whether it is built by keyword only."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if any("dataclass" in decorator for decorator in decorators):
                fields = sum(isinstance(line, ast.AnnAssign) for line in node.body)
                yield node, fields, any("kw_only=True" in decorator for decorator in decorators)


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def known_by_name(source: Source, fields: dict[tuple[str, str], int]) -> dict[str, int]:
    """Return how many fields each dataclass has that a file declares or imports, by its name there."""
    here = module_of(source.file)
    known = {name: count for (module, name), count in fields.items() if module == here}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (node.module, alias.name) in fields:
                    known[alias.asname or alias.name] = fields[str(node.module), alias.name]
    return known


def built_by_position(sources: list[Source]) -> list[Place]:
    """List where a dataclass of many fields gets arguments without their names, or any dataclass gets a splat."""
    fields = {
        (module_of(source.file), node.name): count for source in sources for node, count, _ in dataclasses_of(source)
    }

    def by_position(node: ast.Call, known: dict[str, int]) -> bool:
        if not isinstance(node.func, ast.Name) or node.func.id not in known:
            return False
        splat = any(isinstance(argument, ast.Starred) for argument in node.args)
        return splat or (bool(node.args) and known[node.func.id] > FEW_FIELDS)

    places = []
    for source in sources:
        known = known_by_name(source, fields)
        calls = (node for node in ast.walk(source.tree) if isinstance(node, ast.Call))
        places += source.places(call for call in calls if by_position(call, known))
    return places


def large_without_keywords(sources: list[Source]) -> list[Place]:
    """List dataclasses of many fields that may be built by position."""
    return [
        place
        for source in sources
        for place in source.places(
            node for node, count, by_keyword in dataclasses_of(source) if count > FEW_FIELDS and not by_keyword
        )
    ]


def of_all(count: str, sources: list[Source]) -> list[Place]:
    """List the places of one count that is taken file by file."""
    return [place for source in sources for place in PER_FILE[count](source)]


PER_FILE = {
    "assignments": assignments,
    "packed assignments": packed_assignments,
    "walruses": walruses,
    "bindings of told, found, few, more": empty_names,
}
MOST = {  # to be lowered wherever the code gets better, and never raised; all shall be 0
    "packed assignments": 2,
    "walruses": 0,
    "bindings of told, found, few, more": 9,
    "large dataclasses not keyword-only": 1,
    "built by position or splat": 0,
}


def counts(sources: list[Source]) -> dict[str, list[Place]]:
    """List, for each count, the places that it counts."""
    per_file = {name: of_all(name, sources) for name in PER_FILE}
    return per_file | {
        "large dataclasses not keyword-only": large_without_keywords(sources),
        "built by position or splat": built_by_position(sources),
    }


def table(sources: list[Source]) -> str:
    """Lay the counts out, with shares that compare with other codebases."""
    places = counts(sources)
    lines = sum(source.lines for source in sources)
    packed = 100 * len(places["packed assignments"]) / len(places["assignments"])
    walrus = 1000 * len(places["walruses"]) / lines
    rows = [f"| {name} | {len(places[name])} |" for name in places]
    shares = [f"| packed, % of assignments | {packed:.1f} |", f"| walruses per 1,000 lines | {walrus:.2f} |"]
    return "\n".join(["| What is counted | Count |", "|---|---|", f"| lines | {lines:,} |", *rows, *shares])


@pytest.fixture(scope="module")
def all_places() -> dict[str, list[Place]]:
    return counts(read_sources())


@pytest.mark.parametrize("name", MOST)
def test_the_code_keeps_to_the_manner(name: str, all_places: dict[str, list[Place]]) -> None:
    places = all_places[name]
    assert len(places) <= MOST[name], f"{name}, at most {MOST[name]}: {', '.join(map(str, places))}"


EXAMPLE = """
from dataclasses import dataclass
a, b = 1, 2
c, d = f()
for e, g in zip(x, y):
    pass
if (n := len(x)) > 2:
    found = n
@dataclass(frozen=True)
class Large:
    one: int
    two: int
    three: int
    four: int
    five: int
@dataclass(frozen=True)
class Small:
    one: int
large = Large(1, two=2, three=3, four=4, five=5)
named = Large(one=1, two=2, three=3, four=4, five=5)
small = Small(1)
spread = Small(*x)
"""


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("assignments", [3, 4, 8, 11, 12, 13, 14, 15, 18, 19, 20, 21, 22]),
        ("packed assignments", [3]),
        ("walruses", [7]),
        ("bindings of told, found, few, more", [8]),
        ("large dataclasses not keyword-only", [10]),
        ("built by position or splat", [19, 22]),
    ],
)
def test_each_count_on_an_example(name: str, lines: list[int]) -> None:
    assert sorted(place.line for place in counts([parse("example.py", EXAMPLE)])[name]) == lines


if __name__ == "__main__":
    print(table(read_sources()))
