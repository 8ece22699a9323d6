"""The one exception whose message is meant for the user."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or a bad setting: one sentence that names the file, row or flag. Entry points exit 2 with it."""
