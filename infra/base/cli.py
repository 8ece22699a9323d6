"""What every command does: presets, flags and files of settings, --help, and one clear sentence for bad input."""

from __future__ import annotations

import argparse
import dataclasses
import pkgutil
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from infra.base import (
    config_files,
    dry_run,
    ending,
    engines,
    files,
    flags,
    garbage,
    logs,
    pipes,
    places,
    termination,
    verifying,
)
from infra.base.config_files import as_saved, begun_with, save_config
from infra.base.dry_run import DryRunConfig
from infra.base.errors import UserError
from infra.base.flags import Flag
from infra.base.places import PathText

__all__ = ["DryRunConfig", "as_saved", "begun_with", "parse", "run", "save_config"]

Config = TypeVar("Config")
GENERAL = "general"  # the group of the flags that every command has
PLANNED = "cost estimate"


@dataclass(frozen=True, kw_only=True)
class General:
    """Flags that every command has."""

    engine: engines.Name | None = None
    """What runs the work: local is this process, ray a Ray cluster. By default it is ray where RAY_ADDRESS or
    `make cluster` names a cluster or several copies are asked for, else local."""
    preset: str | None = None
    """Start from the settings of a published model; --config and the other flags change them."""
    config: PathText | None = None
    """File of settings, JSON or YAML: the config.json of an earlier run, or names and values. Flags win over it."""
    print_config: bool = False
    """Print all settings as YAML and stop."""
    verify: bool = False
    """Check every byte that this command has written, print what is wrong and how to mend it, and stop. The exit code
    is 1 where something is wrong."""
    verbose: bool = False
    """Print details too."""
    quiet: bool = False
    """Print errors and the last line of the result only."""


@dataclass(frozen=True)
class Parsed:
    """A command line, read."""

    settings: Any
    general: General
    planned: DryRunConfig


def run(
    main: Callable[[Config], None] | str,
    config_class: type[Config],
    presets: Mapping[str, Config] | None = None,
    arguments: list[str] | None = None,
    plan: Callable[[Config, DryRunConfig], object] | str | None = None,
    *,
    verify: Callable[[Config], Iterable[str]] | str | None = None,
    about: str | None = None,
    lines: Mapping[str, str] | None = None,
    runs_jobs: bool = False,
) -> None:
    """Parse the command line and call main; exit 2 with one sentence on a UserError, or where S3 or a disk refuses.

    Ctrl-C ends it with a sentence, too.

    Args:
        main: what carries the command out, as "module:function" where its module takes long to import: it is imported
            once the flags are read and found good.
        presets: settings by the names that --preset takes.
        plan: takes main's place under --dry-run, and is named likewise. The flags of a dry run are no settings, so no
            run records them.
        verify: yields a sentence for each thing that is wrong with what the command has written, for --verify.
        about: what --help says of the command; the docstring of its file.
        lines: what --help says of each preset.
        runs_jobs: whether --engine has a meaning.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if arguments is None:
        garbage.search_seldom()
    try:
        special = {name for name, there in (("plan", plan), ("verify", verify)) if there is not None}
        with pipes.ending_quietly(), files.counting_from(None if places.in_job() else Path.cwd()):
            parsed = _parse(config_class, presets or {}, given, special, about or "", lines or {}, runs_jobs)
            _carry_out(main, plan, verify, parsed)
    except (UserError, OSError) as error:
        refusal = verifying.refusal(error)
        if refusal is None:
            raise
        print(f"error: {refusal}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; give the same command again", file=sys.stderr, flush=True)
        raise SystemExit(termination.INTERRUPTED) from None
    if arguments is None:
        ending.note_success()


def parse(config_class: type[Config], presets: Mapping[str, Config], arguments: list[str]) -> Config:
    """Parse a command's flags, `--preset` and `--config` among them, as its own command line does.

    Raises:
        SystemExit: for flags that it does not have; what is wrong is then on stderr.
        UserError: for a URL with credentials or options in it, or a file of settings that does not fit.
    """
    return _parse(config_class, presets, arguments, set(), "", {}).settings


def _carry_out(
    main: Callable[[Any], None] | str,
    plan: Callable[[Any, DryRunConfig], object] | str | None,
    verify: Callable[[Any], Iterable[str]] | str | None,
    parsed: Parsed,
) -> None:
    general = parsed.general
    if general.verbose and general.quiet:
        raise UserError("--quiet with --verbose: give one of them")
    dry_run.check(parsed.planned)
    if general.print_config:
        print(config_files.as_yaml(parsed.settings), end="", flush=True)
        return
    with logs.at_level(general.verbose, general.quiet), engines.asking(general.engine):
        begun = time.monotonic()
        logs.LOGGER.debug("settings of this run:\n%s", config_files.as_yaml(parsed.settings))
        if plan is not None and parsed.planned.dry_run:
            _imported(plan)(parsed.settings, parsed.planned)
        elif verify is not None and general.verify:
            verifying.report(_imported(verify)(parsed.settings))
        else:
            _imported(main)(parsed.settings)
        logs.LOGGER.debug("finished after %.1f s", time.monotonic() - begun)


def _imported(function: Callable[..., Any] | str) -> Callable[..., Any]:
    return pkgutil.resolve_name(function) if isinstance(function, str) else function


def _parse(
    config_class: type,
    presets: Mapping[str, Any],
    arguments: list[str],
    special: Collection[str],
    about: str,
    lines: Mapping[str, str],
    runs_jobs: bool = False,
) -> Parsed:
    """Parse a command line; special are the things beside main that the command can do, plan and verify."""
    _refuse_secrets(arguments)
    start = _starting_flags(config_class, presets, arguments)
    own = {flag.name for flag in start} | (set() if runs_jobs else {"engine"}) | ({"verify"} - set(special))
    general = [flag for flag in _in_group(flags.read_flags(General), GENERAL) if flag.name not in own]
    planned = _in_group(flags.read_flags(DryRunConfig), PLANNED) if "plan" in special else []
    under = {"general": general, "settings": _sorted(config_class, start), "planned": planned}
    every = [dataclasses.replace(flag, path=(part, *flag.path)) for part, listed in under.items() for flag in listed]
    every = _with_presets(every, presets, lines)
    every.sort(key=lambda flag: flag.group == GENERAL)  # last; --preset, which is in another group, is first
    texts = {PLANNED: "What the job would take and cost, without a cluster and without reading weights."}
    values = flags.parse(every, arguments, about.strip(), texts)

    _count_from_here(every, values, {flag.path: flag.default for flag in flags.read_flags(config_class)})

    def of(part: str) -> dict[tuple[str, ...], Any]:
        return {path[1:]: value for path, value in values.items() if path[0] == part}

    common = {path[0]: value for path, value in of("general").items()}
    asked = {path[0]: value for path, value in of("planned").items()}
    return Parsed(flags.build(config_class, of("settings")), General(**common), DryRunConfig(**asked))


def _count_from_here(every: list[Flag], values: dict[tuple[str, ...], Any], usual: Mapping[Any, Any]) -> None:
    """Make the paths among a command line's values absolute.

    Args:
        usual: values of the settings where none is given, by path.

    Raises:
        UserError: for a relative path that was given to a cluster job.
    """
    for flag in every:
        value = values[flag.path]
        if flag.place is None or value is None:
            continue
        if not places.in_job():
            values[flag.path] = places.absolute(value, flag.place)
        elif value != usual.get(flag.path[1:]):  # a default counts from the repository's root there
            places.refuse_relative(flag.dashed, value, flag.place)


def _starting_flags(config_class: type, presets: Mapping[str, Any], arguments: list[str]) -> list[Flag]:
    """Read the flags with the defaults that --preset and --config give them.

    Raises:
        UserError: for an unknown preset, or a file that does not fit.
    """
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--preset")
    chooser.add_argument("--config")
    chosen = chooser.parse_known_args(arguments)[0]
    default = None
    if presets and chosen.preset:
        if chosen.preset not in presets:
            raise UserError(f"--preset {chosen.preset}: there is none of this name; give {_listed(presets)}")
        default = presets[chosen.preset]
    start = flags.read_flags(config_class, default)
    if chosen.config is None:
        return start
    return config_files.apply(start, config_files.read_settings(chosen.config), chosen.config)


def _listed(names: Mapping[str, Any]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _with_presets(listed: list[Flag], presets: Mapping[str, Any], lines: Mapping[str, str]) -> list[Flag]:
    """Give --preset its choices, each with a line; where there are no presets there is no such flag."""
    kept = []
    for flag in listed:
        if flag.name != "preset":
            kept.append(flag)
        elif presets:
            described = [f"- {name}: {lines[name]}." if name in lines else f"- {name}" for name in presets]
            kind: Any = Literal[tuple(presets)]  # type: ignore[valid-type]
            kind = kind | None if flag.default is None else kind
            text = "\n".join([flag.text, *described])
            kept.append(dataclasses.replace(flag, kind=kind, group=flags.BASIC, text=text))
    return kept


def _in_group(listed: list[Flag], group: str) -> list[Flag]:
    return [dataclasses.replace(flag, group=group) for flag in listed]


def _sorted(config_class: type, listed: list[Flag]) -> list[Flag]:
    """Sort flags as the class's GROUPS name them; those that it does not name follow, in their own order."""
    names = [name for group in getattr(config_class, "GROUPS", {}).values() for name in group]
    return sorted(listed, key=lambda flag: names.index(flag.name) if flag.name in names else len(names))


def _refuse_secrets(arguments: list[str]) -> None:
    """Refuse a URL with credentials or options before anything reads, prints or records it."""
    flag = "a flag"
    for word in arguments:
        name = re.match(r"--[\w-]+(?==|$)", word)
        if name:
            flag = name[0]
        if files.carries_secrets(word):
            raise UserError(f"{flag}: {files.NO_SECRETS}")
