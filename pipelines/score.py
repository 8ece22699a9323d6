"""Score images: `python pipelines/score.py --images runs/a runs/b --scorers oracle fidelity`, on Ray Data.

Beside each folder's images it writes scores/*.parquet, and set.json with what holds for the set as a whole: KID against
true images where a folder of them is given, and diversity.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from infra import (
    cli,
    files,
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.errors import UserError

from diffusers import AutoencoderKL  # isort: skip

from labelers import scorers
from pipelines import engine, store
from pipelines.generate import image_ids, read_images
from pipelines.images import decode_image
from pipelines.win_rate import diversity

DONE = "set.json"


@dataclass(frozen=True)
class ScoreConfig:
    """Flags of the scorer."""

    images: tuple[str, ...]
    """Folders that generate.py wrote."""
    scorers: tuple[str, ...] = ("oracle", "fidelity")
    """Names from labelers/scorers.py, or module:function."""
    weights: tuple[str, ...] = ()
    """world (the embedded world's, the default), published (the Hub's), or NAME=PATH for single scorers."""
    true_images: str | None = None
    """Folder of true images that KID compares with; without it no KID."""
    feature_model: str = "infra/world/model"
    """Diffusers folder whose VAE's latent means are the features of KID and diversity."""
    batch_size: int = 64
    """Images scored at once."""


class ScoreImages:
    """Step: images and captions to one column per scorer."""

    def __init__(self, weights: dict[str, str | None]) -> None:
        self.scorers = {name: scorers.load(name, wanted) for name, wanted in weights.items()}

    def __call__(self, drawn: pa.Table) -> pa.Table:
        """Replace the column image by the scores, float32.

        Raises:
            ValueError: if a scorer gives a score that is not finite.
        """
        images = [Image.open(io.BytesIO(content)) for content in drawn["image"].to_pylist()]
        captions = drawn["caption"].to_pylist()
        columns = {name: drawn[name] for name in ("image_id", "caption", "image_index")}
        for name, scorer in self.scorers.items():
            scores = scorer.score(images, captions)
            if not np.isfinite(scores).all():
                raise ValueError(
                    f"scorer {name}: a score is not finite, caption {captions[int(np.argmin(np.isfinite(scores)))]!r}"
                )
            columns[name] = pa.array(scores, pa.float32())
        return pa.table(columns)


class LatentFeatures(torch.nn.Module):
    """The features of KID and diversity: a VAE's latent means, flat. Inception's weights cannot be had offline."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", use_safetensors=True).eval()

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map [B, 3, R, R] uint8 to [B, d] float32."""
        parts = [self.vae.encode(part.float() / 127.5 - 1).latent_dist.mean.flatten(1) for part in images.split(64)]
        return torch.cat(parts)


def set_judgement(
    drawn: pa.Table, true: pa.Table | None, features: LatentFeatures, resolution: int
) -> dict[str, float | int]:
    """Judge a set of images as a whole.

    Returns:
        diversity (mean distance of features within a prompt), images, and with true images KID's mean and standard
        deviation over subsets (Binkowski et al. 2018, unbiased, cubic kernel).
    """
    pixels = _pixels(drawn, resolution)
    captions = drawn["caption"].to_pylist()
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    prompts = np.array([numbers[caption] for caption in captions])
    judged: dict[str, float | int] = {
        "images": len(captions),
        "diversity": diversity(features(pixels).numpy(), prompts),
    }
    if true is not None:
        from torchmetrics.image.kid import KernelInceptionDistance  # after the guard: it imports torchvision

        reference = _pixels(true, resolution)
        torch.manual_seed(0)  # KID draws its subsets from torch's generator
        kid = KernelInceptionDistance(feature=features, subset_size=min(200, len(pixels), len(reference)), subsets=50)
        kid.update(reference, real=True)
        kid.update(pixels, real=False)
        mean, spread = kid.compute()
        judged |= {"kid": float(mean), "kid_std": float(spread)}
    return judged


def _pixels(table: pa.Table, resolution: int) -> torch.Tensor:
    stacked = np.stack([decode_image(content, resolution) for content in table["image"].to_pylist()])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def main(config: ScoreConfig) -> None:
    """Score images by each scorer, and each folder as a set."""
    weights = scorers.weights_of(config.scorers, config.weights)
    for name, wanted in weights.items():
        scorers.check(name, wanted)
    fingerprints = {name: scorers.load(name, wanted).fingerprint for name, wanted in weights.items()}
    folder = models.local_folder(config.feature_model)
    resolution = models.component_config(folder, "vae")["sample_size"]
    true = read_images(files.resolve(config.true_images)) if config.true_images else None
    folders = [files.resolve(path) for path in config.images]
    tables = {path: read_images(path) for path in folders}
    features = LatentFeatures(folder)
    for path in folders:
        # What was asked and of which images: a finished folder is left alone only if it answers the same question.
        identity = {
            "scorers": fingerprints,
            "true_images": config.true_images,
            "of": files.sha256(files.join(path, "manifest.json")),
        }
        done = files.join(path, DONE)
        if files.exists(done) and files.read_json(done)["identity"] == identity:
            print(f"{path}: already scored, nothing to do", flush=True)
            continue
        with store.writer_lock(path):
            for stale in ("scores", DONE):
                files.remove(files.join(path, stale))
            _score(config, weights, path, tables[path].num_rows)
            judged: dict[str, Any] = dict(set_judgement(tables[path], true, features, resolution))
            files.write_json(done, {"identity": identity, **judged})
            files.remove(files.join(path, store.WORK))
        scores = read_scores(path)
        print(
            f"{path}: " + "  ".join(f"{n} median {np.median(scores[n].to_numpy()):.4f}" for n in config.scorers),
            flush=True,
        )


def _score(config: ScoreConfig, weights: dict[str, str | None], path: str, rows: int) -> None:
    engine.connect()
    files.remove(files.join(path, store.WORK))
    engine.run(
        engine.Job(
            source=files.list_files(files.join(path, "images"), ".parquet"),
            columns=["image_id", "caption", "image_index", "image"],
            steps=[engine.Step(ScoreImages, {"weights": weights}, config.batch_size, actors=1)],
            output=files.join(path, "scores"),
            checkpoint=files.join(path, store.WORK, "scores_done"),
            id_column="image_id",
            row_ids=image_ids,
            rows_per_block=4 * config.batch_size,
            name="scores",
            rows=rows,
        )
    )


def read_scores(path: str) -> pa.Table:
    """Read a scored folder's scores in the order of image_id.

    Raises:
        UserError: if the folder is not scored.
    """
    if not files.exists(files.join(path, DONE)):
        raise UserError(f"{path}: not scored yet; run score.py")
    found = files.list_files(files.join(path, "scores"), ".parquet")
    filesystem, _ = files.open_filesystem(path)
    parts = [pq.read_table(files.open_filesystem(p)[1], filesystem=filesystem, partitioning=None) for p in found]
    return pa.concat_tables(parts).sort_by("image_id")


def paired_scores(
    policy: pa.Table, base: pa.Table, name: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Take one image per prompt, index 0, from both, in the same order.

    Raises:
        UserError: if they are not images of the same prompts.
    """
    first = [table.filter(pa.compute.equal(table["image_index"], 0)) for table in (policy, base)]
    if first[0]["image_id"] != first[1]["image_id"]:
        raise UserError("policy and base were drawn for different prompts; give both the same --prompts and --limit")
    return first[0][name].to_numpy(), first[1][name].to_numpy()


if __name__ == "__main__":
    cli.run(main, ScoreConfig)
