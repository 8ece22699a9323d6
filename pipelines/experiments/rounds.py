"""Run iterative DPO on the model's own images: `ray job submit -- python pipelines/rounds.py --rounds 3`.

Each round draws images with the current policy, ranks them by a scorer into raw pairs, encodes these and trains on
them. It then judges the new policy against the base on captions that no round trains on. Every step is the main
function of its command and idempotent, so the same command again goes on where it was killed.

The output folder holds config.json, base/ (the base's images of the test captions), round-N/ with drawn/, raw/, store/,
train/ and images/, and rounds.json, which each round rewrites.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from infra.base import files, models, next_step, object_storage, one_writer
from infra.base.result_files import FACTS
from labelers.scoring import scorers
from pipelines.drawing import generate
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.experiments.rounds_checks import check_config, settle
from pipelines.experiments.rounds_config import RoundsConfig
from pipelines.judging import rank_pairs, score
from pipelines.judging.comparison import compare, read_drawn
from pipelines.latents import encode_latents, store
from training.checkpoints.run_folder import RESULT, STEPS, read_notes
from training.run import train_dpo
from training.settings.config import TrainConfig

ROUNDS = "rounds.json"


def round_folder(config: RoundsConfig, number: int, *parts: str) -> str:
    """Return the folder of a round, or one below it; rounds count from 1."""
    return files.join(files.resolve(config.train.output), f"round-{number}", *parts)


def base_images(config: RoundsConfig) -> str:
    """Return the folder of the base's images."""
    return files.join(files.resolve(config.train.output), "base")


def drawing(config: RoundsConfig, model: models.Model, output: str, seed: int) -> GenerateConfig:
    """Return the settings that draw the pairs' captions with a model."""
    return replace(
        config.draw,
        model=model.name,
        revision=model.revision,
        output=output,
        images_per_prompt=config.groups * config.group_size,
        seed=seed,
        sampling_steps=config.train.validation.sampling_steps,
        guidance_scale=config.train.validation.guidance_scale,
    )


@next_step.of_another_command()
def draw_test_images(config: RoundsConfig, model: models.Model, output: str) -> None:
    """Draw one image per test caption, from the same start noise for every model."""
    of_pairs = drawing(config, model, output, config.train.seed)
    generate.main(replace(of_pairs, prompts=config.test_prompts, limit=config.test_limit, images_per_prompt=1))


@next_step.of_another_command()
def score_images(config: RoundsConfig, base: models.Model, folder: str, names: tuple[str, ...]) -> None:
    """Score a folder of images by some of the scorers."""
    weights_of = scorers.weights_of(config.scorers, config.weights)
    score.main(
        score.ScoreConfig(
            images=(folder,),
            scorers=names,
            weights=tuple(f"{name}={weights_of[name]}" for name in names if weights_of[name]),
            feature_model=str(base.folder()),
        )
    )


@next_step.of_another_command()
def run_round(config: RoundsConfig, number: int, base: models.Model, policy: models.Model) -> models.Model:
    """Run one round, or what is left of it, from a policy to the next, and return the next."""
    drawn = round_folder(config, number, "drawn")
    raw = round_folder(config, number, "raw")
    encoded = round_folder(config, number, "store")
    run = round_folder(config, number, "train")
    images = round_folder(config, number, "images")
    _say(config, number, f"draw images with {policy.name}")
    generate.main(drawing(config, policy, drawn, config.train.seed + number))
    weights = scorers.weights_of(config.scorers, config.weights)
    _say(config, number, f"rank them by {scorers.title(config.scorer, weights[config.scorer])}")
    score_images(config, base, drawn, (config.scorer,))
    ranking = rank_pairs.RankConfig(
        images=drawn, output=raw, scorer=config.scorer, pairs=config.pairs, group_size=config.group_size
    )
    rank_pairs.main(ranking)
    _say(config, number, "encode the pairs")
    encode = replace(config.encode, model=base.name, revision=base.revision, seed=config.train.seed)
    encode = replace(encode, max_tokens=config.draw.max_tokens)
    encode_latents.main(replace(encode, source=raw, store=encoded))
    reference = base if config.reference == "original" else policy
    _say(config, number, f"train, held to {reference.name}")
    train_dpo.main(training(config, policy, reference, encoded, run))
    tuned = models.Model(files.join(run, RESULT))
    _say(config, number, "judge the new policy")
    draw_test_images(config, tuned, images)
    score_images(config, base, images, config.judges)
    return tuned


def training(
    config: RoundsConfig, policy: models.Model, reference: models.Model, encoded: str, run: str
) -> TrainConfig:
    """Return a round's settings for the trainer; it names no reference where that is the policy itself."""
    named = reference if reference != policy else None
    return replace(
        config.train,
        model=policy.name,
        revision=policy.revision,
        reference_model=named.name if named else None,
        reference_revision=named.revision if named else None,
        output=run,
        data=replace(config.train.data, store=encoded),
    )


def _say(config: RoundsConfig, number: int, what: str) -> None:
    print(f"\n[round {number} of {config.rounds}] {what}", flush=True)


def summarise(config: RoundsConfig, number: int) -> dict[str, Any]:
    """Gather the figures of a finished round: pairs, implicit accuracy, and each judge's win rate and medians.

    training_accuracy is that of the training pairs against the round's reference, averaged over the last quarter of the
    steps. held_out is null unless a store of held-out pairs was given.
    """
    run = round_folder(config, number, "train")
    facts = files.read_json(files.join(run, RESULT, FACTS))
    rows = read_notes(run, STEPS)
    last = [row["accuracy"] for row in rows[len(rows) * 3 // 4 :] if row["accuracy"] is not None]
    compared = compare(read_drawn(round_folder(config, number, "images")), read_drawn(base_images(config)))
    return {
        "round": number,
        "model": files.join(run, RESULT),
        "pairs": asdict(store.read_manifest(round_folder(config, number, "store")).counts),
        "training_accuracy": sum(last) / len(last) if last else None,
        "held_out": facts.get("implicit_reward"),
        "judged": {name: compared[name] for name in config.judges},
    }


def _accuracy(one: Mapping[str, Any]) -> str:
    """Say a round's implicit accuracy, and of which pairs it is."""
    if one["held_out"]:
        return f"{one['held_out']['accuracy']:.3f} of {one['held_out']['n']:,} held out"
    return "-" if one["training_accuracy"] is None else f"{one['training_accuracy']:.3f} in training"


def table(rounds: Iterable[Mapping[str, Any]], judges: Mapping[str, str]) -> str:
    """Lay the rounds out for the terminal, a line per round and judge; judges are titles by name."""
    head = ("round", "pairs", "implicit accuracy", "judge", "win rate over the base", "median, base")
    lines = [head]
    for one in rounds:
        start = (str(one["round"]), f"{one['pairs']['kept']:,}", _accuracy(one))
        for name, title in judges.items():
            won = one["judged"][name]["win_rate"]
            median = one["judged"][name]["median"]
            rate = f"{won['value']:.3f} ({won['low']:.3f} to {won['high']:.3f})"
            lines.append((*start, title, rate, f"{median['policy']:.4f}, {median['base']:.4f}"))
            start = ("", "", "")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def main(config: RoundsConfig) -> None:
    """Tune a model in rounds on pairs of its own images, each round judged against the base."""
    check_config(config)
    output = files.resolve(config.train.output)
    object_storage.check("--output", output)
    with one_writer.writer_lock(output):
        settle(config)
        base = policy = models.Model(config.train.model, config.train.revision).pinned()
        print("draw the test captions with the base", flush=True)
        draw_test_images(config, base, base_images(config))
        score_images(config, base, base_images(config), config.judges)
        path = files.join(output, ROUNDS)
        rounds: list[dict[str, Any]] = []
        earlier = files.read_json(path)["rounds"] if files.exists(path) else []
        for number in range(1, config.rounds + 1):
            policy = run_round(config, number, base, policy)
            rounds.append(summarise(config, number))
            files.write_json(path, {"config": asdict(config), "rounds": rounds + earlier[number:]})
    weights = scorers.weights_of(config.scorers, config.weights)
    titles = {name: scorers.title(name, weights[name]) for name in config.judges}
    print(f"\n{table(rounds, titles)}\n{path}", flush=True)
