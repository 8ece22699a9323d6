"""Rates that `infra/plan.py` needs and no other benchmark gives: `python infra/benchmarks/rates.py --json rates.json`.

Decoding: the encoder's first step over JPEG pairs of a given side, on one core. A checkpoint: what holds the step up
(the copy in CPU memory) and what goes on beside it (written, synchronised, hashed and marked).
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from infra.base import cli, files
from infra.base.places import PathText
from infra.benchmarks.measure import in_turns, median
from pipelines.latents.decoding import CheckAndDecode
from training.checkpoints import checkpoint

BATCH = 16  # pairs
STATE = checkpoint.State(step=1, seed=0, global_batch=1, store_hash="random", labels_hash="random")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    side: int = 768
    """Of the JPEGs, pixels."""
    resolution: int = 512
    """That they are resized to."""
    megabytes: int = 1024
    """Of the checkpoint."""
    folder: str | None = None
    """Where the checkpoint is written: on the disk that is meant; by default the temporary folder."""
    rounds: int = 5
    json: PathText | None = None
    """File for the figures."""


def raw_pairs(side: int) -> pa.Table:
    """Make a batch of raw pairs whose images compress like photographs: smooth noise over a little sharp noise."""
    generator = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(BATCH):
        images = []
        for _ in range(2):
            coarse = generator.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.int16)
            grain = generator.integers(-8, 9, smooth.shape, dtype=np.int16)
            buffer = io.BytesIO()
            Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=90)
            images.append(buffer.getvalue())
        rows.append({"caption": "noise", "jpg_0": images[0], "jpg_1": images[1], "label_0": 1.0, "ranking_id": number})
    return pa.Table.from_pylist(rows)


def decode(step: CheckAndDecode, raw: pa.Table) -> float:
    """Decode the batch once and return pairs/s of CPU time."""
    started = time.process_time()
    decoded = step(raw)
    seconds = time.process_time() - started
    assert decoded["status"].to_pylist() == ["kept"] * BATCH
    return BATCH / seconds


def copy_checkpoint(groups: checkpoint.Groups, size: float) -> float:
    """Copy the checkpoint in memory and return GB/s."""
    started = time.perf_counter()
    checkpoint.copied(groups)
    return size / (time.perf_counter() - started) / 1e9


def write_checkpoint(folder: Path, groups: checkpoint.Groups, size: float) -> float:
    """Write the checkpoint to its marker and to the disk, and return GB/s."""
    started = time.perf_counter()
    checkpoint.save(folder, STATE, groups)
    os.sync()
    return size / (time.perf_counter() - started) / 1e9


def main(config: BenchmarkConfig) -> None:
    """Measure decoding on one core, and the copy and the write of a checkpoint."""
    torch.set_num_threads(1)
    step = CheckAndDecode(config.resolution, strict_labels=False)
    raw = raw_pairs(config.side)
    tensors = {f"weight_{i}": torch.randn(1 << 20) for i in range(config.megabytes // 4)}
    groups = {"network": tensors}
    size = 4.0 * (1 << 20) * len(tensors)
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        decoding = in_turns({"decode": lambda: decode(step, raw)}, config.rounds, "pairs/s of a core")
        ways = {
            "copy": lambda: copy_checkpoint(groups, size),
            "write": lambda: write_checkpoint(Path(name), groups, size),
        }
        samples = decoding | in_turns(ways, config.rounds, "GB/s")
    rates = {f"{name}_rate": median(values) for name, values in samples.items()}
    print("  ".join(f"{name} {value:.2f}" for name, value in rates.items()), flush=True)
    if config.json:
        text = json.dumps(rates | {"samples": samples, "config": asdict(config)}, indent=2)
        Path(files.resolve(config.json)).write_text(text + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
