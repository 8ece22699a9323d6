"""What a sweep's file says, and the trials it lists, each as the entry points' own settings."""

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
BASE, SECONDS = "base", "seconds.json"
DECIDED = {"train": ("--seed", "--output"), "generate": ("--model", "--revision", "--lora", "--output")}  # by the sweep
Flags = tuple[str, ...]


class Sweep(BaseModel):
    """What a sweep's file says; `{seed}` in a flag stands for the trial's seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: Annotated[dict[str, Flags], Field(min_length=1)]  # by name, the flags of train_dpo.py that are its own
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    train: Flags = ()  # flags of train_dpo.py that all trials have
    generate: Flags = ()  # flags of generate.py
    scorers: Annotated[Flags, Field(min_length=1)] = ("oracle", "fidelity")
    weights: Flags = ()  # of the scorers, as score.py's


@dataclass(frozen=True)
class Trial:
    """One training run and the drawing and scoring of its images; the base's has no training."""

    name: str
    seed: int
    flags: Flags
    train: TrainConfig | None
    draw: GenerateConfig
    score: score.ScoreConfig
    seconds: str  # the file that keeps how long each part took

    @property
    def commands(self) -> dict[str, str]:
        """Return the commands that do the same by hand."""
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
        found = Sweep.model_validate(files.read_json(files.resolve(path)))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--file {path}: {'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}") from error
    except FileNotFoundError as error:
        raise UserError(f"--file {path}: no such file") from error
    for name in found.trials:
        if name == BASE or not NAME.fullmatch(name):
            raise UserError(f"--file {path}: trial {name!r}: letters, digits, '.', '_' and '-' only, and not {BASE!r}")
    if len(set(found.seeds)) != len(found.seeds):
        raise UserError(f"--file {path}: seeds: each once")
    for name, flags in {"train": found.train, "generate": found.generate, **found.trials}.items():
        for word in flags:
            if word.partition("=")[0] in DECIDED.get(name, DECIDED["train"]):
                raise UserError(f"--file {path}: {name}: {word} is for the sweep to decide")
    return found


def make_trials(sweep: Sweep, output: str) -> list[Trial]:
    """Lay out the base's drawing and every trial for every seed, seed by seed.

    Raises:
        UserError: naming the trial whose flags train_dpo.py or generate.py would refuse, or that starts elsewhere.
    """
    trials = []
    for seed in sweep.seeds:
        for name, own in sweep.trials.items():
            folder = files.join(output, name, f"seed-{seed}")
            flags = tuple(word.replace("{seed}", str(seed)) for word in (*sweep.train, *own))
            flags = (*flags, "--seed", str(seed), "--output", files.join(folder, "train"))
            config = _parsed(TrainConfig, presets.PRESETS, flags, f"trial {name}")
            trials.append(_trial(sweep, name, seed, folder, flags, config))
    starts = {(one.train.model, one.train.revision) for one in trials if one.train}
    if len(starts) > 1:
        raise UserError(f"trials start from {len(starts)} models ({', '.join(sorted(m for m, _ in starts))}); one base")
    ((model, revision),) = starts
    base = TrainConfig(model=model, revision=revision)
    return [_trial(sweep, BASE, sweep.seeds[0], files.join(output, BASE), (), base), *trials]


def _trial(sweep: Sweep, name: str, seed: int, folder: str, flags: Flags, config: TrainConfig) -> Trial:
    images, draw = (
        files.join(folder, "images"),
        _parsed(GenerateConfig, generate_config.PRESETS, sweep.generate, "generate"),
    )
    drawn: dict[str, Any] = asdict(draw) | {"model": config.model, "revision": config.revision, "output": images}
    result = files.join(config.output, RESULT)
    if name != BASE:
        drawn |= {"lora": result} if config.policy.lora_rank else {"model": result, "revision": None}
    judged = score.ScoreConfig((images,), sweep.scorers, sweep.weights, feature_model=config.model)
    trained = None if name == BASE else config
    return Trial(name, seed, flags, trained, GenerateConfig(**drawn), judged, files.join(folder, SECONDS))


def _parsed(kind: Any, known: Mapping[str, Any], flags: Flags, of: str) -> Any:
    try:
        return cli.parse(kind, known, list(flags))
    except SystemExit as error:
        raise UserError(f"{of}: flags not understood: {' '.join(flags)}") from error
