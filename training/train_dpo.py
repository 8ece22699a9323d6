"""Align a diffusion model with preferences: `ray job submit -- python training/train_dpo.py`.

Diffusion-DPO (Wallace et al. 2023) over a latent store. The same command again resumes from the last complete
checkpoint, exactly; a finished run is left as it is.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra import cli, files
from infra.errors import UserError
from pipelines.store import writer_lock
from training import checkpoint
from training.config import PRESETS, TrainConfig
from training.preflight import check_config
from training.result import is_finished, result_folder

# Settings that do not change what is computed, but for rounding, so a resumed run may have others.
FREE = (
    *("workers", "min_workers", "cpus_per_worker", "max_failures", "max_preemptions", "resume_from"),
    *("sharding", "activation_checkpointing", "compile", "channels_last"),
    *("keep_checkpoints", "output", "steps", "cache"),
)


def main(config: TrainConfig) -> None:
    """Align a diffusion model with the preferences in a latent store, on Ray Train workers."""
    if config.output.startswith("s3://"):
        raise UserError("--output: run folders are local or shared disk; copy the result to S3 afterwards")
    output = Path(files.resolve(config.output))
    if config.resume_from is None and is_finished(output, config.steps):
        _refuse_other_settings(output, config)
        print(f"{output}: already finished, its result is {result_folder(output)}", flush=True)
        return
    pinned = check_config(config)
    with writer_lock(str(output)):
        if (output / "config.json").exists():
            _refuse_other_settings(output, config)
        if config.resume_from is not None:
            checkpoint.rewind(output, config.resume_from)
        cli.save_config(str(output), config)
        from training.workers import launch

        launch(pinned, output)
        if not is_finished(output, config.steps):
            raise UserError(f"{output}: the workers ended before step {config.steps}; run the same command again")
    print(f"{output}: finished, its result is {result_folder(output)}", flush=True)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return {name: value for name, value in flat.items() if name not in FREE}


def _refuse_other_settings(output: Path, config: TrainConfig) -> None:
    before, now = _flat(files.read_json(str(output / "config.json"))), _flat(asdict(config))
    differing = [f"{name} was {before.get(name)!r}, now {now[name]!r}" for name in now if before.get(name) != now[name]]
    if differing:
        raise UserError(f"{output} was begun with other settings ({'; '.join(differing)}); give another --output")


if __name__ == "__main__":
    cli.run(main, TrainConfig, PRESETS)
