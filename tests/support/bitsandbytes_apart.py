"""bitsandbytes, which lies apart from the other packages, for the tests that need it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

APART = Path(sys.prefix, "apart")  # where the Makefile puts it: on the path, every command would import it
INSTALLED = APART.is_dir() or importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed")
