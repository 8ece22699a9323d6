"""Read and check what `make paper` left: stores, trials by name and seed, and their scored images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.base import files, records, tables
from infra.base.errors import UserError
from infra.local import paper
from pipelines.drawing.prompts import read_prompts
from pipelines.experiments.sweep_done import read_done
from pipelines.judging.comparison import Drawn, check_comparable, check_scorers, read_drawn
from pipelines.judging.score_files import paired_scores
from pipelines.judging.win_rate import win_points
from pipelines.latents import label_files, store
from pipelines.paper.paper_hypotheses import INDEPENDENT, LABELLED
from pipelines.reports import feedback_report
from pipelines.reports.report import read_facts

SCHEMA_VERSION = 1  # of sweep.json
AGAIN = "run make paper again"
MIDDLE = paper.MAIN  # the beta of both series, and of every policy that is not of the ablation
SERIES = {  # of the beta ablation: trial by beta
    "fixed": {beta: f"beta-{beta}" for beta in paper.BETAS},
    "scaled": {beta: f"beta-{beta}" if beta == MIDDLE else f"beta-{beta}-scaled" for beta in paper.BETAS},
}
STABILITY = {  # trial by method and learning rate
    method: {times: paper.steady_trial(method, times) for times in paper.TIMES} for method in paper.STEADY
}
DPO = f"beta-{MIDDLE}"
SFT = "sft"
WEAKER = "weaker"
FEEDBACK = paper.SCORERS
TRIALS = tuple(paper.trials(""))
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One policy: what was trained, by which command, and its scored images."""

    name: str
    seed: int
    entry: Mapping[str, Any]  # of sweep.json
    facts: Mapping[str, Any]
    drawn: Drawn


@dataclass(frozen=True, kw_only=True)
class PaperRun:
    """A finished folder of `make paper`."""

    folder: str  # as given
    sweep: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]
    base: Drawn
    stores: Mapping[str, store.Manifest]  # by folder below it
    trials: Mapping[str, Sequence[Trial]]  # by name, in the order of seeds

    @property
    def seeds(self) -> list[int]:
        """Return the training seeds."""
        return list(self.sweep["seeds"])

    @property
    def judges(self) -> list[str]:
        """Return the judges' names."""
        return list(self.sweep["judges"])

    def path(self, *parts: str) -> str:
        """Return a path below the folder."""
        return files.join(files.resolve(self.folder), *parts)

    @cached_property
    def points(self) -> dict[str, dict[str, Floats]]:
        """Compare each trial with the base: by trial and judge, points [seeds, prompts]: 1 won, 0.5 a tie, 0 lost."""
        return {name: {judge: self._points(trials, judge) for judge in self.judges} for name, trials in
                self.trials.items()}  # fmt: skip

    def _points(self, trials: Sequence[Trial], judge: str) -> Floats:
        pairs = [paired_scores(trial.drawn.scores, self.base.scores, judge) for trial in trials]
        return np.stack([win_points(*pair) for pair in pairs])

    def medians(self, name: str) -> dict[str, dict[str, Any]]:
        """Compute the median score of the base and of each seed's policy, by judge."""
        medians = {}
        for judge in self.judges:
            pairs = [paired_scores(trial.drawn.scores, self.base.scores, judge) for trial in self.trials[name]]
            ours = [float(np.median(own)) for own, _ in pairs]
            base = float(np.median(pairs[0][1]))
            medians[judge] = {"base": base, "policy": float(np.mean(ours)), "per_seed": ours}
        return medians


def read_part(path: str, names: tuple[str, ...] = ()) -> Any:
    """Read a JSON file that a step leaves when it is finished.

    Args:
        names: what it must hold; without names it may be a list.

    Raises:
        UserError: naming the file, if it is not there.
    """
    if not files.exists(path):
        raise UserError(f"{path}: there is no such file, so this part is not finished; {AGAIN}")
    return records.read_record(path, names, AGAIN) if names else files.read_json(path)


def read_run(folder: str) -> PaperRun:
    """Read the folder and check every trial: finished, as its name says, scored by all judges, comparable.

    Raises:
        UserError: naming the file or trial that is missing or wrong, and what to run.
    """
    root = files.resolve(folder)
    sweep = read_part(files.join(root, "sweep", "sweep.json"), ("schema_version",))
    read_done(files.join(root, "sweep", "sweep.json"), AGAIN)
    if sweep.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{root}/sweep/sweep.json: schema version {sweep.get('schema_version')}, not {SCHEMA_VERSION}; {AGAIN}"
        )
    if len(sweep["seeds"]) < 2:
        raise UserError(
            f"{root}/sweep/sweep.json: it has one seed, and an interval over seeds needs two; run with more seeds"
        )
    for judge in (LABELLED, INDEPENDENT, *FEEDBACK):
        if judge not in sweep["judges"]:
            raise UserError(f"{root}/sweep/sweep.json: {judge} has not judged it; {AGAIN}")
    stores = {name: _manifest(files.join(root, name)) for name in ("store", "held_out_store", "weaker_store")}
    base = _scored(sweep["base"]["images"], sweep["judges"])
    entries = {(one["name"], one["seed"]): one for one in sweep["trials"]}
    for name in TRIALS:
        for seed in sweep["seeds"]:
            if (name, seed) not in entries:
                raise UserError(f"{root}/sweep/sweep.json: the trial {name} of seed {seed} is missing; {AGAIN}")
    trials = {
        name: [_read_trial(entries[name, seed], stores, base, sweep["judges"]) for seed in sweep["seeds"]]
        for name in TRIALS
    }
    for trial in (one for same in trials.values() for one in same):
        _check_settings(trial, trials[DPO][0])
        if trial.name in FEEDBACK or trial.name == DPO:
            _check_labels(trial, files.join(root, "store"), base)
    steps = read_part(files.join(root, "steps.json"))
    return PaperRun(folder=folder, sweep=sweep, steps=steps, base=base, stores=stores, trials=trials)


def _manifest(path: str) -> store.Manifest:
    if not files.exists(files.join(path, "manifest.json")):
        raise UserError(f"{path}/manifest.json: there is no such file, so the store is not finished; {AGAIN}")
    return store.read_manifest(path)


def _scored(path: str, judges: Sequence[str]) -> Drawn:
    drawn = read_drawn(path)
    missing = [judge for judge in judges if judge not in drawn.scorers]
    if missing:
        raise UserError(
            f"{drawn.folder}: {missing[0]} has not scored these images; run score.py --scorers {missing[0]}"
        )
    return drawn


def _read_trial(
    entry: Mapping[str, Any], stores: Mapping[str, store.Manifest], base: Drawn, judges: Sequence[str]
) -> Trial:
    manifest = stores["weaker_store" if entry["name"] == WEAKER else "store"]
    drawn = _scored(entry["images"], judges)
    check_comparable(drawn, base)
    check_scorers(drawn, base, judges)
    facts = read_facts(entry["train"], manifest)
    return Trial(name=entry["name"], seed=entry["seed"], entry=entry, facts=facts, drawn=drawn)


def _check_settings(trial: Trial, middle: Trial) -> None:
    """Refuse a trial whose run has another seed, objective, beta or learning rate than its name says."""
    config = trial.facts["config"]
    usual = middle.facts["config"]["optimizer"]["learning_rate"]
    beta = int(trial.name.split("-")[1]) if trial.name.startswith("beta-") else MIDDLE
    rate = usual * MIDDLE / beta if trial.name.endswith("-scaled") else usual
    method, _, times = trial.name.rpartition("-x")
    if method in paper.STEADY:
        rate = usual * int(times)
    wanted = {"seed": trial.seed, "objective": SFT if trial.name == SFT else "dpo", "learning rate": rate}
    objective = config["objective"]
    has = {"seed": config["seed"], "objective": objective["objective"],
           "learning rate": config["optimizer"]["learning_rate"]}  # fmt: skip
    if trial.name != SFT:  # whose loss has no beta
        wanted["beta"] = "auto" if method == "auto-beta" else beta
        has["beta"] = objective["beta"]
    if trial.name == SFT:  # may have a rate of its own
        wanted["learning rate"] = has["learning rate"]
    for name in ("safeguard", "sft-weight"):
        flags = paper.STEADY[method] if method == name else []
        wanted[name] = flags[1] if flags else "none"
        value = objective.get(name.replace("-", "_"))
        has[name] = f"{value:g}" if value else "none"
    for name, value in wanted.items():
        same = has[name] == value
        if not isinstance(value, str) and not isinstance(has[name], str):
            same = bool(np.isclose(has[name], value))
        if not same:
            raise UserError(f"{trial.entry['train']}: the trial {trial.name} of seed {trial.seed} was trained with "
                            f"{name} {has[name]}, not {value}; {AGAIN}")  # fmt: skip


def _check_labels(trial: Trial, path: str, base: Drawn) -> None:
    """Refuse labels that are not the trial's, that changed since, or that another version of the judge gave."""
    name = trial.facts["config"]["data"]["labels"]
    wanted = trial.name if trial.name in FEEDBACK else "human"
    if name != wanted:
        raise UserError(f"{trial.entry['train']}: this run was trained on the labels {name}, not {wanted}; {AGAIN}")
    labels = label_files.read_labels_manifest(path, name)
    if labels["sha256"] != trial.facts["labels_hash"]:
        raise UserError(
            f"{path}: the label set {name} changed after {trial.entry['train']} was trained on it; train again"
        )
    row = feedback_report.Row(trial.drawn, trial.facts, labels)
    if row.scorer and labels["settings"]["fingerprint"] != base.fingerprints[row.scorer]:
        raise UserError(
            f"{path}: the label set {name} is by another version of {row.scorer} than judges here; relabel it"
        )


def captions(run: PaperRun) -> dict[str, int]:
    """Count the captions of training, of checkpoint selection, of the test, and of held-out pairs.

    Raises:
        UserError: naming a caption that two of them have in common; only the last two may share captions.
    """
    every = [trial for same in run.trials.values() for trial in same]
    validation = {trial.facts["config"]["validation"]["validation_prompts"] for trial in every}
    if None in validation:
        raise UserError(f"{run.folder}: a trial has no validation captions, so nothing picked its checkpoint; {AGAIN}")
    sets = {
        "training": _stored(run, "store") | _stored(run, "weaker_store"),
        "checkpoint selection": {one for path in validation for one in read_prompts(files.resolve(path))},
        "test": set(run.base.scores["caption"].to_pylist()),
        "held-out": _stored(run, "held_out_store"),  # pairs of test captions, mostly
    }
    for one, other in itertools.combinations(sets, 2):
        common = sorted(sets[one] & sets[other])
        if common and (one, other) != ("test", "held-out"):
            raise UserError(
                f"{run.folder}: {len(common)} captions are both {one} and {other} captions, which must be disjoint, "
                f"for example {common[0][:80]!r}; {AGAIN}"
            )
    return {name: len(members) for name, members in sets.items()}


def _stored(run: PaperRun, name: str) -> set[str]:
    stored = tables.read_folder(run.path(name, "prompts"), columns=["caption"])["caption"].to_pylist()
    return {caption for caption in stored if caption}  # the empty one stands for a dropped caption
