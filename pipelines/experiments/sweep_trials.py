"""Read a sweep's file and make its trials, each as the settings of the commands that it runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.base import cli, files
from infra.base.errors import UserError
from pipelines.drawing import generate_config
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.judging import score
from training.checkpoints.run_folder import RESULT
from training.settings import presets
from training.settings.config import TrainConfig

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
BASE = "base"
SECONDS = "seconds.json"
# Flags that the sweep sets itself.
DECIDED = {"train": ("--seed", "--output"), "generate": ("--model", "--revision", "--lora", "--output")}
Flags = tuple[str, ...]


class Sweep(BaseModel):
    """The content of a sweep's file; `{seed}` in a flag stands for the trial's seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: Annotated[dict[str, Flags], Field(min_length=1)]  # by name, its own flags of train_dpo.py
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    train: Flags = ()  # flags of train_dpo.py that all trials have
    generate: Flags = ()  # flags of generate.py
    scorers: Annotated[Flags, Field(min_length=1)] = ("oracle", "fidelity")
    weights: Flags = ()  # weights of the scorers, as the flag of score.py


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A training run, and the drawing and scoring of its images; the trial of the base has no training."""

    name: str
    seed: int
    flags: Flags
    train: TrainConfig | None
    draw: GenerateConfig
    score: score.ScoreConfig
    seconds: str  # file with the seconds of each part

    @property
    def commands(self) -> dict[str, str]:
        """Return the commands that do the same as the trial."""
        drawn = {name: value for name, value in asdict(self.draw).items() if value != getattr(GenerateConfig(), name)}
        shown = [word for name, value in drawn.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return {
            "command": shlex.join(["python", "training/train_dpo.py", *self.flags]),
            "draw": shlex.join(["python", "pipelines/generate.py", *shown]),
        }


def read_sweep(path: str) -> Sweep:
    """Read a sweep's file.

    Raises:
        UserError: naming the file and what is wrong in it.
    """
    try:
        sweep = Sweep.model_validate(files.read_json(files.resolve(path)))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--file {path}: {'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}") from error
    except FileNotFoundError as error:
        raise UserError(f"--file {path}: no such file; give a sweep's JSON file") from error
    for name in sweep.trials:
        if name == BASE or not NAME.fullmatch(name):
            raise UserError(
                f"--file {path}: trial {name!r}: use letters, digits, '.', '_' and '-' only, and not {BASE!r}"
            )
    if len(set(sweep.seeds)) != len(sweep.seeds):
        raise UserError(f"--file {path}: seeds: one stands twice; list each once")
    for name, flags in {"train": sweep.train, "generate": sweep.generate, **sweep.trials}.items():
        for word in flags:
            if word.partition("=")[0] in DECIDED.get(name, DECIDED["train"]):
                raise UserError(f"--file {path}: {name}: {word} is for the sweep to decide; leave it out")
    return sweep


def make_trials(sweep: Sweep, output: str) -> list[Trial]:
    """Return the trial of the base, then every trial of every seed, seed by seed.

    Raises:
        UserError: naming a trial whose flags train_dpo.py or generate.py refuses, or if trials start from two models.
    """
    trials = []
    draw = _parsed(GenerateConfig, generate_config.PRESETS, sweep.generate, "generate")
    for seed in sweep.seeds:
        for name, own in sweep.trials.items():
            folder = files.join(output, name, f"seed-{seed}")
            flags = tuple(word.replace("{seed}", str(seed)) for word in (*sweep.train, *own))
            flags = (*flags, "--seed", str(seed), "--output", files.join(folder, "train"))
            config = _parsed(TrainConfig, presets.PRESETS, flags, f"trial {name}")
            trials.append(_trial(sweep, draw, name, seed, folder, flags, config))
    starts = {(trial.train.model, trial.train.revision) for trial in trials if trial.train}
    if len(starts) > 1:
        names = ", ".join(sorted(model for model, _ in starts))
        raise UserError(
            f"trials start from {len(starts)} models ({names}), but share one base; give all the same --model"
        )
    ((model, revision),) = starts
    base = TrainConfig(model=model, revision=revision)
    return [_trial(sweep, draw, BASE, sweep.seeds[0], files.join(output, BASE), (), base), *trials]


def _trial(
    sweep: Sweep, draw: GenerateConfig, name: str, seed: int, folder: str, flags: Flags, config: TrainConfig
) -> Trial:
    images = files.join(folder, "images")
    drawn: dict[str, Any] = asdict(draw) | {"model": config.model, "revision": config.revision, "output": images}
    result = files.join(config.output, RESULT)
    if name != BASE:
        drawn |= {"lora": result} if config.policy.lora_rank else {"model": result, "revision": None}
    return Trial(
        name=name,
        seed=seed,
        flags=flags,
        train=None if name == BASE else config,
        draw=GenerateConfig(**drawn),
        score=score.ScoreConfig(
            images=(images,), scorers=sweep.scorers, weights=sweep.weights, feature_model=config.model
        ),
        seconds=files.join(folder, SECONDS),
    )


def _parsed(kind: Any, known: Mapping[str, Any], flags: Flags, of: str) -> Any:
    try:
        return cli.parse(kind, known, list(flags))
    except SystemExit as error:
        raise UserError(f"{of}: flags not understood: {' '.join(flags)}; correct the one named above") from error
