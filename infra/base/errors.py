"""The one exception whose message is meant for the user, and the commonest reason for it."""

from __future__ import annotations

import math
from collections.abc import Mapping


class UserError(Exception):
    """Bad input or a bad setting: one sentence that names the file, row or flag. Entry points exit 2 with it."""


def check_least(settings: object, least: Mapping[str, float]) -> None:
    """Refuse flags below their least values, or of no finite one; None, a flag not given, passes.

    Args:
        settings: what has the flags as attributes.
        least: by the flags' names.

    Raises:
        UserError: naming the flag.
    """
    for name, low in least.items():
        value = getattr(settings, name)
        if value is not None and not low <= value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {low}")
