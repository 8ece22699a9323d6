"""Training on pairs of several shapes: order, cached errors, resume, held-out pairs, every kind's idea of a size."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bucketed import EACH, SIZES, encode_bucketed, rated
from support.material import notes
from support.trained_models import train_until_killed

from infra.base import engines
from infra.base.dry_run import DryRunConfig
from infra.base.errors import UserError
from labelers.scoring.implicit import Implicit
from pipelines.latents import buckets, planned, store
from pipelines.raw.decode import open_image
from training.backbones.backbone import open_backbone
from training.backbones.flow import dynamic_shift, shifted_sigmas
from training.backbones.schedule_config import EVERY
from training.data import applied_labels, loader
from training.data.loader import Share
from training.data.opened import open_store
from training.method.draws import draw
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.reference import encode_reference
from training.reference.reference_config import ReferenceConfig
from training.run import assembly, loop, plan, planned_set, preflight, train_dpo
from training.run.result import result_folder
from training.settings.config import DataConfig, TrainConfig, ValidationConfig

Pipelines = Callable[[str], Path]


def settings(model: Path, path: Path, folder: Path) -> TrainConfig:
    return TrainConfig(
        model=str(model),
        output=str(folder / "run"),
        steps=4,
        checkpoint_every=2,
        data=DataConfig(store=str(path), cache=str(folder / "cache"), global_batch=4, micro_batch=2),
        objective=ObjectiveConfig(beta=500.0),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=1),
        validation=ValidationConfig(sampling_steps=1),
    )


@pytest.fixture
def labelled(bucketed: Path) -> applied_labels.Labelled:
    return applied_labels.apply_labels(open_store(str(bucketed)), str(bucketed), "human")


def thousand(uniform: float, area: float = 1.0) -> int:
    assert 0.9 < area < 1.2
    return int(uniform * 1000)


def test_a_micro_batch_has_its_buckets_shape_and_draws_of_it(labelled: applied_labels.Labelled) -> None:
    seen = set()
    manifest = labelled.pairs.manifest
    for step in range(6):  # 24 pairs, four a step
        for batch in loader.step_batches(labelled, step, Share(4, 2), 0, thousand, 0.0):
            row = int(np.searchsorted(labelled.pairs.pair_ids, batch.pair_ids[0]))
            assert labelled.pairs.buckets is not None
            shape = manifest.shape_of(int(labelled.pairs.buckets[row]))
            assert batch.latents.shape == (2, 2, *shape)
            expected = draw(0, 0, int(batch.pair_ids[0]), shape, thousand)
            assert np.array_equal(batch.noise[0].numpy(), expected.noise)
            values = labelled.pairs.latents.begin(np.array([row]))()["latents_0"][0]
            slot_0 = batch.latents[int(labelled.winners[row]), 0].numpy()
            assert np.array_equal(slot_0.ravel(), values[: slot_0.size].astype(np.float32))
            seen.add(shape)
    assert len(seen) == len(SIZES)


@pytest.mark.parametrize(
    "world", [2, 3]
)  # 12 pairs for 3 ranks of micro-batches of 4: all units full; 2: 6 pairs, 4 + 2
def test_the_stream_is_the_same_at_any_world_size(labelled: applied_labels.Labelled, world: int) -> None:
    def stream(step: int, world: int) -> int:
        total = 0
        for rank in range(world):
            share = Share(12, 4, rank, world)
            batches = loader.step_batches(labelled, step, share, 1, thousand, 0.2)
            for piece, batch in zip(loader.pieces_of_step(labelled, step, share, 1), batches, strict=True):
                total += batch.fingerprint(piece.start)
        return total % (1 << 64)

    assert [stream(step, world) for step in (0, 3)] == [stream(step, 1) for step in (0, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd-v", "sdxl", "sd3", "flux"])
def test_every_kind_trains_resumes_and_takes_cached_errors(
    kind: str, tiny_pipeline: Pipelines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_pipeline(kind)
    tokens = {"max_tokens": 77} if kind in ("sd3", "flux") else {}
    path = encode_bucketed(model, tmp_path / "encoded", posterior="moments", flip=True, **tokens)
    config = settings(model, path, tmp_path)
    config = replace(config, data=replace(config.data, held_out_store=None))
    with engines.asking("local"):
        encode_reference.main(ReferenceConfig(store=str(path), model=str(model), draws=1, batch_size=2))
    checked = preflight.check_config(config)
    straight = replace(checked, output=str(tmp_path / "straight"))
    loop.train(straight, assembly.Rank())
    train_until_killed(checked, 3)
    loop.train(checked, assembly.Rank())
    cached = replace(config, output=str(tmp_path / "cached"), data=replace(config.data, reference="base"))
    loop.train(preflight.check_config(cached), assembly.Rank())
    assert "0.0e+00 logits in the mean" in capsys.readouterr().out
    runs = [notes(one.output) for one in (straight, checked, cached)]
    assert runs[0][0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert runs[0][3]["loss"] != pytest.approx(0.693147, abs=1e-6)
    for name in ("loss", "stream", "gradient_norm"):
        assert [row[name] for row in runs[1]] == [row[name] for row in runs[0]]
        assert [row[name] for row in runs[2]] == [row[name] for row in runs[0]]


def test_another_micro_batch_is_another_order_and_is_refused(
    bucketed: Path, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    config = settings(tiny_pipeline("sd-v"), bucketed, tmp_path)
    loop_launch = lambda pinned, _: train_until_killed(pinned, 2)  # noqa: E731
    with pytest.raises(UserError, match="ended before step 4"):
        train_dpo.main(config, launch=loop_launch)
    other = replace(config, data=replace(config.data, micro_batch=4))
    with pytest.raises(UserError, match="micro_batch was 2, now 4"):
        train_dpo.main(other, launch=loop_launch)


def test_sdxl_is_told_the_buckets_size(tiny_pipeline: Pipelines) -> None:
    backbone = open_backbone(tiny_pipeline("sdxl"), EVERY)
    # Latents of 12 x 6 are 24 x 12 pixels: original size, no crop, target size.
    assert backbone.time_ids(torch.zeros(1, 4, 12, 6)).tolist() == [[24, 12, 0, 0, 24, 12]]  # type: ignore[attr-defined]


def test_fluxs_shift_follows_the_buckets_number_of_tokens(tiny_pipeline: Pipelines) -> None:
    folder = tiny_pipeline("flux")
    backbone = open_backbone(folder, EVERY)
    assert shifted_sigmas(folder, 1.0).equal(shifted_sigmas(folder))
    # 256 pixels, 2 a latent, patches of 2: 64 x 64 = 4096 tokens and mu 1.15 (of 0.5 at 256); twice as many: 1.8433.
    # The middle of the grid, s = 0.5, is e^mu / (e^mu + 1): 0.7595, and 0.8634.
    one = backbone.timestep(0.5)
    two = backbone.timestep(0.5, 2.0)
    assert backbone.sigmas[one] == pytest.approx(0.7595, abs=1e-3)  # type: ignore[attr-defined]
    assert backbone.sigmas[two] == pytest.approx(0.8634, abs=1e-3)  # type: ignore[attr-defined]
    # SD3's shift is the same at every size.
    static = open_backbone(tiny_pipeline("sd3"), EVERY)
    assert [static.timestep(u / 97, 2.0) for u in range(97)] == [static.timestep(u / 97) for u in range(97)]


def test_no_bucket_of_flux2_lies_beyond_the_jump_of_its_shift() -> None:
    folder = planned.SHAPES / "flux2-klein"
    square = dynamic_shift(folder, {})
    assert square == pytest.approx(2.023, abs=1e-3)  # of 4,096 tokens, at the 50 steps that it is sampled with
    assert dynamic_shift(folder, {}, 4301 / 4096) < 2.0 < dynamic_shift(folder, {}, 4300 / 4096)
    for height, width in buckets.ladder(folder, 1024):
        area = height * width / 1024**2
        assert dynamic_shift(folder, {}, area) == pytest.approx(square, abs=0.01)


def test_batches_that_buckets_cannot_fill_are_refused(
    bucketed: Path, held_out_store: Path, tiny_pipeline: Pipelines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tiny_pipeline("sd-v"), bucketed, tmp_path)
    manifest, counts = preflight.check_settings(config)
    assert sorted(counts.values()) == [EACH] * len(SIZES)
    assert manifest.counts.kept == sum(counts.values())
    opened = open_store(str(bucketed))
    assert opened.buckets is not None
    assert counts.keys() == set(opened.buckets.tolist())
    assert not caplog.records
    uneven = {0: 6, 1: 6, 3: 1}  # pairs by the bucket's place
    preflight._check_buckets(config, manifest, uneven)
    height, width = manifest.buckets[3]
    assert "--micro-batch 2: 1 of 13 pairs are never trained on, as their buckets have too few to fill it " in (
        caplog.text
    )
    assert f"({width}x{height} has 1)" in caplog.text
    wide = replace(config, data=replace(config.data, micro_batch=8, global_batch=8))
    with pytest.raises(UserError, match="4 buckets fill micro-batches of 8 with 0 pairs"):
        preflight.check_settings(wide)
    with pytest.raises(UserError, match="its pairs have the shape 64x64, and those of --store the shapes 16x16, 12x20"):
        preflight.check_settings(replace(config, data=replace(config.data, held_out_store=str(held_out_store))))
    planned_on = planned_set.PlannedSet(manifest=manifest, counts={0: 6, 1: 6, 2: 6, 3: 1})
    rows = dict(plan.plan_rows(config, DryRunConfig(), planned_on, plan_network()))
    assert rows["  buckets"] == "4; each epoch leaves out 3 pairs: 1 fill no micro-batch of one shape, and 2 no step"
    assert rows["epochs"] == "1 of 4 steps"  # 18 pairs in units of 2, 4 a step


@pytest.mark.parametrize(
    ("counts", "micro_batch", "workers", "wanted"),
    [
        ((9, 9, 1), 8, 1, (16, 8)),  # 8 + 8 + 0, as every bucket but the last fills one
        ((5, 4, 3, 2), 16, 1, (12, 2)),  # no bucket fills 14 or more; 4 + 4 + 2 + 2 in twos
        ((5, 4, 3, 2), 4, 2, (12, 2)),  # fours would never train 3 + 2 of 14, and threes 2; a tenth is 1.4
        ((10, 9, 1), 16, 1, (18, 9)),  # 9 + 9: one of 20 is given up; tens would give up 10, and ones none
        ((20, 20, 1, 1), 16, 2, (32, 16)),  # 16 + 16, one micro-batch on each worker; 2 of 42 are given up
        ((6, 3, 1), 8, 1, (9, 3)),  # 6 + 3: one of ten is a tenth
        ((5, 3, 1), 8, 1, (9, 1)),  # one of nine is more than a tenth, and no pair is given up
        ((9, 5), 3, 2, (12, 3)),  # 9 + 3
        ((351,), 16, 1, (336, 16)),  # squares: 21 micro-batches
        ((5, 5, 5), 8, 4, (8, 2)),  # 3 leave 9 pairs, too few for 4 workers; 2 leave 12, and 4 take 2 each
        ((1, 1), 8, 2, (2, 1)),
    ],
)
def test_batches_of_a_small_set_are_those_that_its_buckets_fill(
    counts: tuple[int, ...], micro_batch: int, workers: int, wanted: tuple[int, int]
) -> None:
    assert preflight._filled_batch(counts, micro_batch, workers) == wanted


def test_a_batch_follows_a_small_set_of_buckets(bucketed: Path, tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    config = settings(tiny_pipeline("sd-v"), bucketed, tmp_path)
    large = replace(config, data=replace(config.data, micro_batch=16, global_batch=2048))
    fitted = preflight.fit_batch(large)
    assert (fitted.data.global_batch, fitted.data.micro_batch) == (EACH * len(SIZES), EACH)
    preflight.check_settings(fitted)


def test_the_plan_counts_each_bucket_s_work(
    bucketed: Path, tiny_pipeline: Pipelines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tiny_pipeline("sd-v"), bucketed, tmp_path)
    manifest = store.read_manifest(str(bucketed))
    counted = plan_network()
    asked: list[Mapping[str, Any]] = []

    def kept(_: Path, __: str, question: Mapping[str, Any], ___: object) -> dict[str, Any]:
        asked.append(question)
        return {**{name: value for name, value in vars(counted).items() if name != "forward"}, "forwards": [1.0, 3.0]}

    monkeypatch.setattr(plan.kept_counts, "kept", kept)
    network = plan.counted_network(config, tiny_pipeline("sd-v"), manifest, {0: 1, 2: 3})
    assert network.forward == (1 * 1.0 + 3 * 3.0) / 4
    assert asked[0]["shapes"] == [manifest.shape_of(0), manifest.shape_of(2)]


def plan_network() -> plan.Network:
    return plan.Network(parameters=10, trained=10, factors=10, forward=1.0, activations=1, more_pairs=1)


@pytest.mark.slow
def test_held_out_pairs_and_the_implicit_score_have_shapes_too(
    bucketed: Path, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    config = settings(tiny_pipeline("sd-v"), bucketed, tmp_path)
    config = replace(config, steps=1, checkpoint_every=1)
    loop.train(preflight.check_config(config), assembly.Rank())
    result = result_folder(Path(config.output))
    facts = json.loads((result / "facts.json").read_text())
    assert facts["buckets"] == [list(sides) for sides in store.read_manifest(str(bucketed)).buckets]
    rows = [rated(0, (40, 20), (40, 20)), rated(1, (16, 16), (16, 16))]
    images = [open_image(row["jpg_0"]) for row in rows]
    scorer = Implicit(str(result))
    together = scorer.score(images, ["a red star 0", "a red star 1"])
    alone = [scorer.score([image], [f"a red star {place}"])[0] for place, image in enumerate(images)]
    assert np.isfinite(together).all()
    assert together == pytest.approx(alone, rel=1e-3, abs=1e-4)
