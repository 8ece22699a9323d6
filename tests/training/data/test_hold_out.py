"""Pairs held out of their own store: by caption, alike in every run, and never trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.base.errors import UserError
from pipelines.latents import store
from pipelines.raw.pairs import prompt_id
from training.data import hold_out
from training.data.applied_labels import Labelled, apply_labels
from training.data.opened import open_store
from training.run import assembly, assessment, preflight
from training.settings import flags
from training.settings.config import DataConfig, TrainConfig


@pytest.mark.parametrize(
    ("share", "captions", "held"),
    [(0.1, 40, 4), (0.25, 10, 2), (0.01, 40, 1), (0.9, 2, 1)],  # 2.5 is rounded to even; at least one; never all
)
def test_so_many_captions_are_held_out(share: float, captions: int, held: int) -> None:
    assert hold_out.count(share, captions) == held


def test_the_first_captions_by_id_are_held_out_but_never_the_empty_one() -> None:
    captions = np.array([0, 1, 2, 3, 4, 1], np.uint32)
    # Three are held out of rows 0, 1, 3, 4, where row 2 is the empty caption: 0, 1 and 3.
    assert hold_out.is_held_out(captions, 2, 3).tolist() == [True, True, False, True, False, True]
    assert hold_out.is_held_out(captions, 4, 3).tolist() == [True, True, True, False, False, True]


@pytest.fixture
def data(encoded_store: Path) -> Labelled:
    return apply_labels(open_store(str(encoded_store)), str(encoded_store), "human")


def captions_of(encoded_store: Path, data: Labelled) -> set[str]:
    """Return the captions of labelled pairs, read from the store's tables."""
    pairs = pq.read_table(encoded_store / "pairs" / "status=kept", columns=["pair_id", "prompt_id"]).to_pylist()
    prompt_of = {row["pair_id"]: row["prompt_id"] for row in pairs}
    captions = {row["prompt_id"]: row["caption"] for row in pq.read_table(encoded_store / "prompts").to_pylist()}
    return {captions[prompt_of[pair]] for pair in data.pairs.pair_ids[data.rows].tolist()}


def test_no_caption_is_on_both_sides_and_no_pair_is_lost(encoded_store: Path, data: Labelled) -> None:
    train, apart = hold_out.split(data, 0.1)
    assert sorted([*train.rows, *apart.rows]) == data.rows.tolist()
    seen, unseen = captions_of(encoded_store, train), captions_of(encoded_store, apart)
    assert seen & unseen == set()
    every = sorted(captions_of(encoded_store, data), key=prompt_id)
    assert unseen == set(every[: round(0.1 * len(every))])


def test_training_the_held_out_accuracy_and_the_counts_take_the_same_split(encoded_store: Path, data: Labelled) -> None:
    config = TrainConfig(data=DataConfig(store=str(encoded_store), hold_out=0.1))
    train, apart = hold_out.split(data, 0.1)
    assert assembly.open_pairs(config).rows.tolist() == train.rows.tolist()
    judged = assessment.held_out(config, assembly.Rank(), repeats=1, limit=None)
    assert judged is not None
    assert judged.data.rows.tolist() == apart.rows.tolist()
    assert preflight.check_settings(config)[1] == {0: len(train.rows)}  # in one bucket: the store has none
    ids = data.pairs.pair_ids[apart.rows]
    assert sorted(hold_out.of_store(str(encoded_store), 0.1)) == sorted(ids)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (DataConfig(hold_out=1.0), "--hold-out 1: must be from 0 to below 1, a share of the captions"),
        (DataConfig(hold_out=-0.1), "--hold-out -0.1: must be from 0 to below 1, a share of the captions"),
        (
            DataConfig(hold_out=0.1, held_out_store="/other"),
            "--hold-out 0.1: --held-out-store names the held-out pairs already; leave one of the two out",
        ),
    ],
)
def test_a_share_that_is_none_is_refused(data: DataConfig, told: str) -> None:
    with pytest.raises(UserError) as refused:
        flags.check_flags(TrainConfig(data=data))
    assert str(refused.value) == told


def test_a_store_of_one_caption_has_none_to_hold_out(
    encoded_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = store.read_manifest(str(encoded_store))
    one = replace(manifest, counts=replace(manifest.counts, prompts=1))
    assert hold_out.count(0.1, 1) == 0  # so that accuracy would be the mean of nothing, which is not a number
    monkeypatch.setattr(store, "read_manifest", lambda _: one)
    config = TrainConfig(data=DataConfig(store=str(encoded_store), hold_out=0.1), output=str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"--hold-out 0\.1: captions are held out, and --store .* has one alone"):
        preflight.check_settings(config)


def test_batches_follow_a_small_set_and_say_so(encoded_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = store.read_manifest(str(encoded_store)).counts.kept
    assert kept == 351
    config = TrainConfig(data=DataConfig(store=str(encoded_store), global_batch=2048, micro_batch=16))
    fitted = preflight.fit_batch(config).data
    assert (fitted.global_batch, fitted.micro_batch) == (336, 16)  # 21 times 16 are 336, and 22 times would be 352
    assert capsys.readouterr().out == (
        "--global-batch 2048: the set has 351 pairs to train on, so a step takes 336 of them, 16 at once on "
        "one worker; another number of --workers may give another batch\n"
    )
    two = preflight.fit_batch(replace(config, workers=2, data=replace(config.data, micro_batch=512))).data
    assert (two.global_batch, two.micro_batch) == (350, 175)  # 351 // 2 at once on each of two workers
    enough = replace(config, data=replace(config.data, global_batch=336))
    assert preflight.fit_batch(enough) is enough


@pytest.mark.parametrize(
    ("workers", "global_batch", "micro_batch", "told"),
    [
        (1, 20, 8, "--global-batch 24 or --micro-batch 5"),  # 20 = 4 x 5; 24 = 3 x 8
        (1, 8, 16, "--global-batch 16 or --micro-batch 8"),
        (2, 20, 8, "--global-batch 32 or --micro-batch 5"),  # 10 a worker
        (2, 7, 2, "--global-batch 8"),  # no micro-batch parts 7 pairs between two workers
    ],
)
def test_a_refusal_names_values_that_do(workers: int, global_batch: int, micro_batch: int, told: str) -> None:
    config = TrainConfig(workers=workers, data=DataConfig(global_batch=global_batch, micro_batch=micro_batch))
    with pytest.raises(UserError) as refused:
        flags.check_batch(config)
    assert str(refused.value).endswith(f"; give {told}")
