"""What the experiments beside the sweep left: implicit rewards, rejection sampling, edits, and the training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.base import tables
from infra.base.errors import UserError
from infra.world.rater import Rater
from labelers.labels import accuracy, label_set, preference_accuracy
from labelers.labels.label_rules import hard_labels, margins
from labelers.scoring import scoring_pass
from labelers.scoring.pair_scores import DecodePairs, ScorePairs
from pipelines.experiments import sdedit
from pipelines.experiments.rejection_sampling import RESULT
from pipelines.judging.comparison import Drawn, read_drawn
from pipelines.judging.score_files import paired_scores
from pipelines.latents import label_files
from pipelines.paper.paper_hypotheses import INDEPENDENT, LABELLED
from pipelines.paper.paper_run import AGAIN, FEEDBACK, PaperRun, read_part

Floats = npt.NDArray[np.float64]
EDITS = {"edits": 0.6, "layouts": 0.98}  # folder and strength
DRAWS_APART = {
    LABELLED: Rater.tie_margin,
    INDEPENDENT: 0.0,
}  # two edits draw where their scores differ by no more than this
TRAINING_PAIRS = 200  # of each store, whose images are scored for Fig. 7


@dataclass(frozen=True, kw_only=True)
class Implicit:
    """Points on the held-out pairs that people did not tie and everybody could score."""

    right: Floats  # [seeds, pairs] of the implicit reward against the human labels
    agrees: Floats  # [seeds, pairs] against fidelity's order
    scorers: Mapping[str, Floats]  # by name, [pairs] against the human labels
    prompts: npt.NDArray[np.int64]  # [pairs]
    table: list[dict[str, Any]]  # accuracy.py's own rows of the scorers


def read_implicit(run: PaperRun) -> Implicit:
    """Read the margins that accuracy.py left, of the scorers and of each seed's implicit reward.

    Raises:
        UserError: naming the part that is missing, or that scored other pairs.
    """
    names = ["scorers", *(f"seed-{seed}" for seed in run.seeds)]
    done = {name: read_part(run.path("implicit", name, accuracy.DONE)) for name in names}
    chosen = accuracy.read_labelled(done["scorers"]["config"]["source"], done["scorers"]["config"]["split"])
    expected = accuracy.settings_of(chosen, {})["pairs"]
    for name in names:
        if done[name]["settings"]["test"]["pairs"] != expected:
            path = run.path("implicit", name)
            raise UserError(f"{path}: it was measured on other pairs than {chosen.raw.name} has now; {AGAIN}")
    scores = {
        name: tables.read_folder(run.path("implicit", name, "test", "scores")).sort_by("pair_id") for name in names
    }
    of_scorers = {name: _margins(scores["scorers"], name, chosen.ids) for name in (*FEEDBACK, LABELLED, INDEPENDENT)}
    policies = np.stack([_margins(scores[name], "implicit", chosen.ids) for name in names[1:]])
    scored = np.isfinite(policies).all(0) & np.isfinite(list(of_scorers.values())).all(0)
    good = scored & (chosen.human != 0.5)
    human = chosen.human[good]
    policies = policies[:, good]
    order = hard_labels(of_scorers[INDEPENDENT][good])
    return Implicit(
        right=np.stack([preference_accuracy.untied_points(own, human) for own in policies]),
        agrees=1.0 - np.abs(np.stack([hard_labels(own) for own in policies]) - order),
        scorers={name: preference_accuracy.untied_points(own[good], human) for name, own in of_scorers.items()},
        prompts=chosen.prompts[good],
        table=done["scorers"]["rows"],
    )


def _margins(table: pa.Table, name: str, ids: npt.NDArray[np.int64]) -> Floats:
    """Return a scorer's score_0 - score_1 of each pair, NaN where it has none."""
    own = label_set.scores_of(table, name)
    differences = np.full(len(ids), np.nan)
    differences[np.isin(ids, own.pair_ids)] = margins(*own.values)
    return differences


@dataclass(frozen=True)
class Rejection:
    """How many images of the base it took to beat one image of the policy."""

    draws: Mapping[str, Floats]  # by judge, [seeds, captions]; captions without a win count as the cap
    censored: Mapping[str, list[int]]  # by judge and seed, how many captions had no win
    captions: list[str]
    cap: int


def read_rejection(run: PaperRun) -> Rejection:
    """Read the counts of both judges and all seeds.

    Raises:
        UserError: naming the file that is missing, or that has other captions or another cap than the first.
    """
    draws = {}
    censored = {}
    captions: list[str] = []
    cap = 0
    for judge in (LABELLED, INDEPENDENT):
        rows = []
        for seed in run.seeds:
            path = run.path("rejection", judge, f"seed-{seed}", RESULT)
            result = read_part(path)
            if not captions:
                captions = list(result["draws"])
                cap = result["config"]["cap"]
            if list(result["draws"]) != captions or result["config"]["cap"] != cap:
                raise UserError(f"{path}: it has other captions or another cap than the other counts; {AGAIN}")
            rows.append(np.array(list(result["draws"].values()), np.float64))
        counts = np.stack(rows)
        censored[judge] = [int(one) for one in (counts == 0).sum(1)]
        draws[judge] = np.where(counts == 0, cap, counts)
    return Rejection(draws=draws, censored=censored, captions=captions, cap=cap)


def read_edits(run: PaperRun, kind: str) -> dict[str, tuple[Floats, list[dict[str, Any]]]]:
    """Compare each seed's edits with the base's.

    Args:
        kind: a folder of EDITS.

    Returns:
        By judge: points [seeds, prompts], a draw a half; and of each seed what sdedit.judge counts.
    """
    base = _edits(run, kind, ["base"])[0]
    policies = _edits(run, kind, [f"seed-{seed}" for seed in run.seeds])
    judged = {}
    for judge, margin in DRAWS_APART.items():
        counted = [sdedit.judge(policy, base, judge, margin) for policy in policies]
        pairs = [paired_scores(one.scores, base.scores, judge) for one in policies]
        gaps = [ours.astype(np.float64) - theirs for ours, theirs in pairs]
        points = np.stack([np.where(np.abs(gap) <= margin, 0.5, gap > 0) for gap in gaps])
        judged[judge] = (points, counted)
    return judged


def _edits(run: PaperRun, kind: str, names: list[str]) -> list[Drawn]:
    drawn = [read_drawn(run.path("sdedit", kind, name)) for name in names]
    for one in drawn:
        if one.identity.get("strength") != EDITS[kind]:
            raise UserError(
                f"{one.folder}: these images have strength {one.identity.get('strength')}, not {EDITS[kind]}; {AGAIN}"
            )
    return drawn


def training_images(run: PaperRun, name: str) -> dict[str, dict[str, Floats]]:
    """Score the images of a store's first labelled pairs in this process; no step before has scored them.

    Args:
        name: of the store; its raw pairs are those its manifest names.

    Returns:
        By judge: losers and winners, each [captions], the mean score per caption.
    """
    path = run.path(name)
    labels = label_files.read_labels(path, "human")[0]
    labels = labels.filter(pa.array(np.isin(labels["label_0"].to_numpy(), (0.0, 1.0)))).slice(0, TRAINING_PAIRS)
    ids = labels["pair_id"].to_numpy()
    first = labels["label_0"].to_numpy() == 1.0
    raw = scoring_pass.open_pairs(run.stores[name].source, "train")
    decoded = DecodePairs(ids)(pa.concat_tables(raw.dataset.pieces(raw.columns)))
    names = (LABELLED, INDEPENDENT)
    scored = ScorePairs(names, dict.fromkeys(names, "world"))(decoded).sort_by("pair_id")
    if not np.array_equal(scored["pair_id"].to_numpy(), ids):
        raise UserError(
            f"{run.stores[name].source}: it holds {scored.num_rows} of the {len(ids)} pairs that {path} has; {AGAIN}"
        )
    images = {}
    for judge in names:
        slots = np.stack([scored[f"score_{slot}:{judge}"].to_numpy() for slot in (0, 1)]).astype(np.float64)
        images[judge] = {
            "losers": _per_caption(np.where(first, slots[1], slots[0]), scored["prompt_id"].to_numpy()),
            "winners": _per_caption(np.where(first, slots[0], slots[1]), scored["prompt_id"].to_numpy()),
        }
    return images


def _per_caption(scores: Floats, prompts: npt.NDArray[np.int64]) -> Floats:
    numbers = np.unique(prompts, return_inverse=True)[1]
    means: Floats = np.bincount(numbers, weights=scores) / np.bincount(numbers)
    return means


def first_scores(drawn: Drawn, judge: str) -> Floats:
    """Return the scores of each prompt's first image, float64."""
    first = drawn.scores.filter(pc.equal(drawn.scores["image_index"], 0))
    scores: Floats = first[judge].to_numpy().astype(np.float64)
    return scores
