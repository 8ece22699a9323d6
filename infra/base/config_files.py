"""Settings in files: a run's config.json, or YAML by hand, for --config and --print-config."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from infra.base import disk_errors, files, json_text, records
from infra.base.errors import UserError
from infra.base.files import join, write_json
from infra.base.flags import Flag, plain

CONFIG = "config.json"


def save_config(folder: str, settings: Any) -> None:
    """Write settings as FOLDER/config.json, so that a result carries what made it; --config reads it back.

    Raises:
        UserError: if the folder has the settings of another command, whose result would be lost with them.
    """
    path = join(folder, CONFIG)
    _refuse_other_command(path, as_saved(settings))
    write_json(path, dataclasses.asdict(settings))


def _refuse_other_command(path: str, now: Mapping[str, Any]) -> None:
    """Refuse a file of settings of which most have other names than a command's own."""
    if not files.exists(path):
        return
    try:
        before = files.read_json(path)
    except UserError:  # torn: it is written anew
        return
    foreign = sorted(before.keys() - now.keys()) if isinstance(before, dict) else []
    if 2 * len(foreign) > len(before):
        raise UserError(
            f"{path}: is of another command, as it has {', '.join(foreign[:3])}; give a folder of its own for each "
            "command's result"
        )


def as_saved(settings: Any) -> dict[str, Any]:
    """Return settings as their file has them: a tuple is a list there."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def as_yaml(settings: Any) -> str:
    """Write settings as YAML, in a form that --config reads."""
    return yaml.safe_dump(as_saved(settings), sort_keys=False, allow_unicode=True)


def begun_with(path: str, default: Any) -> dict[str, Any]:
    """Read the settings that a run was begun with; a setting that is newer than the run has its default.

    Raises:
        UserError: if the file is torn, another command's, or another file's content.
    """
    settings = as_saved(default)
    saved = records.read_record(path)
    _refuse_other_command(path, settings)
    if not settings.keys() & saved.keys():
        raise UserError(f"{path}: another file's content, not the settings of this command; {records.RESTORE}")
    return _over(settings, saved)


def _over(settings: dict[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in saved.items():
        known = settings.get(name)
        settings[name] = _over(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return settings


def read_settings(path: str) -> dict[str, Any]:
    """Read a file of settings, JSON or YAML; of a result, such as report.json, the settings under its name config.

    Raises:
        UserError: if it cannot be read, holds no names with values, or a URL with credentials.
    """
    if files.carries_secrets(path):
        raise UserError(f"--config: {files.NO_SECRETS}")
    place = files.resolve(path)
    if not files.is_file(place) and files.exists(place):
        inside = files.join(path, CONFIG)
        hint = f"give {inside}" if files.is_file(files.join(place, CONFIG)) else f"and it holds no {CONFIG}"
        raise UserError(f"--config {path}: is a folder, not a file of settings; {hint}")
    try:
        text = files.read_bytes(place).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = disk_errors.reason(error) if isinstance(error, OSError) else "it is no text"
        raise UserError(f"--config {path}: cannot be read ({reason})") from error
    try:
        settings = json_text.parse(text)  # YAML would take JSON's 1e-05 for a string
    except ValueError:
        try:
            settings = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--config {path}: neither JSON nor YAML ({_first_line(error)})") from error
        except RecursionError:
            raise UserError(f"--config {path}: {json_text.TOO_DEEP}; write NAME: VALUE on each line") from None
    if isinstance(settings, dict) and isinstance(settings.get("config"), dict):
        settings = settings["config"]
    if not isinstance(settings, dict):
        raise UserError(f"--config {path}: holds no settings; write NAME: VALUE on each line")
    for name, text in _strings(settings):
        if files.carries_secrets(text):
            raise UserError(f"--config {path}: {name}: {files.NO_SECRETS}")
    return settings


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _strings(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield all strings of a file, the names too, each with the name that it stands under."""
    waiting: list[tuple[str, Any]] = [("", settings)]  # no recursion, as a file may be nested deeply
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((name or "a name", str(key)) for key in value)
            waiting += [(str(key), inner) for key, inner in reversed(list(value.items()))]
        elif isinstance(value, Sequence):
            waiting += [(name, inner) for inner in reversed(value)]


def apply(flags: Sequence[Flag], settings: Mapping[str, Any], path: str) -> list[Flag]:
    """Make a file's settings the defaults of the flags.

    Args:
        settings: as read_settings returns them. They lie in parts, as in config.json, or stand by their flags' names.
        path: of the file, for messages.

    Raises:
        UserError: for a name that no setting has, or a value that its setting cannot have.
    """
    values = dict(_find(flags, settings, (), path))
    return [dataclasses.replace(flag, default=values.get(flag.path, flag.default)) for flag in flags]


def _find(
    flags: Sequence[Flag], settings: Mapping[str, Any], above: tuple[str, ...], path: str
) -> Iterator[tuple[tuple[str, ...], Any]]:
    by_path = {flag.path: flag for flag in flags}
    by_name = {flag.name: flag for flag in flags if flag.shown}
    parts = {flag.path[:length] for flag in flags for length in range(1, len(flag.path))}
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        here = (*above, name)
        flag = by_path.get(here) or (by_name.get(name) if not above else None)
        if here in parts and isinstance(value, Mapping):  # first: a flag may have the name of the part that it lies in
            yield from _find(flags, value, here, path)
        elif flag is not None:
            yield flag.path, check_value(flag, value, path)
        elif here in parts:
            raise UserError(f"--config {path}: {'.'.join(here)} is {value!r}, but holds settings of its own")
        else:
            near = difflib.get_close_matches(name, [known.name for known in flags if known.shown], n=1)
            hint = f"; did you mean {near[0]}?" if near else "; --print-config lists the settings that there are"
            raise UserError(f"--config {path}: {'.'.join(here)} is no setting of this command{hint}")


def check_value(flag: Flag, value: Any, path: str) -> Any:
    """Return a file's value in its setting's own type.

    Raises:
        UserError: if it is of another.
    """
    import pydantic  # not on the way of those who give no file

    try:
        return pydantic.TypeAdapter(plain(flag.kind)).validate_python(value)
    except pydantic.ValidationError as error:
        wrong = error.errors()[0]["msg"]
        raise UserError(f"--config {path}: {flag.name} is {value!r}: {wrong[0].lower()}{wrong[1:]}") from error
