"""What a result was begun with: the settings that a resumed command must share with the command before it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from infra.base import files
from infra.base.errors import UserError

SHOWN = 100  # characters of a value in a message


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = (), exact: bool = False
) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ: name to (value before, value now); a value that is absent counts as None.

    Groups of settings are compared setting by setting, under the settings' own names, as flags have them.

    Args:
        ignored: names of settings that may change.
        exact: whether names count that `before` alone has. By default they do not: an older version may have had
            settings that are gone.
    """
    old = _by_own_name(before)
    new = _by_own_name(now)
    names = [*new, *(name for name in old if name not in new and exact)]
    both = {name: (old.get(name), new.get(name)) for name in names if name not in ignored}
    return {name: values for name, values in both.items() if not _same(*values)}


def _same(before: Any, now: Any) -> bool:
    """Say whether two values are equal; a path that a run of before has from the repository's root is its full one."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return all(map(_same, before, now))
    from_root = isinstance(before, str) and isinstance(now, str) and now == str(files.ROOT / before)
    return before == now or from_root


def refuse_other_settings(
    place: str,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    remedy: str,
    ignored: Collection[str] = (),
    exact: bool = False,
) -> None:
    """Refuse to go on with other settings than a result was begun with; see differences.

    Args:
        place: what was begun: a folder, or a flag with its value.
        remedy: what to do instead, for example "give another --output".

    Raises:
        UserError: naming each setting that differs, with both values.
    """
    differing = differences(before, now, ignored, exact)
    if differing:
        values = "; ".join(f"{name} was {_shown(was)}, now {_shown(new)}" for name, (was, new) in differing.items())
        raise UserError(f"{place} was begun with other settings ({values}); {remedy}")


def by_full_name(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Take settings out of their groups, under names like group.name: for groups that have names in common."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= by_full_name(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _by_own_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _by_own_name(value) if isinstance(value, Mapping) else {name: value}
    return flat


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
