"""The encoder's command, and what a finished store holds."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from infra.base import cli
from infra.faults import chaos
from pipelines.latents import store
from pipelines.latents.encode_config import PRESETS, EncodeConfig
from pipelines.latents.encode_latents import main

SCRIPT = "pipelines/encode_latents.py"


def refusal(*flags: str) -> str:
    """Run the encoder's command line in this process, and return the one sentence it ends with."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as stopped:
        cli.run(main, EncodeConfig, PRESETS, list(flags))
    assert stopped.value.code == 2
    assert errors.getvalue().startswith("error: ")
    assert len(errors.getvalue().splitlines()) == 1
    return errors.getvalue()


SMALL_BLOCKS = ("--rows-per-file", str(chaos.BLOCK))


def contents(path: Path) -> tuple[store.Counts, str]:
    """Read counts and content hash of a finished store, whose files must be as its manifest says."""
    manifest = store.read_manifest(str(path))
    store.verify(str(path), manifest, contents=True)
    return manifest.counts, manifest.content_hash
