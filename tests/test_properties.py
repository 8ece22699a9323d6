"""What must hold for any input: order, draws, symmetries of the objectives, paths. hypothesis looks for the inputs."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.strategies import INT64, SEEDS

from infra.base import (
    files,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from pipelines.latents import buckets
from pipelines.latents.encode_config import EncodeConfig
from training.data.loader import Share
from training.method import objectives
from training.method.draws import Draw, draw
from training.method.objective_config import ObjectiveConfig
from training.method.order import Streams, batch_rows, permute, step_rows, steps_an_epoch

from diffusers.training_utils import generate_aspect_ratio_buckets  # isort: skip


# order


@given(size=st.integers(1, 5000), seed=SEEDS, epoch=st.integers(0, 10**6))
def test_permute_is_one_to_one_for_any_size(size: int, seed: int, epoch: int) -> None:
    values = permute(np.arange(size, dtype=np.uint64), size, seed, epoch)
    assert np.array_equal(np.sort(values), np.arange(size))


@given(size=st.integers(1, 2**48), seed=SEEDS, data=st.data())
def test_permute_of_any_size_stays_inside_and_apart(size: int, seed: int, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, size - 1), unique=True, max_size=50))
    values = permute(np.array(places, np.uint64), size, seed, 0)
    assert len(set(values.tolist())) == len(places)
    assert (values < size).all()
    for place, value in zip(places, values, strict=True):  # each place by itself gives the same
        assert permute(np.array([place], np.uint64), size, seed, 0)[0] == value


@given(
    pairs_=st.integers(1, 300),
    part=st.floats(0, 1),
    seed=SEEDS,
    first=st.integers(0, 60),
    world=st.integers(1, 9),
    micro=st.integers(1, 40),
)
def test_any_world_size_resumed_at_any_step_sees_the_same_batches(
    pairs_: int, part: float, seed: int, first: int, world: int, micro: int
) -> None:
    size = max(1, round(part * pairs_))
    whole: dict[int, list[int]] = {}
    for step in range(first + 3):
        epoch, rows = batch_rows(step, pairs_, size, seed)
        assert epoch == step // (pairs_ // size)
        assert len(rows) == size
        seen = whole.setdefault(epoch, [])
        assert not set(rows.tolist()) & set(seen)  # an epoch shows a pair once
        seen += rows.tolist()
    # Nothing but the step is known to a resumed run, and its ranks' shares are the batch in order.
    shares = [[p for piece in Share(size, micro, rank, world).pieces() for p in piece] for rank in range(world)]
    assert [place for share in shares for place in share] == list(range(size))
    assert len({len(Share(size, micro, rank, world).pieces()) for rank in range(world)}) == 1
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(len(piece) <= micro for rank in range(world) for piece in Share(size, micro, rank, world).pieces())
    again = batch_rows(first + 2, pairs_, size, seed)[1]
    assert np.concatenate([again[share] for share in shares if share]).tolist() == rows.tolist()


@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=5),
    seed=SEEDS,
    first=st.integers(0, 30),
    world=st.integers(1, 6),
    share=st.integers(2, 6),
    micro=st.integers(2, 8),
)
def test_micro_batches_of_buckets_have_one_shape_and_any_world_size_sees_the_same_order(
    counts: list[int], seed: int, first: int, world: int, share: int, micro: int
) -> None:
    size = world * share
    bucket_of = np.repeat(np.arange(len(counts), dtype=np.uint8), counts)
    np.random.default_rng(0).shuffle(bucket_of)  # a store's rows have any order
    streams = Streams.of(bucket_of)
    assume(len(streams.counts) > 1)
    an_epoch = steps_an_epoch(streams.counts, size, micro)
    assume(an_epoch)
    whole: dict[int, list[int]] = {}
    for step in range(first + 3):
        epoch, rows = step_rows(step, streams, size, micro, seed)
        assert epoch == step // an_epoch
        seen = whole.setdefault(epoch, [])
        assert not set(rows.tolist()) & set(seen)  # an epoch shows a pair once
        seen += rows.tolist()
        for start in range(0, len(seen) - len(seen) % micro, micro):
            assert len(set(bucket_of[seen[start : start + micro]])) == 1
    for ranks in (1, world, 2 * world):  # the last has pairs enough: share is 2 or more
        pieces = [Share(size, micro, rank, ranks).pieces(bucket_of[rows]) for rank in range(ranks)]
        assert [place for of_rank in pieces for piece in of_rank for place in piece] == list(range(size))
        assert len({len(of_rank) for of_rank in pieces}) == 1 or ranks > size // 2
        for piece in (piece for of_rank in pieces for piece in of_rank):
            assert len(piece) <= micro
            assert len(set(bucket_of[rows[piece.start : piece.stop]])) <= 1
    again = step_rows(first + 2, streams, size, micro, seed)[1]  # nothing but the step is known to a resumed run
    assert np.array_equal(again, rows)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    seed=SEEDS,
    world=st.integers(1, 4),
    passes=st.integers(1, 3),
    micro=st.integers(1, 6),
)
def test_full_micro_batches_where_the_world_size_divides(
    sizes: list[int], seed: int, world: int, passes: int, micro: int
) -> None:
    size = world * passes * micro
    bucket_of = np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)
    streams = Streams.of(bucket_of)
    assume(steps_an_epoch(streams.counts, size, micro))
    _, rows = step_rows(0, streams, size, micro, seed)
    for rank in range(world):
        pieces = Share(size, micro, rank, world).pieces(bucket_of[rows])
        assert [len(piece) for piece in pieces] == [micro] * passes


@given(count=st.integers(1, 300), part=st.floats(0, 1), seed=SEEDS, step=st.integers(0, 60), micro=st.integers(1, 40))
def test_one_bucket_has_the_order_of_a_store_without(count: int, part: float, seed: int, step: int, micro: int) -> None:
    size = max(1, round(part * count))
    streams = Streams.of(np.full(count, 3, np.uint8))
    epoch, rows = step_rows(step, streams, size, micro, seed)
    expected_epoch, expected = batch_rows(step, count, size, seed)
    assert epoch == expected_epoch
    assert np.array_equal(rows, expected)
    assert Share(size, micro).pieces(np.full(size, 3)) == Share(size, micro).pieces()


@given(
    height=st.integers(64, 3000),
    ratio=st.floats(0.51, 1.99),
    made=st.sampled_from([(512, 64), (768, 64), (1024, 16), (1024, 32), (1328, 16)]),
)
def test_an_image_within_2_to_1_fits_its_bucket(height: int, ratio: float, made: tuple[int, int]) -> None:
    width = round(height * ratio)
    resolution, step = made
    ladder = generate_aspect_ratio_buckets(resolution, step)
    assert ladder[0] == (resolution, resolution)
    chosen = buckets.nearest((height, width), ladder)
    assert buckets.lost_share((height, width), chosen) < EncodeConfig().bucket_tolerance
    assert buckets.nearest((width, height), ladder) == (chosen[1], chosen[0])  # mirrored


# draws


def thousand(uniform: float) -> int:
    return int(uniform * 1000)


def same(one: Draw, other: Draw) -> bool:
    return (
        (one.timestep, one.drop_caption, one.flip) == (other.timestep, other.drop_caption, other.flip)
        and np.array_equal(one.noise, other.noise)
        and np.array_equal(one.posterior, other.posterior)
    )


@given(seed=SEEDS, epoch=st.integers(0, 10**6), pair_id=INT64, used=st.integers(0, 2**32 - 1), dropout=st.floats(0, 1))
def test_a_draw_depends_on_its_key_alone(seed: int, epoch: int, pair_id: int, used: int, dropout: float) -> None:
    shape = (2, 3, 4)
    first = draw(seed, epoch, pair_id, shape, thousand, dropout, posterior=True)
    random.seed(used)  # whatever else has drawn numbers in this process
    np.random.seed(used)
    torch.manual_seed(used)
    draw(seed, epoch, pair_id + 1, shape, thousand)
    assert same(first, draw(seed, epoch, pair_id, shape, thousand, dropout, posterior=True))
    assert 0 <= first.timestep < 1000
    assert (first.noise.shape, first.posterior.shape) == (shape, (2, *shape))
    plain = draw(seed, epoch, pair_id, shape, thousand)
    assert np.array_equal(plain.noise, first.noise)
    assert (plain.timestep, plain.flip) == (first.timestep, first.flip)


@given(seed=SEEDS, epoch=st.integers(0, 10**6), pair_id=st.integers(-(2**62), 2**62), bit=st.integers(0, 61))
def test_every_bit_of_a_key_counts(seed: int, epoch: int, pair_id: int, bit: int) -> None:
    flip = 1 << bit  # torch's CPU generator, for one, would take the low 32 bits alone
    keys = [(seed, epoch, pair_id), (seed ^ flip, epoch, pair_id), (seed, epoch ^ flip, pair_id)]
    keys += [(seed, epoch, pair_id ^ flip), (seed, epoch, ~pair_id)]
    assert len({draw(*key, (1, 2, 2), thousand).noise.tobytes() for key in keys}) == len(keys)


# objectives

ERRORS = st.lists(st.floats(0, 2), min_size=2, max_size=2)
BETAS = st.floats(1, 5000)


def column(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def value(config: ObjectiveConfig, policy: list[float], reference: list[float], preferred: float = 1.0) -> float:
    return objectives.loss(config, column(policy), column(reference), preferred).item()


@given(policy=ERRORS, reference=ERRORS, beta=BETAS, p=st.floats(0, 1))
def test_the_soft_loss_does_not_know_which_slot_came_first(
    policy: list[float], reference: list[float], beta: float, p: float
) -> None:
    soft = ObjectiveConfig(objective="soft", beta=beta)
    loss = value(soft, policy, reference, p)
    assert value(soft, policy[::-1], reference[::-1], 1 - p) == pytest.approx(loss, rel=1e-9, abs=1e-9)
    dpo = ObjectiveConfig(objective="dpo", beta=beta)
    assert value(soft, policy, reference, 1.0) == value(dpo, policy, reference)
    # A probability mixes the two hard labels' losses.
    mixed = p * value(dpo, policy, reference) + (1 - p) * value(dpo, policy[::-1], reference[::-1])
    assert loss == pytest.approx(mixed, rel=1e-9, abs=1e-9)
    conservative = ObjectiveConfig(objective="conservative", beta=beta, label_smoothing=1 - p)
    assert value(conservative, policy, reference) == pytest.approx(loss, rel=1e-9, abs=1e-9)


@given(policy=ERRORS, reference=ERRORS, beta=BETAS)
def test_swapping_winner_and_loser_turns_the_logits_sign(
    policy: list[float], reference: list[float], beta: float
) -> None:
    margin = objectives.margins(column(policy), column(reference))
    swapped = objectives.margins(column(policy[::-1]), column(reference[::-1]))
    assert swapped.item() == -margin.item()
    u = objectives.logits(margin, beta).item()
    for name, known in (
        ("dpo", lambda x: np.logaddexp(0, -x)),  # so the two orders' losses differ by u
        ("ipo", lambda x: (x - 0.5) ** 2),
        ("hinge", lambda x: max(0.0, 1 - x)),
    ):
        config = ObjectiveConfig(objective=name, beta=beta)  # type: ignore[arg-type]
        assert value(config, policy, reference) == pytest.approx(known(u), rel=1e-9, abs=1e-9)
        assert value(config, policy[::-1], reference[::-1]) == pytest.approx(known(-u), rel=1e-9, abs=1e-9)
    assert objectives.implicit_accuracy(margin).item() + objectives.implicit_accuracy(swapped).item() == 1


@given(policy=ERRORS, reference=ERRORS, beta=BETAS, shift=st.floats(0, 2))
def test_only_differences_of_errors_count(
    policy: list[float], reference: list[float], beta: float, shift: float
) -> None:
    for name in ("dpo", "ipo", "hinge", "soft", "dmpo"):
        config = ObjectiveConfig(objective=name, beta=beta)  # type: ignore[arg-type]
        moved = value(config, [e + shift for e in policy], reference)
        assert moved == pytest.approx(value(config, policy, reference), rel=1e-6, abs=1e-6)
    same_errors = objectives.rewards(column(policy), column(policy), beta)
    assert not same_errors.any()


# paths

# "?" is refused in a path on S3: what follows it in a URI may be a secret.
PARTS = st.lists(st.text(st.characters(exclude_characters="/?\x00", codec="utf-8"), min_size=1), min_size=1, max_size=4)


@given(parts=PARTS, start=st.sampled_from(["", "/", "s3://bucket/", "hf://datasets/"]), slashes=st.integers(0, 3))
def test_resolved_paths_stay_as_they_are_and_join_as_they_read(parts: list[str], start: str, slashes: int) -> None:
    text = start + "/".join(parts) + "/" * slashes
    path = files.resolve(text)
    assert files.resolve(path) == path
    assert path.endswith(parts[-1])
    assert files.is_remote(path) == ("://" in start)
    assert files.is_remote(path) or os.path.isabs(path)
    if not start:  # from the repository's root, never from the working directory
        assert path == f"{files.ROOT}/{'/'.join(parts)}"
    assert files.join(path, *parts) == files.join(files.join(path, parts[0]), *parts[1:])
    assert files.resolve(files.join(path + "/", *parts)) == path + "/" + "/".join(parts)


@pytest.mark.parametrize("text", ["s3://", "hf://", "s3:///", "s3:///key"])
def test_a_scheme_alone_is_no_path(text: str) -> None:
    with pytest.raises(UserError, match="names no bucket"):
        files.resolve(text)
