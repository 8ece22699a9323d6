"""Preference accuracy of scorers, the paper's Tab. 2: `python labelers/accuracy.py --scorers pickscore clip ...`.

Scores raw pairs with human labels on Ray Data, and says how often each scorer prefers what people preferred: without
the pairs that people tied, and by PickScore's convention, in which a tie can be predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import begun, files, object_storage, one_writer
from infra.base.config_files import save_config
from infra.base.errors import UserError, check_least
from labelers.labels import known_scores, label_rules, label_set, preference_accuracy
from labelers.labels.accuracy_config import AccuracyConfig
from labelers.scoring import scorers, scoring_pass
from labelers.scoring.scorers import Scorer
from labelers.scoring.speed_config import SPEEDS
from pipelines.judging.win_rate import clustered_interval
from pipelines.raw import contents, pairs

DONE = "accuracy.json"
CONTENTS = "contents of the files"  # among the settings of a pass


@dataclass(frozen=True)
class Labelled:
    """The pairs of a source that have a caption and a human label, by pair_id."""

    raw: scoring_pass.PairSource
    ids: npt.NDArray[np.int64]  # [n] ascending
    human: npt.NDArray[np.float64]  # [n] label_0
    prompts: npt.NDArray[np.int64]  # [n] prompt_id


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One scorer's margins on labelled pairs; pairs without a score are left out and counted."""

    margin: npt.NDArray[np.float64]
    human: npt.NDArray[np.float64]
    prompts: npt.NDArray[np.int64]
    refused: int
    unanswered: int = 0  # of the refused, those that may be asked for again


def main(config: AccuracyConfig) -> None:
    """Measure how often scorers prefer the image that people preferred, with intervals clustered by prompt."""
    check_least(config.speed, SPEEDS)
    if len(set(config.scorers)) != len(config.scorers) or not config.scorers:
        raise UserError(f"--scorers {' '.join(config.scorers)}: each scorer once")
    output = files.resolve(config.output)
    object_storage.check("--output", output)
    weights = scorers.described(config.scorers, config.weights, config.endpoint, config.scorer_python)
    for name in weights:
        scorers.check(name, weights[name])  # before the source is read
    judges = {name: scorers.load(name, weights[name]) for name in weights}
    sets = {"test": read_labelled(config.source, config.split)}
    for name in weights:
        if scorers.is_toy(name, weights[name]):
            scorers.check(name, weights[name], captions_of(sets["test"].raw))
    if config.validation_source or config.validation_split:
        name = config.validation_source or config.source
        split = config.validation_split or config.split
        if (name, split) == (config.source, config.split):
            raise UserError("--validation-source: the very pairs of --source; a threshold is tuned on others")
        sets["validation"] = read_labelled(name, split)
    settings = {part: settings_of(chosen, judges) for part, chosen in sets.items()}
    done = files.join(output, DONE)
    with one_writer.writer_lock(output):
        report = files.read_json(done) if files.exists(done) else None
        is_same = report is not None and _are_same(report["settings"], settings)
        waiting = 0
        if report is not None and is_same:
            waiting = sum(one.get("unanswered", 0) for one in report["rows"])
            remark = f"{waiting} pairs have no answer yet and are asked for again" if waiting else "nothing to do"
            print(f"{output}: already finished, {remark}\n{table(report['rows'])}", flush=True)
        if not is_same or waiting:
            report = {"config": asdict(config), "settings": settings, "rows": measure(config, sets, judges, weights)}
            save_config(output, config)
            files.write_json(done, report)
            print(table(report["rows"]), flush=True)
    if config.json:
        files.write_json(files.resolve(config.json), report)


def measure(
    config: AccuracyConfig, sets: dict[str, Labelled], judges: dict[str, Scorer], weights: dict[str, str | None]
) -> list[dict[str, Any]]:
    """Score all pairs and measure every scorer, one row each."""
    output = files.resolve(config.output)
    for part, chosen in sets.items():
        noted = files.join(output, part, "config.json")
        settings = settings_of(chosen, judges)
        if files.exists(noted):
            before = files.read_json(noted)
            ignored = _not_noted(before)
            begun.refuse_other_settings(f"{output}/{part}", before, settings, "give another --output", ignored, True)
        files.write_json(noted, settings)
    scoring_pass.try_scorers(sets["test"].raw, sets["test"].ids, judges, weights, config.speed)
    margins: dict[str, dict[str, Judged]] = {}
    for part, chosen in sets.items():
        work = files.join(output, part)
        scoring_pass.score_pairs(chosen.raw, chosen.ids, list(judges), weights, work, config.speed)
        scored = scoring_pass.read_scores(chosen.ids, work)
        margins[part] = {name: judged(chosen, scored, name) for name in judges}
    validation = margins.get("validation", {})
    return [
        {"title": scorers.title(name, weights[name])}
        | row(name, judges[name], margins["test"][name], validation.get(name))
        for name in judges
    ]


def _not_noted(before: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the settings that do not count; older versions noted nothing of what the files hold."""
    return () if CONTENTS in before else (CONTENTS,)


def _are_same(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> bool:
    if before.keys() != now.keys():
        return False
    return not any(begun.differences(before[part], now[part], _not_noted(before[part]), True) for part in now)


def settings_of(chosen: Labelled, judges: dict[str, Scorer]) -> dict[str, Any]:
    """Collect what decides the scores of a source's pairs."""
    about_source = {
        "source": chosen.raw.name,
        "split": chosen.raw.split,
        "pairs": f"{pairs.hash64(chosen.ids.tobytes()):x}",
        CONTENTS: contents.digest(contents.contents_of(chosen.raw.name, chosen.raw.paths)),
    }
    return about_source | {f"scorer {name}": scorer.fingerprint for name, scorer in judges.items()}


def read_labelled(name: str, split: str) -> Labelled:
    """Read the labels of raw pairs; rows with an unusable caption or label are left out, as the encoder does.

    Raises:
        UserError: if none is left.
    """
    raw = scoring_pass.open_pairs(name, split)
    labels: list[float] = []  # NaN where the row is left out
    prompts: list[int] = []
    for piece in raw.dataset.pieces(["caption", "label_0"]):
        for row in pairs.as_rows(piece):
            refusal = pairs.check_caption(row["caption"]) or pairs.check_label(row["label_0"], None, strict=False)
            labels.append(math.nan if refusal else float(str(row["label_0"])))
            prompts.append(0 if refusal else pairs.prompt_id(str(row["caption"])))
    human = np.array(labels, np.float64)
    good = np.isfinite(human)
    rows = np.flatnonzero(good)[np.argsort(raw.ids[good])]
    if not (human[rows] != 0.5).any():
        raise UserError(f"--source {name}: no pair in it has a caption and a label that is no tie")
    return Labelled(raw, raw.ids[rows], human[rows], np.array(prompts, np.int64)[rows])


def captions_of(raw: scoring_pass.PairSource) -> list[str]:
    """Read the captions of raw pairs, each once, without those that are none."""
    unique: dict[str, None] = {}
    for piece in raw.dataset.pieces(["caption"]):
        unique |= dict.fromkeys(piece["caption"].to_pylist())
    return [caption for caption in unique if pairs.check_caption(caption) is None]


def judged(chosen: Labelled, scored: pa.Table, name: str) -> Judged:
    """Put one scorer's margins beside the labels; both are in the order of pair_id."""
    own = label_set.scores_of(scored, name)
    good = np.isin(chosen.ids, own.pair_ids)
    return Judged(
        margin=label_rules.margins(*own.values),
        human=chosen.human[good],
        prompts=chosen.prompts[good],
        refused=len(own.refused),
        unanswered=len(known_scores.unanswered(own.refused)),
    )


def row(name: str, scorer: Scorer, test: Judged, validation: Judged | None) -> dict[str, Any]:
    """Measure one scorer by both conventions."""
    untied = preference_accuracy.untied_points(test.margin, test.human)
    accuracy, low, high = clustered_interval(untied, test.prompts)
    return {
        "scorer": name,
        "pairs": int(np.isfinite(untied).sum()),
        "human_ties": int((test.human == 0.5).sum()),
        "refused": test.refused,
        "unanswered": test.unanswered + (validation.unanswered if validation else 0),
        "prompts": len(np.unique(test.prompts)),
        "accuracy": accuracy,
        "low": low,
        "high": high,
    } | _with_ties(scorer, test, validation)


def _with_ties(scorer: Scorer, test: Judged, validation: Judged | None) -> dict[str, Any]:
    halves = test.prompts % 2 == 0  # prompt_id is a hash, so this halves the prompts at random
    parts = [(np.ones(len(halves), bool), validation)] if validation else _crossed(test, halves)
    points = np.full(len(halves), np.nan)
    thresholds = []
    temperatures = []
    for rows, other in parts:
        own = scorer.temperature if len(other.human) else None
        temperature = own or label_rules.fit_temperature(other.margin, other.human)
        temperatures.append(temperature)
        if temperature is not None:
            threshold = preference_accuracy.tune_threshold(other.margin, other.human, temperature)
            points[rows] = preference_accuracy.tie_points(test.margin[rows], test.human[rows], temperature, threshold)
            thresholds.append(threshold)
    fits = None not in temperatures  # else the scorer has no probabilities: it disagrees with people, or never does
    interval = clustered_interval(points, test.prompts) if fits else (None, None, None)
    return {
        **dict(zip(("with_ties", "with_ties_low", "with_ties_high"), interval, strict=True)),
        "thresholds": thresholds,
        "temperatures": temperatures,
        "tuned_on": "validation" if validation else "the other half of the prompts",
    }


def _crossed(test: Judged, halves: npt.NDArray[np.bool_]) -> list[tuple[npt.NDArray[np.bool_], Judged]]:
    def other(rows: npt.NDArray[np.bool_]) -> Judged:
        return Judged(margin=test.margin[rows], human=test.human[rows], prompts=test.prompts[rows], refused=0)

    return [(halves, other(~halves)), (~halves, other(halves))]


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out the accuracies, for the terminal."""
    lines = [
        f"{'scorer':<28}  {'ties excluded':<24}  {'pairs':>7}  {'with ties predicted':<24}  {'pairs':>7}  threshold"
    ]
    for one in rows:
        spans = [
            f"{one[key]:.3f} ({one[low]:.3f} to {one[high]:.3f})" if one[key] is not None else "no temperature fits"
            for key, low, high in (("accuracy", "low", "high"), ("with_ties", "with_ties_low", "with_ties_high"))
        ]
        thresholds = " / ".join(f"{value:.1f}" for value in one["thresholds"])
        lines.append(
            f"{one.get('title', one['scorer']):<28}  {spans[0]:<24}  {one['pairs']:>7,}  {spans[1]:<24}  "
            f"{one['pairs'] + one['human_ties']:>7,}  {thresholds}"
        )
    tuned = rows[0]["tuned_on"]
    return "\n".join([*lines, f"95 % intervals, bootstrapped by prompt; thresholds tuned on {tuned}"])
