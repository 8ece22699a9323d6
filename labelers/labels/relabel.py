"""Label the pairs of a latent store by scorers: `python labelers/relabel.py --scorer pickscore --source RAW --store S`.

Raw images and captions to one label set per scorer, in one pass on Ray Data, without touching a latent. Only pairs that
the store kept are labelled: as in the authors' code, those that people tied are not. The same command again finishes
what is missing, and leaves finished label sets alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.base import files, models, object_storage, one_writer, tables
from infra.base.config_files import save_config
from infra.base.errors import UserError, check_least
from labelers.labels import label_set
from labelers.labels.relabel_config import RelabelConfig
from labelers.scoring import scorers, scoring_pass
from labelers.scoring.scorers import Scorer
from labelers.scoring.speed_config import SPEEDS
from pipelines.engine import resumable
from pipelines.latents import label_files, store
from pipelines.latents.store_check import label_set_problems
from pipelines.raw import contents
from pipelines.raw.source import told_apart

WORLD_MODEL = "infra/world/model"


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


def main(config: RelabelConfig) -> None:
    """Label the kept pairs of a latent store by scorers, each pair's images decoded once for all of them."""
    plan = make_plan(config)
    finished = [name for name in plan.names if is_finished(plan, name)]
    unfinished = [name for name in plan.names if name not in finished]
    if unfinished:
        resumable.finish(labelling(plan, unfinished))
    for name in plan.names:
        remark = ": already finished, nothing to do" if name in finished else ""
        manifest = label_files.read_labels_manifest(plan.destination, plan.names[name])
        title = scorers.title(name, plan.weights[name])
        print(f"{plan.folder(name)}, by {title}{remark}\n{label_set.summary(manifest)}", flush=True)
    print(label_set.result(plan.destination, [*plan.names.values()][-1]), flush=True)


def verify(config: RelabelConfig) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with the label sets named; without names, with all of the store."""
    destination = files.resolve(config.store)
    for name in config.names or label_files.label_sets(destination):
        yield from label_set_problems(destination, name)


def labelling(plan: Plan, names: Sequence[str]) -> resumable.Pass[dict[str, label_set.Scores]]:
    """Describe how the label sets of these scorers are made: from known scores, or from one pass for all the others."""
    known = {name: label_set.known_scores(plan.destination, settings_of(plan, name)) for name in names}
    missing = [name for name in names if known[name] is None]
    wanted = {name: label_set.scoring_part(settings_of(plan, name)) for name in missing}
    path = files.join(plan.work, resumable.NOTED)
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
        work=plan.work,
        settings=noted,
        is_finished=lambda: all(is_finished(plan, name) for name in names),
        lock=lock_all,
        refuse_others=lambda before: refuse_others(plan, before, wanted),
        prepare=lambda: try_scorers(plan, missing),
        run=lambda: score_pairs(plan, list(noted), missing),
        count=lambda: read_scores(plan, known),
        publish=publish,
    )


def refuse_others(plan: Plan, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse scorers that an unfinished pass was not begun with.

    Raises:
        UserError: naming the settings that differ.
    """
    for name, now in wanted.items():
        label_set.refuse_other_settings(plan.work, before.get(name, {}), now, "remove this folder to start over")


def try_scorers(plan: Plan, names: Sequence[str]) -> None:
    """Try scorers on the first pairs, where the pass will run; without scorers nothing is needed.

    Raises:
        UserError: if one fails there.
    """
    if names:
        judges = {name: plan.judges[name] for name in names}
        scoring_pass.try_scorers(plan.raw, plan.kept, judges, plan.weights, plan.config.speed)


def score_pairs(plan: Plan, names: Sequence[str], missing: Sequence[str]) -> None:
    """Score the kept pairs by these scorers, where the scores of any are missing."""
    if missing:
        scoring_pass.score_pairs(plan.raw, plan.kept, names, plan.weights, plan.work, plan.config.speed)


def read_scores(plan: Plan, known: Mapping[str, label_set.Scores | None]) -> dict[str, label_set.Scores]:
    """Return each scorer's scores: the known ones, and for the others those of the pass.

    Raises:
        UserError: if the pass did not score exactly the kept pairs.
    """
    scores = {name: own for name, own in known.items() if own is not None}
    if len(scores) < len(known):
        table = scoring_pass.read_scores(plan.kept, plan.work)
        scores |= {name: label_set.scores_of(table, name) for name in known if name not in scores}
    return scores


def write_label_set(plan: Plan, name: str, scores: label_set.Scores) -> None:
    """Label the kept pairs by one scorer's scores, and publish the label set."""
    config = plan.config
    human, _ = label_files.read_labels(plan.destination, "human")
    kept = store.kept_pairs(plan.destination)
    rules = label_set.Rules(config.label, config.min_margin, plan.judges[name].temperature)
    judged_by = scorers.about(name, plan.weights[name])
    about = {"settings": settings_of(plan, name), **judged_by, "config": asdict(config)}
    scores = replace(scores, counted=with_cost(scores.counted, config.endpoint.token_prices))
    save_config(plan.folder(name), config)
    label_set.write(plan.destination, plan.names[name], scores, rules, human, kept, about)


def with_cost(counted: Mapping[str, float], prices: tuple[float, float] | None) -> dict[str, float]:
    """Add what the tokens cost, where there are tokens and prices of a million read and a million written."""
    if prices is None or not counted:
        return dict(counted)
    spent = prices[0] * counted["prompt_tokens"] + prices[1] * counted["completion_tokens"]
    return {**counted, label_set.COST: spent / 1e6}


def make_plan(config: RelabelConfig) -> Plan:
    """Check every input before Ray starts.

    Raises:
        UserError: naming the flag that does not fit.
    """
    check_least(config.speed, SPEEDS)
    label_set_names(config.scorer, config.names)
    if config.min_margin < 0 or (config.min_margin > 0 and len(config.scorer) > 1):
        raise UserError(
            f"--min-margin {config.min_margin}: a positive number in the units of one scorer; label with one --scorer"
        )
    scorers.weights_of([name for name in config.scorer if "://" not in name], config.weights)
    destination = files.resolve(config.store)
    object_storage.check("--store", destination)
    manifest = store.read_manifest(destination)
    store.verify(destination, manifest)
    weights = scorers.described(config.scorer, config.weights, config.endpoint, config.scorer_python)
    names = label_set_names(list(weights), config.names)
    judges = {name: scorers.load(name, weights[name]) for name in names}
    world = [name for name, judge in judges.items() if hasattr(judge, "check") and weights[name] in (None, "world")]
    _refuse_foreign_weights(world, dict(manifest.fingerprints), config.store, manifest.model)
    toys = any(scorers.is_toy(name, weights[name]) for name in names)
    captions = _captions(destination) if toys else []
    for name in names:
        scorers.check(name, weights[name], captions)
    raw = scoring_pass.open_pairs(config.source, config.split)
    kept = store.kept_pairs(destination)["pair_id"].to_numpy()
    _refuse_changed_images(config, raw, manifest)
    absent = np.setdiff1d(kept, raw.ids)
    if len(absent):
        raise UserError(
            f"--source {config.source}: lacks {len(absent)} of the {len(kept)} pairs of {config.store}, "
            f"{absent[0]} for one; give the source that it was encoded from ({manifest.source})"
        )
    return Plan(
        config=config,
        destination=destination,
        store_hash=manifest.content_hash,
        raw=raw,
        kept=kept,
        judges=judges,
        weights=weights,
        names=names,
    )


def _captions(destination: str) -> list[str]:
    """Read a store's captions, but the empty one, which every store has."""
    stored = tables.read_folder(files.join(destination, "prompts"), columns=["caption"])["caption"].to_pylist()
    return [caption for caption in stored if caption]


def _refuse_changed_images(config: RelabelConfig, raw: scoring_pass.PairSource, manifest: store.Manifest) -> None:
    """Refuse a source whose files hold other images than those that the store was encoded from.

    A source that was cut into other files is let through, as pair ids are the same there, and this is said.
    """
    if not manifest.source_files:
        return
    now = contents.contents_of(config.source, raw.paths)
    is_same_place = told_apart(config.source) == told_apart(manifest.source)
    place = f"--source {config.source}, from which {config.store} was encoded"
    remedy = "restore the file as it was, or encode again into another store"
    if not is_same_place:
        place = f"--source {config.source}: {config.store} was encoded from {manifest.source}, and compared with that"
        remedy = f"give --source {manifest.source}, or a whole copy of it"
    contents.refuse_changed_files(manifest.source_files, now, place, remedy, by_time=is_same_place)
    if not manifest.source_files.keys() & now.keys():
        print(
            f"--source {config.source}: its files have other names than those that {config.store} was encoded from, so "
            "their images are not compared",
            flush=True,
        )


def label_set_names(judges: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """Name each scorer's label set; the scorers may still be addresses, whose own names are not known yet.

    Raises:
        UserError: for doubled, missing or unsuitable names.
    """
    own = [name if "://" in name else name.rpartition(":")[2] for name in judges]
    names = list(given) or own
    if len(names) != len(judges) or not names:
        raise UserError(f"--names: {len(names)} names for {len(judges)} scorers")
    if len(set(judges)) != len(names) or len(set(names)) != len(names):
        raise UserError(f"--scorer {' '.join(judges)}: each scorer and each label set once")
    for name in names:
        if "://" not in name:
            label_set.check_name("--names", name)
    return dict(zip(judges, names, strict=True))


def _refuse_foreign_weights(world: list[str], stored: dict[str, str], path: str, model: str) -> None:
    if not world:
        return
    from pipelines.latents import identity  # which loads the libraries of networks

    # A policy trained on the embedded world keeps its VAE, so its fingerprint is asked and not the model's name.
    if stored["vae"] != identity.like(stored["vae"], models.local_folder(WORLD_MODEL), "vae"):
        raise UserError(
            f"--scorer {' '.join(world)}: the default weights know only the embedded world, and {path} holds images "
            f"for {model}; give --weights published, or {world[0]}=PATH"
        )


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
    """Say whether a label set is finished with these settings.

    Raises:
        UserError: if it is there with others.
    """
    if plan.names[scorer] not in label_files.label_sets(plan.destination):
        return False
    before = label_files.read_labels_manifest(plan.destination, plan.names[scorer]).get("settings", {})
    remedy = "give another --names, or delete it"
    label_set.refuse_other_settings(plan.folder(scorer), before, settings_of(plan, scorer), remedy)
    return True
