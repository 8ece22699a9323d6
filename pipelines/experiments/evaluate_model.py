"""Any model against any base on any prompts: `python pipelines/evaluate_model.py --model M --base B --prompts SET`.

Both draw the same prompts from the same start noise; every named scorer judges both. What comes out is report.json,
with the command that made it, and a self-contained report.html. The steps are the main functions of generate.py and
score.py, and idempotent: the same command again goes on where it was killed, and another scorer draws nothing anew.

One folder: config.json, prompts.jsonl (the prompts as they were read), base/ and policy/ (images and scores).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from infra.base import begun, cli, files, models, next_step, object_storage, one_writer
from infra.base.errors import UserError, check_least
from infra.pages import made
from labelers.scoring import endpoint, scorers
from pipelines.drawing import generate, generate_config
from pipelines.drawing.image_flags import summarise_image_flags
from pipelines.drawing.image_sets import describe_captions
from pipelines.drawing.prompt_sets import PromptSet, read_set
from pipelines.drawing.prompts import read_prompts
from pipelines.experiments.evaluate_config import EvaluateConfig
from pipelines.judging import flag_images, pairwise, score, score_files
from pipelines.judging.comparison import Drawn, Images, check_comparable, find_images, read_drawn
from pipelines.judging.evaluation import Evaluated, break_down, judge, line_up, unjudged
from pipelines.judging.origin import find_origin
from pipelines.latents.safety import make_filter
from pipelines.reports import evaluation_page

SCHEMA_VERSION = 1
ALWAYS_TOLD = ("model", "base", "prompts", "scorers")  # in the report's command, whatever the defaults become


def check_config(config: EvaluateConfig, prompts: PromptSet) -> EvaluateConfig:
    """Refuse at once what a step would notice after hours, and pin the models to commits.

    Raises:
        UserError: naming the flag that does not fit.
    """
    if config.model is None and config.lora is None:
        raise UserError("--model: give the policy, or --lora with the adapters that make one of the base")
    check_least(config, {"limit": 1, "scoring_batch_size": 1})
    if not config.scorers:
        raise UserError("--scorers: give at least one, or none to see the images without a judge")
    base = models.Model(config.base, config.base_revision)
    policy = models.Model(config.model, config.revision) if config.model else base
    for flag, model in (("--base", base), ("--model", policy)):
        model.folder(flag=flag)
    for flag, lora, model in (("--lora", config.lora, policy), ("--base-lora", config.base_lora, base)):
        if lora:
            from pipelines.latents.adapters import check_adapters  # which loads the libraries of networks

            check_adapters(flag, models.adapters_folder(flag, lora), model.folder())
    judges = judges_of(config)
    for name, weights in judges.items():
        scorers.check(name, weights, prompts.captions)
    if config.true_images and judges.keys() == pairwise.judges_of_pairs(judges).keys():
        raise UserError(
            f"--true-images {config.true_images}: no judge here looks at single images, so none is compared with them; "
            "add a scorer to --scorers, or leave the flag out"
        )
    for model, lora in ((base, config.base_lora), (policy, config.lora)):
        drawing = replace(config.draw, model=model.name, revision=model.revision, lora=lora)
        generate.check_models(generate_config.check_config(drawing))
    if config.true_images:
        find_images(config.true_images)
    if config.feature_model:
        models.local_folder(config.feature_model, flag="--feature-model")
    make_filter(config.safety)
    base = base.pinned()
    policy = policy.pinned()
    return replace(config, model=policy.name, revision=policy.revision, base=base.name, base_revision=base.revision)


def judges_of(config: EvaluateConfig) -> dict[str, str | None]:
    """Return the judges by name, with what loads each; none where nobody judges."""
    return scorers.described(config.judges, config.weights, config.endpoint, config.scorer_python)


@next_step.of_another_command()
def draw(config: EvaluateConfig, prompts: str) -> tuple[Images, Images]:
    """Draw the prompts with both models, or what is left of them; returns policy and base."""
    output = files.resolve(config.output)
    base = files.resolve(config.base_images) if config.base_images else files.join(output, "base")
    policy = files.join(output, "policy")
    sides = (
        (base, config.base, config.base_revision, config.base_lora),
        (policy, str(config.model), config.revision, config.lora),
    )
    for folder, model, revision, lora in sides:
        print(f"\ndraw with {model}{f' and {lora}' if lora else ''}", flush=True)
        drawing = replace(config.draw, model=model, revision=revision, lora=lora, output=folder)
        generate.main(replace(drawing, prompts=prompts, limit=None))
    if make_filter(config.safety).identity:
        flag_images.main(flag_images.FlagConfig((base, policy), config.safety, config.scoring_batch_size))
    both = (find_images(policy), find_images(base))
    check_comparable(*both)
    return both


@next_step.of_another_command()
def score_both(config: EvaluateConfig, judges: Sequence[str], policy: Images, base: Images) -> tuple[Drawn, Drawn]:
    """Score both models' images by every judge of single images, as --scorers has it, or what is left of them."""
    weights = scorers.weights_of([name for name in config.judges if "://" not in name], config.weights)
    print(f"\nscore by {', '.join(scorers.title(name, weights.get(name, name)) for name in judges)}", flush=True)
    settings = score.ScoreConfig(
        images=(base.folder, policy.folder),
        scorers=tuple(judges),
        weights=config.weights,
        true_images=config.true_images,
        feature_model=config.feature_model or str(models.Model(config.base, config.base_revision).folder()),
        batch_size=config.scoring_batch_size,
        endpoint=config.endpoint,
        scorer_python=config.scorer_python,
    )
    score.main(settings)
    return read_drawn(policy.folder), read_drawn(base.folder)


def command_of(config: EvaluateConfig) -> str:
    """Return the command line that has these settings, without a preset."""
    return made.command_of("pipelines/evaluate_model.py", config, ALWAYS_TOLD)


def build(
    config: EvaluateConfig, prompts: PromptSet, policy: Images, base: Images, judges: Sequence[str]
) -> dict[str, Any]:
    """Gather what a report says before anybody judged; its keys stay what they are within a schema version."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command_of(config),
        "judge": None,
        "win_rate": {},
        "median": {},
        "breakdown": {},
        "sets": {},
        "safety": summarise_image_flags({"base": base.folder, "policy": policy.folder}),
        "origin": find_origin(*filter(None, (config.lora, config.model))).in_report(list(judges)),
        "prompts": {
            "set": prompts.name,
            "source": prompts.source,
            "rows": prompts.rows,
            "used": len(prompts.prompts),
            "unique": len(set(prompts.captions)),
            "sha256": prompts.sha256,
        },
        "models": {"base": dict(base.identity), "policy": dict(policy.identity)},
        "scorers": {},
        "config": asdict(config),
    }


def judge_all(
    config: EvaluateConfig, prompts: PromptSet, weights: Mapping[str, str | None], policy: Images, base: Images
) -> tuple[Evaluated, dict[str, Any]]:
    """Let every judge see both models' images; return the scores, and what they add to a report.

    Args:
        weights: by judge, as scorers.described has them.
    """
    per_prompt = config.draw.images_per_prompt
    of_pairs = pairwise.judges_of_pairs(weights)
    single = [name for name in weights if name not in of_pairs]
    evaluated = unjudged(prompts.prompts, per_prompt)
    sets: dict[str, Any] = {}
    prints = {name: one.fingerprint for name, one in of_pairs.items()}
    if single:
        given = [name for name in config.judges if not (of_pairs and endpoint.is_address(name))]
        scored = score_both(config, given, policy, base)
        evaluated = line_up(prompts.prompts, per_prompt, *scored, single)
        sets = {"base": scored[1].judged, "policy": scored[0].judged}
        prints |= score_files.fingerprints(base.folder)
    ties: dict[str, dict[str, int]] = {name: {} for name in weights}
    for name, one in of_pairs.items():
        ids = evaluated.wanted["image_id"].to_pylist()
        said = pairwise.judge_pairs(name, one, (policy.folder, base.folder), ids, config.scoring_batch_size)
        evaluated = evaluated.also(name, said.policy, said.base)
        ties[name] = {
            "order_disagreements": said.order_disagreements,
            "without_verdict": said.without_verdict,
            "unanswered": said.unanswered,
        }
    judged = {name: judge(evaluated, name) for name in weights}
    return evaluated, {
        "judge": next(iter(weights)),
        "win_rate": {name: {k: v for k, v in won.items() if k != "median"} for name, won in judged.items()},
        "median": {name: judged[name]["median"] for name in single},
        "breakdown": break_down(evaluated, prompts.columns),
        "sets": sets,
        "scorers": {
            name: {"weights": scorers.in_words(own), "fingerprint": prints[name]} | ties[name]
            for name, own in weights.items()
        },
    }


def main(config: EvaluateConfig) -> None:
    """Compare a model with a base on a set of prompts, and write report.json and report.html."""
    output = files.resolve(config.output)
    object_storage.check("--output", output)
    prompts = read_set(config.prompts, config.category_column, config.limit, config.split)
    config = check_config(config, prompts)
    with one_writer.writer_lock(output):
        path = files.join(output, "prompts.jsonl")
        if files.exists(path):
            before = {"prompts": describe_captions(read_prompts(path))}
            now = {"prompts": describe_captions(prompts.captions)}
            begun.refuse_other_settings(config.output, before, now, "give another --output")
        files.write_bytes(path, prompts.content)
        policy, base = draw(config, path)  # refuses settings that the images there were not drawn with
        weights = judges_of(config)
        report = build(config, prompts, policy, base, list(weights))
        evaluated = unjudged(prompts.prompts, config.draw.images_per_prompt)
        if weights:
            evaluated, judged = judge_all(config, prompts, weights, policy, base)
            report |= judged
        cli.save_config(output, config)
        content = json.dumps(report, indent=2, allow_nan=False) + "\n"  # NaN is no JSON
        files.write_bytes(files.join(output, "report.json"), content.encode())
        page = evaluation_page.render(report, evaluated, prompts.columns, policy, base)
        files.write_bytes(files.join(output, "report.html"), page.encode())
    said = f"\n{summary(report)}" if config.judges else ""
    print(f"{said}\nreport: {files.join(output, 'report.html')}", flush=True)


def summary(report: dict[str, Any]) -> str:
    """Lay the win rates out for the terminal, a line for each scorer."""
    lines = ["win rate of the policy over the base"]
    for name, won in report["win_rate"].items():
        title = scorers.title(name, report["scorers"][name]["weights"])
        mark = {True: ", labelled the training data", False: "", None: ", may have labelled the training data"}
        lines.append(
            f"  {title:<12} {won['value']:.3f} (95 % {won['low']:.3f} to {won['high']:.3f}, {won['interval']}; "
            f"{won['prompts']:,} prompts, {won['n']:,} images){mark[report['origin']['scorers'][name]['labelled']]}"
        )
    return "\n".join(lines)
