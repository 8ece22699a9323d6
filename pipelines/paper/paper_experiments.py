"""Each of the paper's experiments: its figures by both judges over seeds and prompts, and its hypotheses.

A table's cell is an estimate with its interval and its figure for each seed; `unit` says how to read it: rate, gain (of
a rate), draws, or score (the mean over seeds of a median, without an interval).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from infra.local import paper
from pipelines.experiments import rejection_sampling, sdedit
from pipelines.judging.seed_intervals import Estimate, clustered_rate, crossed_mean, crossed_rate
from pipelines.paper import paper_hypotheses as hypotheses
from pipelines.paper.paper_hypotheses import INDEPENDENT, LABELLED
from pipelines.paper.paper_material import EDITS, Implicit, Rejection, first_scores, read_edits, training_images
from pipelines.paper.paper_run import DPO, FEEDBACK, SERIES, SFT, STABILITY, WEAKER, PaperRun

JUDGED_BY = (LABELLED, INDEPENDENT)
SERIES_TITLES = {"fixed": "one learning rate", "scaled": "learning rate ∝ 1/β"}
STEADY_TITLES = {
    "plain": "plain DPO",
    "safeguard": "DPO with the safeguard",
    "sft-weight": "DPO with the SFT weight",
    "auto-beta": "DPO with an automatic β",
}
Experiment = dict[str, Any]  # hypotheses, figures, table


def beta_ablation(run: PaperRun) -> Experiment:
    """Sweep beta at one learning rate, and at a rate in inverse proportion (Fig. S2)."""
    tested = {}
    figures = {}
    rows = []
    for series, names in SERIES.items():
        claim = f"Some β inside the swept range beats both of its ends, at {SERIES_TITLES[series]}."
        points = {beta: run.points[name] for beta, name in names.items()}
        tested[f"inner_optimum_{series}"] = hypotheses.inner_optimum(claim, points)
        figures[series] = {
            str(beta): {"trial": name, "win_rate": rates(run, name), "median": run.medians(name)}
            for beta, name in names.items()
        }
        rows += [_row(f"β {beta:,}, {SERIES_TITLES[series]}", _rates(run, name)) for beta, name in names.items()]
    return _experiment(tested, figures, rows)


def sft(run: PaperRun) -> Experiment:
    """Compare DPO, supervised fine-tuning on the winners alone, and the base (Sec. 5.5)."""
    points = run.points
    tested = {
        "dpo_beats_base": hypotheses.wins("Diffusion-DPO on the human labels beats the base.", points[DPO]),
        "sft_beats_base": hypotheses.wins("SFT on the winners alone beats the base.", points[SFT]),
        "dpo_beats_sft": hypotheses.wins_more(
            "Diffusion-DPO beats SFT on the same pairs.", points[DPO], points[SFT], ("DPO", "SFT")
        ),
    }
    rows = [_row("DPO over the base", _rates(run, DPO)), _row("SFT over the base", _rates(run, SFT)),
            _row("DPO less SFT", _gains(run, DPO, SFT), "gain"), *_medians(run, {"DPO": DPO, "SFT": SFT})]  # fmt: skip
    figures = {name: {"win_rate": rates(run, name), "median": run.medians(name)} for name in (DPO, SFT)}
    return _experiment(tested, figures, rows)


def in_distribution(run: PaperRun) -> Experiment:
    """Train on the base's own images, and on worse ones (Fig. 7)."""
    images = {"own": training_images(run, "store"), "weaker": training_images(run, "weaker_store")}
    base = {judge: first_scores(run.base, judge) for judge in JUDGED_BY}
    worse = {judge: dict(images["weaker"][judge]) | {"base": base[judge]} for judge in JUDGED_BY}
    points = run.points
    tested = {
        "own_images_help": hypotheses.wins("DPO on the base’s own images beats the base.", points[DPO]),
        "weaker_images_help": hypotheses.weaker_images_help(points[WEAKER], worse),
        "own_beat_weaker": hypotheses.wins_more(
            "Pairs of the base’s own images help more than pairs of worse ones.", points[DPO], points[WEAKER],
            ("own images", "worse images"),
        ),
    }  # fmt: skip
    rows = [_row("trained on the base’s own images", _rates(run, DPO)),
            _row("trained on worse images", _rates(run, WEAKER)),
            _row("own less worse", _gains(run, DPO, WEAKER), "gain"),
            *_medians(run, {"own images": DPO, "worse images": WEAKER})]  # fmt: skip
    boxes = {}
    for judge in JUDGED_BY:
        sets = {f"{kind}, {pairs} pairs": scores for pairs in images for kind, scores in images[pairs][judge].items()}
        sets["base"] = base[judge]
        for name, title in ((DPO, "policy, own pairs"), (WEAKER, "policy, weaker pairs")):
            sets[title] = np.concatenate([first_scores(trial.drawn, judge) for trial in run.trials[name]])
        boxes[judge] = {title: _box(scores) for title, scores in sets.items()}
    figures = {"boxes": boxes} | {
        name: {"win_rate": rates(run, name), "median": run.medians(name)} for name in (DPO, WEAKER)
    }
    return _experiment(tested, figures, rows)


def feedback(run: PaperRun) -> Experiment:
    """Train on each scorer's labels and on the human ones, and let every scorer judge each (Fig. 6)."""
    names = {"human": DPO} | {name: name for name in FEEDBACK}
    matrix = {row: rates(run, name) for row, name in names.items()}
    for row, cells in matrix.items():
        for judge, cell in cells.items():
            cell["labelled"] = judge == (LABELLED if row == "human" else row)
    medians = {row: run.medians(name) for row, name in names.items()}
    tested = hypotheses.feedback({row: run.points[name] for row, name in names.items()})
    rows = [_row(f"trained on {row}", _rates(run, name)) for row, name in names.items()]
    figures = {"rows": list(names), "judges": run.judges, "matrix": matrix, "median": medians}
    return _experiment(tested, figures, rows)


def implicit_reward(implicit: Implicit) -> Experiment:
    """Compare the implicit reward's choice on held-out pairs with people's (Tab. 2)."""
    prompts = implicit.prompts
    scorers = {name: implicit.scorers[name] for name in FEEDBACK}
    tested = hypotheses.implicit_reward(implicit.right, implicit.agrees, scorers, prompts)
    figures = {
        "pairs": len(prompts),
        "implicit": asdict(clustered_rate(implicit.right, prompts)),
        "agreement_with_fidelity": asdict(clustered_rate(implicit.agrees, prompts)),
        "scorers": {row["scorer"]: {key: row[key] for key in ("accuracy", "low", "high", "pairs")} for row in
                    implicit.table},
    }  # fmt: skip
    cell = {"people’s labels": _cell(clustered_rate(implicit.right, prompts)),
            "fidelity’s order": _cell(clustered_rate(implicit.agrees, prompts))}  # fmt: skip
    rows = [_row("implicit reward of DPO", cell)]
    for row in implicit.table:
        note = {LABELLED: " (drew the labels)", INDEPENDENT: " (labelled nothing)"}.get(row["scorer"], "")
        one = {"value": row["accuracy"], "low": row["low"], "high": row["high"], "per_seed": []}
        rows.append(_row(f"{row['scorer']}{note}", {"people’s labels": one}))
    return _experiment(tested, figures, rows)


def rejection(counted: Rejection) -> Experiment:
    """Count how many images of the base it takes to beat one of the policy (Supp. S8, Fig. S4)."""
    null = rejection_sampling.null_survival(counted.cap)
    answer = hypotheses.rejection_sampling(counted.draws, float(null.sum()))
    figures: dict[str, Any] = {
        "captions": len(counted.captions), "cap": counted.cap,
        "null": {"mean": float(null.sum()), "median": 1.0, "survival": [float(p) for p in null]},
    }  # fmt: skip
    cells = {}
    for judge, draws in counted.draws.items():
        survival = [float((draws > k).mean()) for k in range(counted.cap)]
        mean = hypotheses.mean_draws(draws)
        figures[judge] = asdict(mean) | {
            "median": float(np.median(draws)), "survival": survival, "censored": counted.censored[judge],
            "medians": [float(one) for one in np.median(draws, axis=1)],
        }  # fmt: skip
        cells[judge] = _cell(mean)
    rows = [_row(f"mean draws of the base, at most {counted.cap}", cells, "draws")]
    return _experiment({"beyond_null": answer}, figures, rows)


def edits(run: PaperRun) -> Experiment:
    """Edit images at strength 0.6 and colour layouts at 0.98 by both models (Sec. 5.3)."""
    claims = {
        "edits": "DPO’s edits of images (strength 0.6) are preferred to the base’s, a draw a half.",
        "layouts": "DPO’s images from colour layouts (strength 0.98) are preferred to the base’s, a draw a half.",
    }
    tested = {}
    rows = []
    figures: dict[str, Any] = {}
    for kind, strength in EDITS.items():
        judged = read_edits(run, kind)
        points_by_judge = {judge: points for judge, (points, _) in judged.items()}
        tested[f"{kind}_preferred"] = hypotheses.wins(claims[kind], points_by_judge)
        figures[kind] = {"strength": strength}
        for judge, (points, counts_of_seeds) in judged.items():
            outcome = {name: asdict(crossed_rate((points == worth) * 1.0)) for name, worth in sdedit.OUTCOMES.items()}
            counts = [{name: one[name]["count"] for name in sdedit.OUTCOMES} for one in counts_of_seeds]
            figures[kind][judge] = outcome | {"win_rate": asdict(crossed_rate(points)), "counts": counts}
        for name in sdedit.OUTCOMES:
            rows.append(_row(f"{name}, strength {strength}", {j: figures[kind][j][name] for j in judged}))
    return _experiment(tested, figures, rows)


def stability(run: PaperRun) -> Experiment:
    """Raise the learning rate, and compare plain DPO with three answers to runs that fall apart.

    The judge that labelled nothing decides.
    """
    points = {method: {times: run.points[name] for times, name in names.items()} for method, names in STABILITY.items()}
    highest = max(paper.TIMES)
    plain = points["plain"]
    claim = f"Plain DPO still beats the base at {highest} times the learning rate."
    tested = {"plain_holds": hypotheses.wins(claim, plain[highest], INDEPENDENT)}
    for method in STEADY_TITLES:
        if method != "plain":
            title = STEADY_TITLES[method]
            claim = f"At {highest} times the learning rate, {title} beats plain DPO."
            names = (title, "plain DPO")
            tested[f"{method}_helps"] = hypotheses.wins_more(
                claim, points[method][highest], plain[highest], names, INDEPENDENT
            )
    figures = {
        method: {str(times): {"trial": name, "win_rate": rates(run, name)} for times, name in names.items()}
        for method, names in STABILITY.items()
    }
    rows = [
        _row(f"{STEADY_TITLES[method]}, rate × {times}", _rates(run, name))
        for method, names in STABILITY.items()
        for times, name in names.items()
    ]
    return _experiment(tested, figures, rows)


def rates(run: PaperRun, name: str) -> dict[str, dict[str, Any]]:
    """Estimate a trial's win rate over the base by every judge."""
    return {judge: asdict(crossed_rate(points)) for judge, points in run.points[name].items()}


def _rates(run: PaperRun, name: str) -> dict[str, Any]:
    return {judge: _cell(crossed_rate(run.points[name][judge])) for judge in JUDGED_BY}


def _gains(run: PaperRun, one: str, other: str) -> dict[str, Any]:
    return {judge: _cell(crossed_mean(run.points[one][judge] - run.points[other][judge])) for judge in JUDGED_BY}


def _medians(run: PaperRun, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Make rows of median scores, the base's first; trials by title."""
    medians = {title: run.medians(name) for title, name in names.items()}
    first = next(iter(medians.values()))
    base = {judge: {"value": first[judge]["base"], "per_seed": []} for judge in JUDGED_BY}
    rows = [_row("median score: base", base, "score")]
    for title, own in medians.items():
        cells = {judge: {"value": own[judge]["policy"], "per_seed": own[judge]["per_seed"]} for judge in JUDGED_BY}
        rows.append(_row(f"median score: {title}", cells, "score"))
    return rows


def _cell(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "per_seed": estimate.per_seed}


def _row(what: str, cells: Mapping[str, Any], unit: str = "rate") -> dict[str, Any]:
    return {"what": what, "unit": unit, "cells": dict(cells)}


def _experiment(tested: Mapping[str, hypotheses.Tested], figures: Mapping[str, Any], rows: list[Any]) -> Experiment:
    columns = list(dict.fromkeys(name for row in rows for name in row["cells"]))
    answered = {name: asdict(one) for name, one in tested.items()}
    return {"hypotheses": answered, "figures": dict(figures), "table": {"columns": columns, "rows": rows}}


def _box(scores: Any) -> dict[str, float]:
    low, first, median, third, high = np.quantile(scores, [0.05, 0.25, 0.5, 0.75, 0.95])
    named = {"p5": low, "q1": first, "median": median, "q3": third, "p95": high}
    return {name: float(value) for name, value in named.items()} | {"n": len(scores)}
