"""Ending a command at once when all is done: Python would first take its libraries apart, object by object.

With torch and diffusers loaded that takes 1.7 s of CPU, as much as training several small steps. Whatever registered
with atexit has run by then, as this module registers before the libraries do, and such functions run in reverse order.
"""

from __future__ import annotations

import atexit
import os
import sys


class _Command:
    has_ended_well = False


def note_success() -> None:
    """Note that this process's command has done all that it is to do."""
    _Command.has_ended_well = True


@atexit.register
def _end() -> None:
    # A process that runs a command among other things, such as a test, ends with a code of its own.
    is_command = hasattr(sys.modules["__main__"], "command")
    if _Command.has_ended_well and is_command:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
