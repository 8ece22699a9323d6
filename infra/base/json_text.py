"""JSON that others wrote, read so that any text of theirs which cannot be read is a ValueError."""

from __future__ import annotations

import json
from typing import Any

TOO_DEEP = "its lists or objects are nested too deeply"


def parse(text: str | bytes) -> Any:
    """Read a JSON text.

    Raises:
        ValueError: if it is not valid, or nested deeper than Python's parser goes.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
