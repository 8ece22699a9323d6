"""The reference's errors: those of training bit for bit, each visit once, more draws added, other settings refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.material import MODEL, notes

from infra.base import cli, models
from infra.base.errors import UserError
from pipelines.engine.jobs import Job
from pipelines.latents import store
from training.data import applied_labels, loader
from training.data.opened import open_store
from training.data.stored import Arrays, StoredPairs
from training.reference import encode_reference, reference_config, reference_errors
from training.reference.reference_config import ReferenceConfig
from training.reference.visit_pairs import VisitPairs
from training.run import train_dpo
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS as TRAIN_PRESETS

pytestmark = pytest.mark.slow


@pytest.fixture
def config(copied_store: Path, tmp_path: Path) -> ReferenceConfig:
    return ReferenceConfig(
        store=str(copied_store), draws=1, batch_size=16, cache=str(tmp_path / "cache"), rows_per_file=64
    )


@pytest.fixture
def staged(config: ReferenceConfig) -> StoredPairs:
    return open_store(config.store, config.cache)


def step(config: ReferenceConfig) -> VisitPairs:
    model = models.Model(str(MODEL))
    settings = config.seed, config.caption_dropout, config.batch_size, config.precision
    return VisitPairs(model, config.schedule, config.store, config.cache, *settings)


def visits(staged: StoredPairs, places: np.ndarray, draw: int) -> pa.Table:
    wanted = encode_reference.wanted_visits(staged.pair_ids, draw, draw + 1)
    return wanted.take(places)


def errors_of(table: pa.Table) -> np.ndarray:
    return np.stack([table[f"error_{slot}"].to_numpy() for slot in (0, 1)])


def test_visits_are_numbered_by_draw_and_place() -> None:
    wanted = encode_reference.wanted_visits(np.array([7, 9]), 1, 3)
    assert wanted.to_pydict() == {"visit": [2, 3, 4, 5], "pair_id": [7, 9, 7, 9], "draw": [1, 1, 2, 2]}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_errors_are_trainings_bit_for_bit_in_whatever_company(
    config: ReferenceConfig, staged: StoredPairs, precision: str
) -> None:
    small = step(replace(config, batch_size=4, precision=precision))  # type: ignore[arg-type]
    labelled = applied_labels.apply_labels(staged, config.store, "human")
    rows = np.array([8, 3, 5, 30, 21, 2, 40, 11])
    assert 0 < labelled.winners[rows].sum() < 8  # both slots win somewhere
    inline = []
    for part in (rows[:4], rows[4:]):
        batch = loader.assemble(labelled, part, 0, 2, small.backbone.timestep, 0.2)
        inline.append(small.reference.errors(batch).numpy())
    company = np.array([7, 0, 3, 5, 1, 6, 4, 2])  # another order, so other companions and other places in the batch
    found = errors_of(small(visits(staged, labelled.rows[rows][company], draw=2)))[:, np.argsort(company)]
    ordered = np.where(labelled.winners[rows] == 0, found, found[::-1])
    assert np.array_equal(ordered, np.concatenate(inline, axis=1))


def test_a_short_batch_and_a_mixed_one_are_cut_and_padded_to_the_same_shape(
    config: ReferenceConfig, staged: StoredPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = step(replace(config, batch_size=4))
    shapes, predict = [], small.backbone.predict

    def note(network: torch.nn.Module, noisy: torch.Tensor, *rest: object) -> torch.Tensor:
        shapes.append(len(noisy))
        return predict(network, noisy, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(small.backbone, "predict", note)
    whole = small(visits(staged, np.arange(4), draw=1))
    mixed = pa.concat_tables([visits(staged, np.arange(5), draw=0), visits(staged, np.array([2]), draw=1)])
    found = small(mixed)
    assert shapes == [8] * 4  # one, then draw 0's four and one, then draw 1's one; two slots each
    assert found.slice(5, 1).equals(whole.slice(2, 1))
    assert found["error_0"][2] != whole["error_0"][2]  # another draw is another error


def test_of_a_store_on_s3_the_rows_of_further_passes_are_asked_for_ahead(
    config: ReferenceConfig, staged: StoredPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = step(replace(config, batch_size=4))
    assert small.ahead == 0  # from a disk
    far = replace(staged, latents=Arrays({}, far=True))
    assert loader.passes_ahead(applied_labels.as_stored(far), 4) == 16  # of 4 pairs each, 64 in all
    events: list[str] = []

    def begin_visit(rows: np.ndarray, draw: int) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        events.append(f"ask {rows[0]}")

        def finish() -> tuple[np.ndarray, np.ndarray]:
            events.append(f"take {rows[0]}")
            return np.full(len(rows), draw), np.stack([rows, rows])

        return finish

    monkeypatch.setattr(small, "begin_visit", begin_visit)
    small.ahead = 2
    found = small(visits(staged, np.arange(14), draw=1))
    assert events == ["ask 0", "ask 4", "ask 8", "take 0", "ask 12", "take 4", "take 8", "take 12"]
    assert found["error_0"].to_pylist() == list(range(14))


def test_errors_that_are_not_finite_are_refused_by_name(config: ReferenceConfig, staged: StoredPairs) -> None:
    broken = step(replace(config, batch_size=4))
    next(iter(broken.reference.network.parameters())).fill_(float("nan"))
    with pytest.raises(UserError, match=rf"errors of pair {staged.pair_ids[3]}, draw 1, are not finite"):
        broken(visits(staged, np.array([3, 4]), draw=1))


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Replace the network's errors by numbers that name the visit, and list (row, draw) of each."""
    made: list[tuple[int, int]] = []

    def begin_visit(_: VisitPairs, rows: np.ndarray, draw: int) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        made.extend((int(row), draw) for row in rows)
        return lambda: (np.full(len(rows), draw), np.stack([rows + draw / 8, rows + draw / 8 + 0.5]))

    monkeypatch.setattr(VisitPairs, "begin_visit", begin_visit)
    return made


@pytest.mark.usefixtures("noted_jobs")
def test_more_draws_are_added_and_the_earlier_ones_stay(
    config: ReferenceConfig, staged: StoredPairs, visited: list[tuple[int, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, folder = len(staged.pair_ids), Path(config.store) / "reference" / "base"
    encode_reference.main(config)
    assert sorted(visited) == [(row, 0) for row in range(pairs)]
    before = (folder / "draw-0000.parquet").stat().st_mtime_ns
    for draws in (1, 3, 2):  # the second adds two; the others find theirs done
        visited.clear()
        encode_reference.main(replace(config, draws=draws))
        assert len(visited) == (2 * pairs if draws == 3 else 0)
        assert {draw for _, draw in visited} == ({1, 2} if draws == 3 else set())
    assert "already finished with 3 draws, nothing to do" in capsys.readouterr().out
    assert (folder / "draw-0000.parquet").stat().st_mtime_ns == before
    manifest = reference_errors.read_manifest(config.store, "base")
    assert (manifest.draws, manifest.pairs, sorted(manifest.files)) == (
        3,
        pairs,
        [f"draw-000{k}.parquet" for k in range(3)],
    )
    assert pq.read_schema(folder / "draw-0002.parquet").equals(reference_errors.SCHEMA)
    errors = reference_errors.attach(staged, config.store, "base").reference_errors
    assert errors is not None
    assert [errors.of(np.array([5, 0]), draw).tolist() for draw in (0, 1, 2)] == [
        [[5, 5.5], [0, 0.5]],
        [[5.125, 5.625], [0.125, 0.625]],
        [[5.25, 5.75], [0.25, 0.75]],
    ]


def test_a_run_killed_before_it_was_published_visits_nothing_twice(
    config: ReferenceConfig,
    staged: StoredPairs,
    visited: list[tuple[int, int]],
    noted_jobs: list[Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(encode_reference, "publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encode_reference.main(config)
    with pytest.raises(UserError, match=r"--reference base: .* has the reference errors none"):
        reference_errors.read_manifest(config.store, "base")
    with pytest.raises(UserError, match=r"begun with other settings \(caption_dropout was 0\.2, now 0\.1\)"):
        encode_reference.main(replace(config, caption_dropout=0.1))
    visited.clear()
    encode_reference.main(replace(config, draws=2))
    assert sorted(visited) == [(row, 1) for row in range(len(staged.pair_ids))]
    assert len(noted_jobs) == 2
    assert not (Path(config.store) / "reference" / store.WORK / "base").exists()


@pytest.mark.usefixtures("noted_jobs", "visited")
def test_other_settings_of_a_finished_name_are_refused(config: ReferenceConfig) -> None:
    encode_reference.main(config)
    with pytest.raises(UserError, match=r"seed was 0, now 1; batch_size was 16, now 8\); give another --name"):
        encode_reference.main(replace(config, seed=1, batch_size=8, draws=2))
    encode_reference.main(replace(config, seed=1, name="other"))
    assert reference_errors.read_manifest(config.store, "other").settings.seed == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "../labels"}, r"--name \.\./labels: letters"),
        ({"name": ".work"}, "no . in front"),
        ({"draws": 0}, "--draws 0: must be at least 1"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"caption_dropout": 1.5}, "--caption-dropout 1.5"),
        ({"store": "/nowhere"}, "no latent store here"),
        ({"model": "/nowhere"}, "there is no /nowhere"),
    ],
)
def test_bad_flags_are_refused_before_ray_starts(
    config: ReferenceConfig, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        encode_reference.make_plan(replace(config, **changes))  # type: ignore[arg-type]


def test_cached_training_repeats_the_inline_losses(
    small_world: str,
    copied_store: Path,
    one_process: Path,
    training_flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copied = ["--store", str(copied_store), "--cache", str(tmp_path / "cache")]
    encode = [*copied, "--name", "two", "--draws", "2", "--batch-size", "4", "--rows-per-file", "128"]
    encode += ["--model", small_world]
    encode_reference.main(cli.parse(ReferenceConfig, {}, encode))
    assert "2 draws of 351 pairs, 702 visits new" in capsys.readouterr().out
    # 351 pairs give 21 steps of 16 an epoch, so the last three of the 24 are the second epoch's.
    train = [*training_flags, *copied, "--reference", "two", "--output", str(tmp_path / "cached")]
    train_dpo.main(cli.parse(TrainConfig, {}, train))
    assert "differ by 0.0e+00 logits in the mean" in capsys.readouterr().out
    cached, inline = notes(tmp_path / "cached"), notes(one_process)
    assert len(cached) == 24
    for name in ("loss", "stream", "gradient_norm", "margin", "reference_error_q1"):
        assert [row[name] for row in cached] == [row[name] for row in inline]


def test_a_preset_computes_what_the_training_of_its_name_draws() -> None:
    turbo, training = reference_config.PRESETS["sdxl-turbo"], TRAIN_PRESETS["sdxl-turbo"]
    assert reference_config.PRESETS.keys() == TRAIN_PRESETS.keys()
    assert (turbo.model, turbo.schedule, turbo.precision) == (training.model, training.schedule, training.precision)
    assert (turbo.caption_dropout, turbo.batch_size) == (0.0, training.data.micro_batch)
