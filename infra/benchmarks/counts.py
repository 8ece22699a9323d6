"""Count the presets and the embedded world anew for dry runs: `python infra/benchmarks/counts.py` writes the table.

A dry run of these settings then loads no torch (infra/base/kept_counts.py). Run it where a model's settings in
infra/benchmarks/shapes, a preset, the code that counts, or a pinned library changed: it takes some minutes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infra.base import cli, files, kept_counts
from pipelines.latents import encode_config, encode_plan, kinds, planned
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.models_known import MODELS
from training.run import plan
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS

WORLD = "world"
KNOWN = (WORLD, *MODELS)


@dataclass(frozen=True, kw_only=True)
class CountsConfig:
    """Flags of the table."""


def count(names: Sequence[str]) -> dict[str, Any]:
    """Count what the dry runs of some models ask for, of KNOWN; returns the answers by their keys."""
    with kept_counts.counting_anew() as answers:
        for name in names:
            folder = planned.SHAPES / name
            encoding = encode_config.PRESETS.get(name, EncodeConfig())
            trainings = [config for config in PRESETS.values() if config.model == encoding.model]
            if name == WORLD:
                folder = Path(files.resolve(encoding.model))
                trainings = [TrainConfig()]
            _count(folder, encoding, trainings)
    return answers


def _count(folder: Path, encoding: EncodeConfig, trainings: Sequence[TrainConfig]) -> None:
    """Ask for all that the dry runs of one model ask for."""
    shapes = planned.shapes_of(folder, encoding.resolution, encoding.max_tokens)
    tokens = kinds.text_tokens(folder, encoding.max_tokens)
    encode_plan.counted_networks(folder, shapes, tokens, encoding)
    manifest = planned.planned_store(folder, encoding.resolution, encoding.max_tokens, planned.PAIRS, planned.CAPTIONS)
    for training in trainings:
        plan.counted_network(replace(training, model=str(folder)), folder, manifest)


def main(config: CountsConfig) -> None:
    """Count all anew and write the table."""
    del config
    lines = [f"{json.dumps(key)}: {json.dumps(answer)}" for key, answer in sorted(count(KNOWN).items())]
    kept_counts.TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{kept_counts.TABLE}: {len(lines)} counts", flush=True)


if __name__ == "__main__":
    cli.run(main, CountsConfig)
