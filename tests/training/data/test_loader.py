"""Staging and micro-batches: a function of step, rank and settings; labels decide winner and loser."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.base.errors import UserError
from pipelines.latents import label_files, schemas
from training.data.applied_labels import Labelled, apply_labels
from training.data.loader import Share, assemble, prefetch, step_batches
from training.data.staging import stage
from training.method.draws import draw
from training.method.objective_config import ObjectiveConfig
from training.run import assembly
from training.settings.config import DataConfig, TrainConfig


def thousand(uniform: float) -> int:
    return int(uniform * 1000)


@pytest.fixture(scope="session")
def labelled(encoded_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    path = str(encoded_store)
    return apply_labels(stage(path, str(tmp_path_factory.mktemp("cache"))), path, "human")


def latents_of(labelled: Labelled, row: int) -> np.ndarray:
    """Return a pair's latents, slot 0 first."""
    read = labelled.pairs.latents.begin(np.array([row]))()
    return np.stack([read[f"latents_{slot}"][0] for slot in (0, 1)])


def test_staged_rows_are_the_stores(labelled: Labelled, encoded_store: Path) -> None:
    staged, path = labelled.pairs, encoded_store / "pairs" / "status=kept"
    table = pa.concat_tables([pq.read_table(p, partitioning=None) for p in sorted(path.glob("*.parquet"))])
    assert table.num_rows == len(staged.pair_ids) == staged.manifest.counts.kept
    row = int(np.searchsorted(staged.pair_ids, table["pair_id"][5].as_py()))
    for slot in (0, 1):
        assert np.array_equal(latents_of(labelled, row)[slot].ravel(), schemas.value_rows(table[f"latents_{slot}"])[5])
    assert (np.diff(staged.pair_ids) > 0).all()


def test_row_0_of_a_batch_is_the_winner(labelled: Labelled) -> None:
    batch = assemble(labelled, np.array([0, 1, 2, 3]), seed=0, epoch=0, timestep=thousand, dropout=0.0)
    for index in range(4):
        slots = latents_of(labelled, labelled.rows[index]).astype(np.float32)
        assert np.array_equal(batch.latents[0, index].numpy(), slots[labelled.winners[index]])
        assert np.array_equal(batch.latents[1, index].numpy(), slots[1 - labelled.winners[index]])


def test_batches_use_the_contracts_draws(labelled: Labelled) -> None:
    batch = assemble(labelled, np.array([7]), seed=3, epoch=2, timestep=thousand, dropout=0.0)
    expected = draw(3, 2, int(batch.pair_ids[0]), (4, 8, 8), thousand)
    assert batch.timesteps.tolist() == [expected.timestep]
    assert np.array_equal(batch.noise[0].numpy(), expected.noise)


def test_a_dropped_caption_is_the_encoded_empty_one(labelled: Labelled) -> None:
    batch = assemble(labelled, np.array([0]), seed=0, epoch=0, timestep=thousand, dropout=1.0)
    empty = labelled.pairs.prompts.begin(np.array([labelled.pairs.empty_prompt]))()["text_encoder"][0]
    assert np.array_equal(batch.conditioning["text_encoder"][0].numpy(), empty.astype(np.float32))
    assert np.abs(empty).sum() > 0  # never zeros


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro", [2, 4])
def test_the_stream_is_the_same_at_any_world_size_and_micro_batch(labelled: Labelled, world: int, micro: int) -> None:
    def stream(step: int, world: int, micro: int) -> int:
        total = 0
        for rank in range(world):
            share = Share(16, micro, rank, world)
            batches = step_batches(labelled, step, share, seed=1, timestep=thousand, dropout=0.2)
            for piece, batch in zip(share.pieces(), batches, strict=True):
                total += batch.fingerprint(piece.start)
        return total % (1 << 64)

    assert [stream(s, world, micro) for s in (0, 40)] == [stream(s, 1, 16) for s in (0, 40)]


def test_the_fingerprint_sees_pair_timestep_and_position(labelled: Labelled) -> None:
    one = assemble(labelled, np.array([0, 1]), 0, 0, thousand, 0.0)
    other = assemble(labelled, np.array([0, 1]), 0, 1, thousand, 0.0)
    assert one.fingerprint(0) != other.fingerprint(0)
    assert one.fingerprint(0) != one.fingerprint(2)


def test_labels_flip_the_winner_and_ties_are_left_out(labelled: Labelled, encoded_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(encoded_store, path)
    table, _ = label_files.read_labels(str(path), "human")
    label = 1 - table["label_0"].to_numpy()
    label[0] = 0.5
    flipped = table.set_column(table.schema.get_field_index("label_0"), "label_0", pa.array(label, pa.float32()))
    label_files.write_labels(str(path), "flipped", flipped, {"scorer": "flipped"})
    other = apply_labels(labelled.pairs, str(path), "flipped")
    assert len(other.rows) == len(labelled.rows) - 1
    kept = np.isin(labelled.rows, other.rows)
    assert np.array_equal(other.winners, 1 - labelled.winners[kept])
    trained_on = assembly.open_pairs(TrainConfig(data=DataConfig(store=str(path), labels="flipped")))
    assert np.array_equal(trained_on.winners, other.winners)
    assert trained_on.preferred is None


def test_soft_labels_follow_the_winner(labelled: Labelled, encoded_store: Path, tmp_path: Path) -> None:
    assert labelled.preferred is None  # 1 for each
    path = tmp_path / "store"
    shutil.copytree(encoded_store, path)
    table, _ = label_files.read_labels(str(path), "human")
    probable = np.where(table["label_0"].to_numpy() == 1.0, 0.875, 0.25)  # of slot 0
    place = table.schema.get_field_index("probability_0")
    soft = table.set_column(place, "probability_0", pa.array(probable, pa.float32()))
    label_files.write_labels(str(path), "soft", soft, {"scorer": "soft"})
    other = apply_labels(labelled.pairs, str(path), "soft", soft=True)
    assert np.array_equal(other.rows, labelled.rows)
    rows = np.arange(8)
    batch = assemble(other, rows, seed=0, epoch=0, timestep=thousand, dropout=0.0)
    assert batch.preferred.tolist() == [0.875 if winner == 0 else 0.75 for winner in labelled.winners[rows]]
    assert other.preferred is not None
    assert {0.75, 0.875} == set(other.preferred)
    config = TrainConfig(
        data=DataConfig(store=str(path), labels="soft"), objective=ObjectiveConfig(objective="soft", beta=500.0)
    )
    trained_on = assembly.open_pairs(config).preferred
    assert trained_on is not None
    assert np.array_equal(trained_on, other.preferred)


def test_an_altered_store_is_refused_by_name(encoded_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(encoded_store, path)
    victim = sorted((path / "prompts").glob("*.parquet"))[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    with pytest.raises(UserError, match=victim.name):
        stage(str(path), str(tmp_path / "cache"))
    victim.unlink()
    with pytest.raises(UserError, match=victim.name):
        stage(str(path), str(tmp_path / "cache"))


def test_prefetch_hands_errors_to_the_consumer() -> None:
    def make(step: int) -> list[int]:
        if step == 2:
            raise ValueError("step 2")
        return [step]

    batches = prefetch(map(make, range(5)))
    assert [next(batches), next(batches)] == [[0], [1]]
    with pytest.raises(ValueError, match="step 2"):
        next(batches)
