"""Images, scores, a store's manifest and a run's notes, made by hand: what the tests of scoring and report read."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image

from infra.base import files
from labelers.scoring import scorers
from pipelines.drawing import image_sets
from pipelines.judging import score
from pipelines.latents import label_files, store
from support.material import MODEL

STORE_HASH = "ab" * 16
TOLD: list[str] = []  # what the scorers below were asked, in order


class Red:
    """Scores the mean of the red channel."""

    channel = 0
    fingerprint = "the first"
    temperature = None

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        TOLD.append(f"{type(self).__name__} {len(captions)}")
        return np.array([np.asarray(image)[..., self.channel].mean() for image in images], np.float32)


class Green(Red):
    """Scores the mean of the green channel."""

    channel = 1
    fingerprint = "the first"  # its own: a test changes the other one's


class Broken(Red):
    """Gives no number."""

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.full(len(images), np.nan, np.float32) + super().score(images, captions)


def name_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the scorers above, for this process."""
    TOLD.clear()
    for kind in (Red, Green, Broken):
        monkeypatch.setitem(scorers.SCORERS, kind.__name__.lower(), f"support.judging_material:{kind.__name__}")


def write_images(folder: Path | str, colours: dict[str, list[tuple[int, int, int]]], **identity: Any) -> str:
    """Write one-coloured images in generate.py's layout: a caption's colours are its images, in order.

    Args:
        folder: local or on S3, as below.
    """
    rows = []
    for caption, shown in colours.items():
        for index, colour in enumerate(shown):
            buffer = io.BytesIO()
            Image.new("RGB", (64, 64), colour).save(buffer, format="PNG")
            wanted = image_sets.wanted_images([caption] * (index + 1), 1, seed=0).slice(index)
            rows.append(wanted.append_column("image", pa.array([buffer.getvalue()], pa.binary())))
    files.write_table(f"{folder}/images/part-0.parquet", pa.concat_tables(rows))
    known = {"model": str(folder), "seed": 0, "guidance_scale": 3.0, "captions": "c", "images_per_prompt": 1}
    files.write_json(f"{folder}/{image_sets.DONE}", {"identity": known | identity, "images": len(rows)})
    return str(folder)


def write_store(folder: Path | str) -> str:
    """Write a store's manifest: 10 rows in, 2 ties, 1 quarantined for its label, 7 kept."""
    counts = store.Counts(rows_in=10, ties=2, invalid=1, quarantined=1, kept=7, contradicting=0, prompts=3)
    manifest = store.Manifest(
        source="raw", model="m", fingerprints={}, resolution=64, latent_shape=(4, 8, 8), scaling_factor=1.0,
        shift_factor=0.0, posterior="sample", flip=False, embeddings={}, counts=counts, reasons={},
        content_hash=STORE_HASH, config={"source": "raw"}, files={},
    )  # fmt: skip
    store.publish(str(folder), manifest)
    return str(folder)


def write_label_set(folder: str, name: str, scorer: str | None = None, fingerprint: str = "the first") -> str:
    """Write a label set of two pairs into a store, a scorer's or the people's; return its hash."""
    settings = {"scorer": scorer, "fingerprint": fingerprint}
    agreement = {"value": 0.75, "low": 0.3, "high": 0.95, "pairs": 4, "ties": 0}
    told = {"settings": settings, "counts": {"labelled": 2}, "agreement": agreement} if scorer else {"scorer": "human"}
    columns = [[1, 2], [0.1, 0.2], [0.2, 0.1], [0.0, 1.0], [None, None]]
    label_files.write_labels(folder, name, pa.table(columns, names=label_files.LABELS_SCHEMA.names), told)
    return label_files.read_labels_manifest(folder, name)["sha256"]


def write_run(
    folder: Path | str,
    objective: str = "dpo",
    store_hash: str = STORE_HASH,
    labels: str = "human",
    labels_hash: str = "",
    store: str = "",
) -> str:
    """Write what a finished run leaves: facts, and notes whose last line a kill cut short."""
    config = {
        "model": "base-model", "output": str(folder), "data": {"global_batch": 32, "store": store, "labels": labels},
        "validation": {"validation_scorer": "oracle", "validation_prompts": "validation.txt"},
        "objective": {"objective": objective, "beta": 500.0}, "optimizer": {"learning_rate": 1e-5},
    }  # fmt: skip
    facts = {
        "best_step": 2,
        "implicit_reward": {"accuracy": 0.625, "n": 8, "draws": 10},
        "train": {"steps": 4, "pairs_per_second": 10.0, "data_wait_fraction": 0.001},
        "store_hash": store_hash,
        "labels_hash": labels_hash,
        "config": config,
    }
    files.write_json(f"{folder}/result/facts.json", facts)
    errors = {f"{who}_error_q{quarter}": 0.5 for who in ("policy", "reference") for quarter in (1, 2, 3, 4)}
    steps = [{"step": step, "loss": 0.7, "accuracy": 0.5 + step / 100, **errors} for step in (1, 2, 3, 4)]
    lines = "".join(json.dumps(row) + "\n" for row in steps) + '{"step": 5, "los'
    files.write_bytes(f"{folder}/metrics.jsonl", lines.encode())
    assessments = [{"step": step, "validation_median": 0.5, "held_out_accuracy": 0.6} for step in (0, 2, 4)]
    files.write_bytes(f"{folder}/assessments.jsonl", "".join(json.dumps(row) + "\n" for row in assessments).encode())
    Image.new("RGB", (512, 128), (9, 9, 9)).save(buffer := io.BytesIO(), format="PNG")
    files.write_bytes(f"{folder}/samples/step-0000002.png", buffer.getvalue())
    return str(folder)


def score_folders(*folders: str, names: tuple[str, ...] = ("red",), true_images: str | None = None) -> None:
    """Run score.py's main."""
    score.main(score.ScoreConfig(images=folders, scorers=names, true_images=true_images, feature_model=str(MODEL)))
