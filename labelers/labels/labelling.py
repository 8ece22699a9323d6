"""How a plan of relabelling is carried out: one pass for all scorers whose scores are missing, then the label sets.

A pair that a judge behind an address owes an answer is asked for again, in a pass over such pairs alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.base import files, one_writer
from infra.base.config_files import save_config
from labelers.labels import known_scores, label_set
from labelers.labels.relabel_config import RelabelConfig
from labelers.scoring import scorers, scoring_pass
from labelers.scoring.scorers import Scorer
from pipelines.engine import resumable
from pipelines.latents import label_files, store
from pipelines.raw import pairs


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything known before Ray starts."""

    config: RelabelConfig
    destination: str
    store_hash: str
    raw: scoring_pass.PairSource
    kept: npt.NDArray[np.int64]  # pair_ids, ascending
    judges: dict[str, Scorer]
    weights: dict[str, str | None]  # by scorer, as given; of a judge behind an address, its description
    names: dict[str, str]  # label set by scorer

    def folder(self, scorer: str) -> str:
        """Return the folder of a scorer's label set."""
        return files.join(self.destination, "labels", self.names[scorer])

    @property
    def work(self) -> str:
        """Return the folder of the unfinished pass."""
        return files.join(self.destination, "labels", store.WORK, "+".join(self.names.values()))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A pass: which scorers judge which pairs, and where its rows lie until it is finished."""

    names: Sequence[str]  # scorers; without any there is no pass
    ids: npt.NDArray[np.int64]
    work: str

    @classmethod
    def of(cls, plan: Plan, known: Mapping[str, label_set.Scores | None]) -> Asked:
        """Find what is to be asked: all kept pairs, or where all scores are known only the pairs without an answer."""
        lost = {name: known_scores.unanswered(own.refused) for name, own in known.items() if own is not None}
        names = [name for name in known if name not in lost or lost[name]]
        if not names or len(lost) < len(known):
            return cls(names=names, ids=plan.kept, work=plan.work)
        ids = np.unique(np.concatenate([np.array(lost[name], np.int64) for name in names]))
        # A folder of its own by these pairs: what is left in one of other pairs is not mistaken for it.
        named = pairs.hash64(ids.tobytes()) % 2**64
        return cls(names=names, ids=ids, work=f"{plan.work}+again-{named:x}")


def labelling(plan: Plan, names: Sequence[str]) -> resumable.Pass[dict[str, label_set.Scores]]:
    """Describe how the label sets of these scorers are made: from known scores, and from one pass for the rest."""
    known = {name: known_scores.known_scores(plan.destination, settings_of(plan, name)) for name in names}
    asked = Asked.of(plan, known)
    wanted = {name: label_set.scoring_part(settings_of(plan, name)) for name in asked.names}
    path = files.join(asked.work, resumable.NOTED)
    # A run that published some of its label sets before it was killed scored the pairs by all its scorers.
    noted = files.read_json(path) if files.exists(path) else wanted
    holds: dict[str, Callable[[], None]] = {}

    def check_all() -> None:
        for still_held in holds.values():
            still_held()

    @contextlib.contextmanager
    def lock_all() -> Iterator[Callable[[], None]]:
        with contextlib.ExitStack() as locks:
            for name in names:
                holds[name] = locks.enter_context(one_writer.writer_lock(plan.folder(name)))
            yield check_all

    def publish(scores: Mapping[str, label_set.Scores]) -> None:
        for name in names:
            holds[name]()
            write_label_set(plan, name, scores[name])

    return resumable.Pass(
        work=asked.work,
        settings=noted,
        is_finished=lambda: all(is_finished(plan, name) for name in names),
        lock=lock_all,
        refuse_others=lambda before: refuse_others(asked, before, wanted),
        prepare=lambda: try_scorers(plan, asked),
        run=lambda: score_pairs(plan, asked, list(noted)),
        count=lambda: read_scores(asked, known),
        publish=publish,
    )


def refuse_others(asked: Asked, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse scorers that an unfinished pass was not begun with.

    Raises:
        UserError: naming the settings that differ.
    """
    for name, now in wanted.items():
        label_set.refuse_other_settings(asked.work, before.get(name, {}), now, "remove this folder to start over")


def try_scorers(plan: Plan, asked: Asked) -> None:
    """Try scorers on the first pairs, where the pass will run; without scorers nothing is needed.

    Raises:
        UserError: if one fails there.
    """
    if len(asked.ids) < len(plan.kept):  # these failed before, and what else is there has been answered
        scoring_pass.connect(plan.config.speed)
    elif asked.names:
        judges = {name: plan.judges[name] for name in asked.names}
        scoring_pass.try_scorers(plan.raw, plan.kept, judges, plan.weights, plan.config.speed)


def score_pairs(plan: Plan, asked: Asked, names: Sequence[str]) -> None:
    """Score the pairs that are asked for by these scorers, if there is a pass at all."""
    if asked.names:
        scoring_pass.score_pairs(plan.raw, asked.ids, names, plan.weights, asked.work, plan.config.speed)


def read_scores(asked: Asked, known: Mapping[str, label_set.Scores | None]) -> dict[str, label_set.Scores]:
    """Return each scorer's scores: the known ones, and for what is missing those of the pass.

    Raises:
        UserError: if the pass did not score exactly the pairs that it was to.
    """
    scores = {name: own for name, own in known.items() if own is not None}
    if asked.names:
        table = scoring_pass.read_scores(asked.ids, asked.work)
        scores |= {name: label_set.scores_of(table, name) for name in known if name not in scores}
        scores |= {
            name: known_scores.with_answers(own, table, name)
            for name, own in known.items()
            if own is not None and name in asked.names
        }
    return scores


def write_label_set(plan: Plan, name: str, scores: label_set.Scores) -> None:
    """Label the kept pairs by one scorer's scores, and publish the label set, unless no answer in it is new."""
    config = plan.config
    folder = plan.folder(name)
    if plan.names[name] in label_files.label_sets(plan.destination):
        before = label_files.read_labels_manifest(plan.destination, plan.names[name])
        left = len(known_scores.unanswered(scores.refused))
        if (before["rows"], known_scores.count_unanswered(before)) == (len(scores.pair_ids), left):
            return
        files.remove(files.join(folder, store.MANIFEST), files.owner_of(folder))  # no longer a set until it is whole
    human, _ = label_files.read_labels(plan.destination, "human")
    kept = store.kept_pairs(plan.destination)
    rules = label_set.Rules(config.label, config.min_margin, plan.judges[name].temperature)
    judged_by = scorers.about(name, plan.weights[name])
    about = {"settings": settings_of(plan, name), **judged_by, "config": asdict(config)}
    scores = replace(scores, counted=with_cost(scores.counted, config.endpoint.token_prices))
    save_config(folder, config)
    label_set.write(plan.destination, plan.names[name], scores, rules, human, kept, about)


def with_cost(counted: Mapping[str, float], prices: tuple[float, float] | None) -> dict[str, float]:
    """Add what the tokens cost, where there are tokens and prices of a million read and a million written."""
    if prices is None or not counted:
        return dict(counted)
    spent = prices[0] * counted["prompt_tokens"] + prices[1] * counted["completion_tokens"]
    return {**counted, label_set.COST: spent / 1e6}


def settings_of(plan: Plan, scorer: str) -> dict[str, Any]:
    """Collect what decides a label set."""
    config = plan.config
    return {
        "scorer": scorer,
        "fingerprint": plan.judges[scorer].fingerprint,
        "store_hash": plan.store_hash,
        "source": config.source,
        "split": config.split,
        "label": config.label,
        "min_margin": config.min_margin,
    }


def is_finished(plan: Plan, scorer: str) -> bool:
    """Say whether a label set is finished with these settings, and no pair in it is without an answer.

    Raises:
        UserError: if it is there with others.
    """
    if plan.names[scorer] not in label_files.label_sets(plan.destination):
        return False
    manifest = label_files.read_labels_manifest(plan.destination, plan.names[scorer])
    remedy = "give another --names, or delete it"
    before = manifest.get("settings", {})
    label_set.refuse_other_settings(plan.folder(scorer), before, settings_of(plan, scorer), remedy)
    return not known_scores.count_unanswered(manifest)
