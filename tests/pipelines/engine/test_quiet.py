"""Lines of Ray's core leave stderr, and all others stay; in a process of its own, as it changes file descriptors."""

from __future__ import annotations

import subprocess
import sys

from infra.base.files import ROOT

CODE = """
import os, sys
from pipelines.engine import quiet
core = b"[2026-11-30 16:29:03,408 E 2318 2318] core_worker.cc:2465: Actor with class name: 'A'\\n"
with quiet.without_core():
    os.write(2, core + b"of a library\\n" + core)
    print("of the command", file=sys.stderr)
    print(core.decode(), end="", file=sys.stderr)  # as Ray shows a worker's
os.write(2, core)
print("afterwards", file=sys.stderr)
"""


def test_lines_of_rays_core_are_left_out_within_the_block_alone() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    *within, after, last = done.stderr.splitlines()
    assert sorted(within) == ["of a library", "of the command"]
    assert "core_worker.cc" in after
    assert last == "afterwards"
