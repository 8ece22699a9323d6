"""What groups save over pairs: `python infra/benchmarks/groups.py`.

K images of a caption make K (K - 1) / 2 pairs. As a source of pairs each image is stored, encoded and visited K - 1
times; as a source of groups once. Both ways run here on the same images, in this process: the encoder's steps over the
source, and one visit of the reference to every pair.
"""

from __future__ import annotations

import io
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from infra.base import cli, engines, files, models
from infra.benchmarks.measure import median
from infra.world.shapes import COLOURS, all_scenes, render
from pipelines.latents import decoding, encode_latents, encoders, image_encoder, store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.raw import group_source, groups, raw_pairs, raw_table, source
from training.backbones.schedule_config import ScheduleConfig
from training.reference import encode_reference
from training.reference.visit_pairs import VisitImages, VisitPairs

BATCH = 32
RESOLUTION = 64
WAYS = ("pairs", "groups")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    model: str = "infra/world/model"
    sizes: tuple[int, ...] = (2, 4, 8)
    """Images of a group."""
    images: int = 256
    """Images in all, for each size."""
    rounds: int = 3
    json: str | None = None
    """File for the figures."""


def rows_of(images: int, size: int, grouped: bool) -> Iterator[dict[str, Any]]:
    """Yield every pair of the groups that so many images make, the earlier image better."""
    rng = np.random.default_rng(0)
    scenes = all_scenes()
    numbers = itertools.count()
    for group in range(images // size):
        scene = scenes[group % len(scenes)]
        shown = []
        for place in range(size):
            buffer = io.BytesIO()
            other = replace(scene, background=list(COLOURS)[place % len(COLOURS)])
            Image.fromarray(render(other, rng)).save(buffer, format="JPEG", quality=95)
            shown.append((f"{group}-{place}", buffer.getvalue()))
        for pair in itertools.combinations(shown, 2):
            row = raw_pairs.labelled_pair(next(numbers), scene.caption, pair, 1.0, "renders")
            yield row | ({groups.GROUP: f"{group}"} if grouped else {})


def bytes_below(folder: Path, *parts: str) -> int:
    """Count the bytes of files below parts of a folder."""
    return sum(path.stat().st_size for part in parts for path in (folder / part).rglob("*") if path.is_file())


def seconds_of(work: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of some work, after one unmeasured turn."""
    work()
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return median(taken)


def encoding(way: str, raw: Path, model: models.Model) -> Callable[[], None]:
    """Return the encoder's steps over a source."""
    settings = {
        "model": model,
        "resolution": RESOLUTION,
        "posterior": "sample",
        "flip": False,
        "seed": 0,
        "batch_size": BATCH,
        "dtype": "float32",
    }
    check: Any = decoding.CheckAndDecode(RESOLUTION, strict_labels=False)
    encode: Any = encoders.LatentEncoder(**settings)  # type: ignore[arg-type]
    read: Callable[[str, Sequence[str]], Iterator[pa.Table]] = raw_table.read_pieces
    if way == "groups":
        check = decoding.CheckAndDecodeImages(RESOLUTION)
        encode = image_encoder.ImageEncoder(**settings)  # type: ignore[arg-type]
        read = group_source.read_images
    paths = source.parquet_files(str(raw), "train")
    dataset = raw_table.open_source(paths)
    names = raw_table.columns_to_read(dataset) if way == "pairs" else groups.IMAGE_SCHEMA.names

    def work() -> None:
        for path in paths:
            for piece in read(path, names):
                for start in range(0, piece.num_rows, BATCH):
                    encode(check(piece.slice(start, BATCH)))

    return work


def visiting(way: str, path: str, model: models.Model) -> tuple[Callable[[], None], int]:
    """Return one visit of the reference to every pair of a store, and the number of errors that it takes."""
    arguments: dict[str, Any] = {
        "model": model,
        "schedule": ScheduleConfig(),
        "path": path,
        "cache": None,
        "seed": 0,
        "caption_dropout": 0.2,
        "batch_size": BATCH,
        "precision": "float32",
    }
    step: VisitPairs = VisitPairs(**arguments) if way == "pairs" else VisitImages(**arguments)
    ids: npt.NDArray[np.int64] = store.kept_pairs(path)["pair_id"].to_numpy()
    if way == "groups":
        ids = store.images_of_pairs(path)
    wanted = encode_reference.wanted_visits(ids, 0, 1, "pair" if way == "pairs" else "image")

    def work() -> None:
        step(wanted)

    return work, len(ids) * len(step.columns)


def measure(config: BenchmarkConfig, way: str, size: int, folder: Path) -> dict[str, float]:
    """Encode the images of one size in one way and visit them; returns bytes, counts and seconds."""
    raw = folder / f"{way}-{size}-raw"
    path = folder / f"{way}-{size}"
    rows = rows_of(config.images, size, grouped=way == "groups")
    pairs = raw_pairs.write_pairs(str(raw), rows, {})
    with engines.asking("local"):
        encode_latents.main(EncodeConfig(source=str(raw), store=str(path), model=config.model, batch_size=BATCH))
    model = models.Model(config.model)
    visit, errors = visiting(way, str(path), model)
    counts = store.read_manifest(str(path)).counts
    return {
        "pairs": pairs,
        "raw_bytes": bytes_below(raw, "."),
        "store_bytes": bytes_below(path, "pairs", store.IMAGES),
        "encoded": counts.images or 2 * counts.kept,
        "encode_seconds": seconds_of(encoding(way, raw, model), config.rounds),
        "errors": errors,
        "reference_seconds": seconds_of(visit, config.rounds),
    }


def main(config: BenchmarkConfig) -> None:
    """Compare a source of groups with the same pairs as a source of pairs."""
    figures: dict[int, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in config.sizes:
            figures[size] = {way: measure(config, way, size, Path(folder)) for way in WAYS}
    names = [name for name in next(iter(figures.values()))["pairs"] if name != "pairs"]
    print(f"{'images a group':>20}  {'pairs':>10}  {'groups':>10}  groups / pairs")
    for size, ways in figures.items():
        for name in names:
            values = [ways[way][name] for way in WAYS]
            print(f"{size:>2} {name:>17}  {values[0]:>10.4g}  {values[1]:>10.4g}  {values[1] / values[0]:.3f}")
    if config.json:
        files.write_json(files.resolve(config.json), {str(size): ways for size, ways in figures.items()})


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig, about=__doc__)
