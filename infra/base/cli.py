"""What every entry point does: named presets, flags from a dataclass, one clear sentence for bad input."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import tyro

from infra.base import dry_run, files, object_storage
from infra.base.dry_run import DryRunConfig
from infra.base.errors import UserError
from infra.base.files import join, read_json, write_json

Config = TypeVar("Config")
FLAT = (tyro.conf.OmitArgPrefixes,)


def run(
    main: Callable[[Config], None],
    config_class: type[Config],
    presets: Mapping[str, Config] | None = None,
    arguments: list[str] | None = None,
    plan: Callable[[Config, DryRunConfig], None] | None = None,
) -> None:
    """Parse the command line into config_class and call main; exit 2 with one sentence on a UserError or S3's refusal.

    With presets, `--preset NAME` picks the defaults that the remaining flags then change. With plan there are the flags
    of a dry run, and `--dry-run` calls plan in main's place; they are no settings of a run, so no run records them.
    """
    try:
        _run(main, config_class, presets, sys.argv[1:] if arguments is None else arguments, plan)
    except (UserError, OSError) as error:
        if (refusal := object_storage.refusal_in(error)) is None:
            raise
        print(f"error: {refusal}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error


def _run(
    main: Callable[[Config], None],
    config_class: type[Config],
    presets: Mapping[str, Config] | None,
    arguments: list[str],
    plan: Callable[[Config, DryRunConfig], None] | None,
) -> None:
    default, rest = _preset(presets, arguments)
    names = f" Presets (--preset NAME): {', '.join(sorted(presets))}." if presets else ""
    described = f"{main.__doc__ or ''}{names}"
    if plan is None:
        extra: dict[str, Any] = {} if default is None else {"default": default}
        main(tyro.cli(config_class, args=rest, description=described, config=FLAT, **extra))
    else:
        start = config_class() if default is None else default
        groups = [("settings", config_class, start), ("planned", DryRunConfig, DryRunConfig())]
        both = dataclasses.make_dataclass("Both", [(n, kind, dataclasses.field(default=d)) for n, kind, d in groups])
        told: Any = tyro.cli(both, args=rest, description=described, config=FLAT)
        _run_or_plan(main, plan, told.settings, told.planned)


def parse(config_class: type[Config], presets: Mapping[str, Config], arguments: list[str]) -> Config:
    """Parse an entry point's flags, `--preset` among them, as its own command line does.

    Raises:
        SystemExit: for flags that it does not have; what is wrong is then on stderr.
        UserError: for a URL with credentials or options in it.
    """
    default, rest = _preset(presets, arguments)
    return tyro.cli(config_class, args=rest, config=FLAT, default=config_class() if default is None else default)


def _preset(presets: Mapping[str, Config] | None, arguments: list[str]) -> tuple[Config | None, list[str]]:
    _refuse_secrets(arguments)
    if not presets:
        return None, arguments
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--preset", choices=sorted(presets), default=None)
    chosen, rest = chooser.parse_known_args(arguments)
    return (presets[chosen.preset] if chosen.preset else None), rest


def _refuse_secrets(arguments: list[str]) -> None:
    """Refuse a URL with credentials or options before anything reads, tells or records it."""
    flag = "a flag"
    for word in arguments:
        if found := re.match(r"--[\w-]+(?==|$)", word):
            flag = found[0]
        if files.carries_secrets(word):
            raise UserError(f"{flag}: {files.NO_SECRETS}")


def _run_or_plan(
    main: Callable[[Config], None], plan: Callable[[Config, DryRunConfig], None], config: Config, asked: DryRunConfig
) -> None:
    dry_run.check(asked)
    if asked.dry_run:
        plan(config, asked)
    else:
        main(config)


def save_config(folder: str, config: Any) -> None:
    """Write a dataclass as FOLDER/config.json, so that a result carries the settings that made it."""
    write_json(join(folder, "config.json"), dataclasses.asdict(config))


def as_saved(config: Any) -> dict[str, Any]:
    """Return a dataclass as its file has it: a tuple is a list there."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def begun_with(path: str, default: Any) -> dict[str, Any]:
    """Read the settings that a run was begun with; a setting that is newer than the run has its default."""
    return _over(as_saved(default), read_json(path))


def _over(settings: dict[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in saved.items():
        known = settings.get(name)
        settings[name] = _over(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return settings
