"""A command's flags: read off its settings, grouped for --help, parsed, and put back together.

Settings are dataclasses, which may hold others. Every field that holds no other dataclass is a flag of its own name;
its attribute docstring is the flag's text. A class may sort its flags for --help by GROUPS: a group's name, its flags.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

from infra.base import places
from infra.base.places import Place

Settings = TypeVar("Settings")
FLAT = (tyro.conf.OmitArgPrefixes,)
BASIC = "basic"  # the first group of flags in --help
METAVARS: dict[type, str] = {str: "STR", int: "INT", float: "FLOAT"}


class Choice(Protocol):
    """Says which fields of a part are flags."""

    def shows(self, name: str) -> bool:
        """Say whether a field is a flag."""


class Shown:
    """Mark a part of some settings, `Annotated[Part, Shown("seed")]`: only the fields named are flags."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)

    def shows(self, name: str) -> bool:
        """Say whether a field is a flag."""
        return name in self.names


class Hidden(Shown):
    """Mark a part of some settings, `Annotated[Part, Hidden("seed")]`: all fields but those named are flags."""

    def shows(self, name: str) -> bool:
        """Say whether a field is a flag."""
        return name not in self.names


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One field of the settings."""

    path: tuple[str, ...]  # the names of the parts that it lies in, then its own
    kind: Any  # its type, as annotated
    default: Any  # tyro.MISSING where it must be given
    text: str
    group: str
    shown: bool
    place: Place | None = None  # where its text is a path

    @property
    def name(self) -> str:
        """Return the field's name."""
        return self.path[-1]

    @property
    def dashed(self) -> str:
        """Return the flag as a user writes it."""
        return f"--{self.name.replace('_', '-')}"


def read_flags(settings_class: type, default: Any = None) -> list[Flag]:
    """List the flags of a class of settings.

    Args:
        default: settings whose values are the flags' defaults; without them the class's own are.
    """
    groups = getattr(settings_class, "GROUPS", {})
    group_of = {name: group for group, names in groups.items() for name in names}
    walked = _walk(settings_class, default, (), (), group_of)
    rest = "other" if groups else BASIC
    return [flag if flag.group else dataclasses.replace(flag, group=rest) for flag in walked]


def _walk(
    part: Any, default: Any, above: tuple[str, ...], choices: tuple[Choice, ...], group_of: Mapping[str, str]
) -> Iterable[Flag]:
    kinds = get_type_hints(part, include_extras=True)
    texts = field_texts(part)
    for field in dataclasses.fields(part):
        kind, place = places.split_mark(kinds[field.name])
        value = _default(field) if default is None else getattr(default, field.name)
        path = (*above, field.name)
        if dataclasses.is_dataclass(plain(kind)):
            inner = tuple(mark for mark in get_args(kind)[1:] if isinstance(mark, Shown))
            yield from _walk(plain(kind), value, path, (*choices, *inner), group_of)
        else:
            yield Flag(
                path=path,
                kind=kind,
                default=value,
                text=texts.get(field.name, ""),
                group=group_of.get(field.name) or (above[-1].replace("_", " ") if above else ""),
                shown=all(choice.shows(field.name) for choice in choices),
                place=place,
            )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING


def plain(kind: Any) -> Any:
    """Return a type without its annotations."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


@functools.cache  # a command's flags are read several times, and to read a class's source takes milliseconds
def field_texts(part: type) -> Mapping[str, str]:
    """Return the attribute docstrings of a dataclass and its bases, each as one line."""
    texts: dict[str, str] = {}
    for base in reversed(part.__mro__[:-1]):
        for field in docstring_parser.parse_from_object(base).params:
            texts[field.arg_name] = " ".join((field.description or "").split())
    return texts


def parse(
    flags: Sequence[Flag], arguments: list[str], description: str, group_texts: Mapping[str, str]
) -> dict[tuple[str, ...], Any]:
    """Parse a command line.

    Args:
        description: of the command, for --help.
        group_texts: what --help says above a group of flags, by the group's name.

    Returns:
        The flags' values by their paths; those that are not shown have their defaults.

    Raises:
        SystemExit: with 0 after --help; with 2 for a flag that does not exist or has no such value, told on stderr.
    """
    shown: dict[str, list[Flag]] = {}
    for flag in flags:
        if flag.shown:
            shown.setdefault(flag.group, []).append(flag)
    parts = []
    for number, (group, members) in enumerate(shown.items()):
        part = dataclasses.make_dataclass(f"Group{number}", [_field(flag) for flag in members], kw_only=True)
        naming = tyro.conf.arg(name=group, help=group_texts.get(group, ""))
        parts.append((f"group{number}", Annotated[part, naming]))
    command_line = dataclasses.make_dataclass("CommandLine", parts)
    parsed: Any = tyro.cli(command_line, args=arguments, description=description, config=FLAT)
    values = {flag.path: flag.default for flag in flags}
    for number, members in enumerate(shown.values()):
        part = getattr(parsed, f"group{number}")
        values |= {flag.path: getattr(part, flag.name) for flag in members}
    return values


def _field(flag: Flag) -> tuple[str, Any, Any]:
    look: dict[str, Any] = {"help": flag.text}
    if flag.default is None:
        look["help_behavior_hint"] = ""  # the text says what happens without the flag
        choices = [get_args(kind) for kind in get_args(flag.kind) if get_origin(kind) is Literal]
        if choices:
            look["metavar"] = f"{{{','.join(map(str, choices[0]))}}}"
    for simple, metavar in METAVARS.items():
        if flag.kind == simple | None:
            look["metavar"] = metavar
    kind: Any = Annotated[flag.kind, tyro.conf.arg(**look)]  # type: ignore[name-defined]
    return flag.name, kind, dataclasses.field(default_factory=lambda: flag.default)


def build(settings_class: type[Settings], values: Mapping[tuple[str, ...], Any]) -> Settings:
    """Put settings together from the values of their fields, by path."""
    kinds = get_type_hints(settings_class, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(settings_class):  # type: ignore[arg-type]
        part = plain(kinds[field.name])
        if dataclasses.is_dataclass(part):
            inner = {path[1:]: value for path, value in values.items() if path[0] == field.name}
            fields[field.name] = build(part, inner)  # type: ignore[arg-type]
        else:
            fields[field.name] = values[(field.name,)]
    return settings_class(**fields)
