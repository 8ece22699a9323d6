"""The data and resume benchmarks' pieces: the random store, what a billion pairs take, faked checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.benchmarks import data, resume
from infra.benchmarks.random_store import random_pairs, write_store
from training.data.applied_labels import apply_labels
from training.data.opened import open_store
from training.run import assembly, keeping
from training.settings.config import DataConfig, TrainConfig

SHAPE, EMBEDDINGS = (4, 8, 8), {"text_encoder": (16, 64)}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    write_store(folder / "store", 300, SHAPE, EMBEDDINGS)
    return folder


def test_a_random_store_opens_like_any_other(stored: Path) -> None:
    path = str(stored / "store")
    labelled = apply_labels(open_store(path), path, "human")
    first = np.arange(3)
    assert labelled.pairs.latents.begin(first)()["latents_1"].shape == (3, *SHAPE)
    assert labelled.pairs.prompts.begin(first)()["text_encoder"].shape == (3, 16, 64)
    assert labelled.winners.tolist() == [1 - number % 2 for number in range(300)]
    assert data.one_pass(labelled, 32, 0) > 0
    memory = random_pairs(300, SHAPE, EMBEDDINGS)
    assert memory.pairs.latents.begin(first)()["latents_1"].shape == (3, *SHAPE)


def test_evicting_files_leaves_their_contents(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10000)
    data.evict([path])
    assert path.read_bytes() == b"x" * 10000
    assert data.disk_bytes() >= 0
    assert data.anonymous_bytes() > 1 << 20


def test_a_billion_pairs_take_no_more_memory_than_a_batch() -> None:
    assert data.billion()["peak_bytes"] < 4 << 20  # a stored permutation would take 8 GB


def test_a_faked_checkpoint_resumes_at_its_step(stored: Path, tmp_path: Path) -> None:
    settings = DataConfig(store=str(stored / "store"), cache=str(tmp_path / "cache"), global_batch=4, micro_batch=4)
    config = replace(TrainConfig(data=settings), steps=10**9, output=str(tmp_path / "run"))
    resume.fake_checkpoint(config, 1234)
    notes = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(notes) == 1234
    assert '"step": 1234,' in notes[-1]
    trainer = assembly.build(config, assembly.Rank())
    assert keeping.resume(trainer) == 1234
    assert np.isfinite(1 / resume.starts_per_second(config, 1234))
