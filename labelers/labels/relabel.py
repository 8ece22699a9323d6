"""Label the pairs of a latent store by scorers: `python labelers/relabel.py --scorer pickscore --source RAW --store S`.

Raw images and captions to one label set per scorer, in one pass on Ray Data, without touching a latent. Only pairs that
the store kept are labelled: as in the authors' code, those that people tied are not. The same command again finishes
what is missing, and leaves finished label sets alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from infra.base import files, hub, models, object_storage, tables
from infra.base.errors import UserError, check_least
from labelers.labels import known_scores, label_hub, label_set
from labelers.labels.labelling import Plan, is_finished, labelling
from labelers.labels.relabel_config import RelabelConfig
from labelers.scoring import scorers, scoring_pass
from labelers.scoring.speed_config import SPEEDS
from pipelines.engine import resumable
from pipelines.latents import label_files, store
from pipelines.latents.store_check import label_set_problems
from pipelines.raw import contents
from pipelines.raw.source import told_apart

WORLD_MODEL = "infra/world/model"


def main(config: RelabelConfig) -> None:
    """Label the kept pairs of a latent store by scorers, each pair's images decoded once for all of them."""
    if config.push_to_hub is not None:
        hub.check(config.push_to_hub)
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
        waiting = known_scores.count_unanswered(manifest)
        if waiting:
            print(f"  {waiting:,} pairs have no answer yet; the same command asks for these again", flush=True)
    if config.push_to_hub is not None:
        print(label_hub.push(plan.destination, [*plan.names.values()], config.push_to_hub), flush=True)
    print(label_set.result(plan.destination, [*plan.names.values()][-1]), flush=True)


def verify(config: RelabelConfig) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with the label sets named; without names, with all of the store."""
    destination = files.resolve(config.store)
    for name in config.names or label_files.label_sets(destination):
        yield from label_set_problems(destination, name)


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
