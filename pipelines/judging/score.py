"""Score images: `python pipelines/score.py --images runs/a runs/b --scorers oracle fidelity`, on Ray Data.

Beside each folder's images it writes one folder per scorer, scores/NAME/, each with a manifest of its own, and set.json
with what holds for the set as a whole. Scorers that are done are left alone; the missing ones share one pass.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from infra.base import files, models, next_step, object_storage, one_writer
from infra.base.config_files import save_config
from infra.base.errors import UserError, check_least
from infra.base.verifying import refusals
from labelers.scoring import scorers
from pipelines.drawing import image_sets
from pipelines.drawing.image_flags import read_image_flags
from pipelines.drawing.image_sets import DONE, image_files, image_ids, read_images, read_manifest
from pipelines.engine import block_rows, choose, resumable, shares
from pipelines.engine.jobs import Job, Step
from pipelines.judging import score_files
from pipelines.judging.score_config import ScoreConfig
from pipelines.latents import store

MARKS = "scores_done"  # folder of the marks of finished blocks, among the work files


class ScoreImages:
    """Step: images and captions to one column per scorer."""

    def __init__(self, weights: Mapping[str, str | None]) -> None:
        self.scorers = {name: scorers.load(name, wanted) for name, wanted in weights.items()}

    def __call__(self, drawn: pa.Table) -> pa.Table:
        """Replace the column image by the scores, float32.

        Raises:
            UserError: if a scorer gives a score that is not finite.
        """
        contents = drawn["image"].to_pylist()
        captions = drawn["caption"].to_pylist()
        images = [Image.open(io.BytesIO(content), formats=("PNG",)).convert("RGB") for content in contents]
        columns = {name: drawn[name] for name in score_files.KEYS}
        for name, scorer in self.scorers.items():
            scores = scorer.score(images, captions)
            if not np.isfinite(scores).all():
                caption = captions[int(np.argmin(np.isfinite(scores)))]
                raise UserError(f"scorer {name}: its score is not finite for an image of {caption[:80]!r}")
            columns[name] = pa.array(scores, pa.float32())
        return pa.table(columns)


def main(config: ScoreConfig) -> None:
    """Score images by each scorer, and each folder as a set."""
    check_least(config, {"batch_size": 1})
    weights = scorers.described(config.scorers, config.weights, config.endpoint, config.scorer_python)
    loaded = {name: scorers.load(name, wanted) for name, wanted in weights.items()}
    current = {name: scorer.fingerprint for name, scorer in loaded.items()}
    folders = [files.resolve(path) for path in config.images]
    true_images = files.resolve(config.true_images) if config.true_images else None
    features = models.local_folder(config.feature_model, flag="--feature-model")
    if true_images:
        read_images(true_images, columns=["image_id"])  # refused here where it is unfinished, not after the scoring
    for path in folders:
        captions = read_images(path, columns=["caption"])["caption"].unique().to_pylist()
        for name, wanted in weights.items():
            scorers.check(name, wanted, captions)
    done = [score_folder(config, path, current, weights) for path in folders]
    judged = _judge_folders(config, folders, true_images, features)
    for path in folders:
        save_config(files.join(path, score_files.SCORES), config)
        scores = score_files.read_scores(path)
        medians = (
            f"{scorers.title(name, wanted)} median {np.median(scores[name].to_numpy()):.4f}"
            for name, wanted in weights.items()
        )
        nothing = not (done[folders.index(path)] or path in judged)
        print(f"{path}: " + ("already scored, nothing to do: " if nothing else "") + ", ".join(medians), flush=True)
    scores = files.join(folders[-1], score_files.SCORES)
    two = [folders[0], folders[-1]] if len(folders) > 1 else ["BASE", folders[-1]]
    flags = ("--base", two[0], "--policy", two[1], "--train", "RUN", "--store", "STORE", "--judge", config.scorers[0])
    then = next_step.command("pipelines/report.py", *flags)
    print(next_step.last_line(scores, f"scores by {', '.join(loaded)}", then), flush=True)


def verify(config: ScoreConfig) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with folders of images, their scores and their image flags."""
    for folder in map(files.resolve, config.images):
        refused = list(refusals(partial(image_sets.read_manifest, folder)))
        yield from refused
        if not refused:
            yield from image_sets.problems(folder)
            yield from score_files.problems(folder)
            yield from refusals(partial(read_image_flags, folder))


def score_folder(
    config: ScoreConfig, path: str, fingerprints: Mapping[str, str], weights: Mapping[str, str | None]
) -> bool:
    """Run the missing scorers over one folder of images in one pass; say whether there were any."""
    of = files.sha256(files.join(path, DONE))
    wanted = {name: {"scorer": name, "fingerprint": known, "of": of} for name, known in fingerprints.items()}

    def unscored() -> dict[str, Any]:
        return {name: identity for name, identity in wanted.items() if score_files.identity_of(path, name) != identity}

    missing = unscored()
    if missing:  # else there is nothing to write, and the bucket may be one that can only be read
        object_storage.check("--images", path)

    def publish(table: pa.Table) -> None:
        for name, identity in missing.items():
            title = scorers.title(name, weights[name])
            score_files.write_scores(
                path, name, table, {"identity": identity, "judge": title, "config": asdict(config)}
            )

    scored = resumable.finish(
        resumable.Pass(
            work=files.join(path, store.WORK),
            settings=missing,
            is_finished=lambda: not unscored(),
            lock=lambda: one_writer.writer_lock(path),
            prepare=choose.connect,
            run=lambda: choose.current().run(_job(config, path, {name: weights[name] for name in missing})),
            count=lambda: _read_rows(path),
            publish=publish,
        )
    )
    return scored is not None


def _read_rows(path: str) -> pa.Table:
    """Read the rows of a pass, in order of image_id.

    Raises:
        UserError: if they are not those of the folder's images.
    """
    work = files.join(path, store.WORK)
    table = block_rows.read(files.join(work, score_files.SCORES), files.join(work, MARKS)).sort_by("image_id")
    if table["image_id"] != read_images(path, columns=["image_id"])["image_id"]:
        raise UserError(f"{path}: {table.num_rows} images scored; they changed meanwhile: run again")
    return table


def _job(config: ScoreConfig, path: str, weights: Mapping[str, str | None]) -> Job:
    work = files.join(path, store.WORK)
    share = shares.share(choose.current().device_count())
    return Job(
        source=image_files(path),
        columns=[*score_files.KEYS, "image"],
        steps=[
            Step(
                function=ScoreImages,
                arguments={"weights": weights},
                batch_size=config.batch_size,
                actors=share.copies,
                gpus=share.gpus,
            )
        ],
        output=files.join(work, score_files.SCORES),
        checkpoint=files.join(work, MARKS),
        id_column="image_id",
        row_ids=image_ids,
        rows_per_block=4 * config.batch_size,
        name=f"images scored by {', '.join(weights)}",
        rows=int(read_manifest(path)["images"]),
    )


def _judge_folders(config: ScoreConfig, folders: list[str], true_images: str | None, folder: Path) -> set[str]:
    """Judge as sets the folders that are not judged yet, by the VAE of the model in folder, and return those."""
    wanted = {path: score_files.set_identity(path, true_images, folder) for path in folders}
    missing = {path: identity for path, identity in wanted.items() if score_files.set_identity_of(path) != identity}
    if not missing:
        return set()
    from pipelines.judging.set_judges import LatentFeatures, judge_set  # which load torch

    features = LatentFeatures(folder)
    true = features.of(true_images)[0] if true_images else None
    for path, identity in missing.items():
        judged = judge_set(*features.of(path), true)
        score_files.write_set(path, {"identity": identity, "config": asdict(config), "judged": judged})
    return set(missing)
