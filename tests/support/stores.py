"""The encoder's command, and what a finished store holds."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.base import cli, files
from infra.faults import chaos
from pipelines.latents import addresses, schemas, store
from pipelines.latents.encode_config import PRESETS, EncodeConfig
from pipelines.latents.encode_latents import main
from pipelines.latents.encode_plan import print_plan

SCRIPT = "pipelines/encode_latents.py"


def refusal(*flags: str) -> str:
    """Run the encoder's command line in this process, or its dry run, and return the one sentence it ends with.

    What it says of repeated rows of the source, before the refusal, is left out.
    """
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as stopped:
        cli.run(main, EncodeConfig, PRESETS, list(flags), plan=print_plan)
    assert stopped.value.code == 2
    *before, sentence = errors.getvalue().splitlines()
    assert sentence.startswith("error: ")
    assert all("rows " in line for line in before)
    return f"{sentence}\n"


SMALL_BLOCKS = ("--rows-per-file", str(chaos.BLOCK))


def overwrite_latents(path: Path, row: int, value: float) -> None:
    """Give the latents of a pair, by its place among the ids, another value that the store vouches for."""
    manifest = json.loads((path / store.MANIFEST).read_text())
    place = pa.ipc.open_file(str(path / addresses.PAIRS)).read_all().slice(row, 1).to_pylist()[0]
    part = pa.ipc.open_file(str(path / addresses.PAIR_PARTS)).read_all().slice(place["part"], 1).to_pylist()[0]
    size = math.prod(manifest["latent_shape"])
    table = pq.read_table(path / part["file"], partitioning=None)
    for name in schemas.latent_columns(manifest["flip"]):
        rows = schemas.value_rows(table[name]).copy()
        rows[place["row"]] = np.full(size, value, rows.dtype)
        table = table.set_column(table.schema.names.index(name), table.schema.field(name), schemas.value_lists(rows))
    files.write_table(str(path / part["file"]), table, schemas.WRITTEN_AS)
    located = {
        name: addresses.describe_file(str(path / name))[1]
        for name in manifest["files"]
        if name.startswith(tuple(f"{folder}/" for folder in addresses.KEYS))
    }
    manifest["files"] |= addresses.write(str(path), located)
    manifest["files"][part["file"]]["sha256"] = files.sha256(str(path / part["file"]))
    (path / store.MANIFEST).write_text(json.dumps(manifest))


def contents(path: Path) -> tuple[store.Counts, str]:
    """Read counts and content hash of a finished store, whose files must be as its manifest says."""
    manifest = store.read_manifest(str(path))
    store.verify(str(path), manifest, contents=True)
    return manifest.counts, manifest.content_hash


def truncate(path: Path) -> None:
    """Take away the last bytes of a file."""
    path.write_bytes(path.read_bytes()[:-4])


def flip(path: Path) -> None:
    """Change one bit of a file, and not its length."""
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes([content[8] ^ 1]) + content[9:])
