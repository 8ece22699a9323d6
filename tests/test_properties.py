"""What must hold for any input: order, draws, ids, label rules, schemas, symmetries of the objectives, paths.

hypothesis looks for the inputs. It is seeded and without a time limit, so that a run finds what every run finds.
"""

from __future__ import annotations

import io
import os
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from infra.base import (
    files,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from labelers.labels import label_rules
from pipelines.latents import buckets, schemas, store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encoders import CheckAndDecode
from pipelines.raw import pairs
from pipelines.raw.raw_pairs import SCHEMA, labelled_pair
from training.data.loader import Share
from training.method import objectives
from training.method.draws import Draw, draw
from training.method.objective_config import ObjectiveConfig
from training.method.order import Streams, batch_rows, permute, step_rows, steps_an_epoch

from diffusers.training_utils import generate_aspect_ratio_buckets  # isort: skip

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=100,
    # The first is about the machine's speed, the second about conftest's one_thread, which sets the same each time.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")

SEEDS = st.integers(0, 2**63)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(max_size=20)
FLOAT32 = st.floats(-1e3, 1e3, width=32)


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


# ids

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "caption": st.none() | TEXTS,
            "ranking_id": st.none() | INT64,
            "image_0_uid": st.none() | TEXTS,
            "image_1_uid": st.none() | TEXTS,
            "jpg_0": st.none() | st.binary(max_size=8),
            "jpg_1": st.none() | st.binary(max_size=8),
            "label_0": st.none() | st.floats(),
        }
    ),
    min_size=1,
    max_size=12,
)
BY_UID = ("ranking_id", "image_0_uid", "image_1_uid")
BY_CAPTION = ("caption", "image_0_uid", "image_1_uid")


def without(rows: list[dict[str, Any]], *names: str) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA).drop_columns(list(names))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("identity", "absent"),
    [(BY_UID, ()), (BY_CAPTION, ("ranking_id",)), (("caption", "jpg_0", "jpg_1"), ("image_0_uid",))],
)
@given(rows=ROWS, data=st.data())
def test_ids_are_their_identitys_whatever_stands_around(
    identity: tuple[str, ...], absent: tuple[str, ...], rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    table = without(rows, *absent)
    assert pairs.identity_columns(table.column_names) == identity
    ids = pairs.pair_ids(table)
    order = data.draw(st.permutations(range(len(rows))))
    taken = order[: data.draw(st.integers(0, len(rows)))]
    assert pairs.pair_ids(table.take(pa.array(taken, pa.int64()))).tolist() == ids[taken].tolist()
    cut = data.draw(st.integers(0, len(rows)))
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    assert pairs.pair_ids(chunked).tolist() == ids.tolist()
    by_names: dict[tuple[str, ...], dict[tuple[Any, ...], int]] = {identity: {}, pairs.IDENTITY_OF_CONTENT: {}}
    for row, pair_id in zip(rows, ids.tolist(), strict=True):
        nameless = all(row[name] is None for name in identity if name in pairs.IDS)
        names = pairs.IDENTITY_OF_CONTENT if nameless else identity  # a row whose ids are all null has none
        assert by_names[names].setdefault(tuple(row[name] for name in names), pair_id) == pair_id
    assert all(len(set(known.values())) == len(known) for known in by_names.values())


@given(st.lists(st.none() | st.binary(max_size=6) | TEXTS.map(str.encode), min_size=1, max_size=10))
def test_text_of_any_bytes_is_read_and_named_by_its_bytes(contents: list[bytes | None]) -> None:
    plain = pa.array(contents, pa.binary())
    for column in (plain.view(pa.string()), pa.chunked_array([plain.view(pa.string())]).cast(pa.large_string())):
        read = pairs.values(column)
        assert [v.encode() if isinstance(v, str) else v for v in read] == contents
        assert all(pairs.check_caption(value) is None for value in read if isinstance(value, str))
        assert all(pairs.check_caption(value) for value in read if not isinstance(value, str))
    rest = {"jpg_0": [b"1"] * len(contents), "jpg_1": [b"2"] * len(contents)}
    as_text, as_bytes = pa.table({"caption": plain.view(pa.string())} | rest), pa.table({"caption": plain} | rest)
    assert pairs.pair_ids(as_text).tolist() == pairs.pair_ids(as_bytes).tolist()


@given(ranking=INT64, one=TEXTS, other=TEXTS)
def test_a_pair_in_both_orders_is_two_pairs_of_one_caption(ranking: int, one: str, other: str) -> None:
    # Slots are part of what a pair is: each order is a comparison of its own, with a label of its own.
    assume(one != other)
    there = labelled_pair(ranking, "a star", [(one, b"1"), (other, b"2")], 1.0, "m")
    back = labelled_pair(ranking, "a star", [(other, b"2"), (one, b"1")], 0.0, "m")
    first, second = pairs.pair_ids(without([there, back])).tolist()
    assert first != second


@given(st.lists(st.lists(st.binary(max_size=6), max_size=4).map(tuple), unique=True, max_size=30))
def test_hashes_of_other_parts_differ(many: list[tuple[bytes, ...]]) -> None:
    hashes = {pairs.hash64(*parts) for parts in many}
    assert len(hashes) == len(many)
    assert all(-(2**63) <= value < 2**63 for value in hashes)


@given(st.lists(st.text(), unique=True, max_size=30))
@example(["", "\x00", "a", "a ", "A", "\u202ea", "e\u0301", "\u00e9"])  # captions count exactly as written
def test_prompt_ids_of_other_captions_differ(captions: list[str]) -> None:
    assert len({pairs.prompt_id(caption) for caption in captions}) == len(captions)


# label rules

LABELS = st.one_of(
    st.none(), st.sampled_from([0.0, 0.5, 1.0, 0, 1, True]), st.floats(), INT64, TEXTS | st.just("x" * 1000)
)


@given(label_0=LABELS, label_1=LABELS, strict=st.booleans())
def test_a_label_is_one_of_three_numbers_or_refused(label_0: Any, label_1: Any, strict: bool) -> None:
    refusal = pairs.check_label(label_0, label_1, strict)
    valid = not isinstance(label_0, str) and label_0 in (0, 0.5, 1)
    complement = label_1 is None or (not isinstance(label_1, str) and valid and label_0 + label_1 == 1)
    assert pairs.contradicts(label_0, label_1) == (valid and not complement)
    assert (refusal is None) == (valid and (complement or not strict))
    if refusal:
        assert refusal.stage == "label"
        assert len(refusal.reason) < 200  # reasons are counted by their text: it must not hold the row


MARGINS = st.lists(FLOAT32, min_size=1, max_size=30).map(np.array)


@given(margin=MARGINS, least=st.floats(0, 100), temperature=st.floats(1e-3, 1e3))
def test_labels_of_swapped_slots_are_the_complement(margin: np.ndarray, least: float, temperature: float) -> None:
    hard = label_rules.hard_labels(margin, least)
    assert np.array_equal(label_rules.hard_labels(-margin, least), 1 - hard)
    assert set(hard.tolist()) <= {0.0, 0.5, 1.0}
    assert ((hard == 0.5) == ((margin == 0) | (abs(margin) < least))).all()
    soft = label_rules.soft_labels(margin, temperature)
    assert ((soft >= 0) & (soft <= 1)).all()
    assert np.allclose(soft + label_rules.soft_labels(-margin, temperature), 1, atol=1e-6)
    assert ((soft >= 0.5) == (margin >= 0))[abs(margin) > 1e-3 * temperature].all()
    decided = label_rules.hard_labels(margin)
    order = np.argsort(margin)
    assert (np.diff(soft[order]) >= 0).all()  # a greater margin is no less sure
    each = np.arange(len(margin))
    assert label_rules.agreement(decided, decided, each).value in (0.5, 1.0)
    assert label_rules.agreement(1 - decided, decided, each).value in (0.5, 0.0)


@given(margin=MARGINS, factor=st.floats(1e-2, 1e2), data=st.data())
def test_the_fitted_temperature_has_the_scores_unit(margin: np.ndarray, factor: float, data: st.DataObject) -> None:
    human = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(margin), max_size=len(margin))))
    fitted = label_rules.fit_temperature(margin, human)
    scaled = label_rules.fit_temperature(margin * factor, human)
    swapped = label_rules.fit_temperature(-margin, 1 - human)
    assert (fitted is None) == (swapped is None)
    if fitted is not None and scaled is not None and swapped is not None:
        assert fitted > 0
        # Where scores barely beat chance the temperature is huge, and the root as flat as it is far.
        assume(fitted < 100 * abs(margin).max())
        assert scaled == pytest.approx(fitted * factor, rel=1e-4)
        assert swapped == pytest.approx(fitted, rel=1e-4)


# schemas


def png(colour: tuple[int, int, int]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (9, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


RED, BLUE = png((255, 0, 0)), png((0, 0, 255))
RAW = st.fixed_dictionaries(
    {
        "caption": st.none() | TEXTS,
        "label_0": st.none() | st.sampled_from([0.0, 0.5, 1.0, 2.0, float("nan")]),
        "label_1": st.none() | st.sampled_from([0.0, 0.5, 1.0]),
        "jpg_0": st.sampled_from([RED, None, b"", b"no image"]),
        "jpg_1": st.sampled_from([BLUE, None, b"", RED[:30]]),
        "image_0_uid": st.none() | TEXTS,
        "image_1_uid": st.none() | TEXTS,
        "model_0": st.none() | TEXTS,
    }
)


@given(rows=st.lists(RAW, min_size=1, max_size=8), strict=st.booleans())
def test_raw_rows_come_back_from_the_store(rows: list[dict[str, Any]], strict: bool) -> None:
    raw = pa.Table.from_pylist([row | {"ranking_id": i} for i, row in enumerate(rows)], schema=SCHEMA)
    decoded = CheckAndDecode(8, strict)(raw)
    kept = np.array(decoded["status"].to_pylist()) == "kept"
    latents = np.arange(4 * len(rows), dtype=np.float16).reshape(len(rows), 4)
    schema = schemas.pairs_schema(4, flip=False)
    columns = {name: decoded[name] for name in decoded.column_names if not name.startswith("pixels_")}
    columns |= {name: schemas.value_lists(latents, ~kept) for name in schemas.latent_columns(flip=False)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table([columns[name] for name in schema.names], schema=schema), sink)
    back = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert back.schema == schema
    assert back["pair_id"].to_pylist() == pairs.pair_ids(raw).tolist()
    for index, (row, encoded) in enumerate(zip(rows, back.to_pylist(), strict=True)):
        good = row["caption"] is not None and row["label_0"] in (0.0, 0.5, 1.0)
        good &= not (strict and pairs.contradicts(row["label_0"], row["label_1"]))
        images = row["jpg_0"] == RED and row["jpg_1"] == BLUE
        tie = row["label_0"] == 0.5
        assert encoded["status"] == ("tie" if good and tie else "kept" if good and images else "quarantined")
        assert [encoded[name] for name in ("image_0_uid", "image_1_uid", "model_0", "model_1")] == [
            row["image_0_uid"],
            row["image_1_uid"],
            row["model_0"],
            None,
        ]
        assert (encoded["reason"] is None) == (encoded["stage"] is None) == (encoded["status"] != "quarantined")
        if encoded["status"] == "quarantined":
            assert (encoded["latents_0"], encoded["label_0"]) == (None, None)
        else:
            assert (encoded["prompt_id"], encoded["label_0"]) == (pairs.prompt_id(row["caption"]), row["label_0"])
            assert encoded["latents_0"] == (None if tie else latents[index].tolist())
    assert store.rows_digest(back) == store.rows_digest(back.take(pa.array(range(len(rows))[::-1])))


@given(st.lists(st.lists(st.integers(0, 2**16 - 1), min_size=3, max_size=3), min_size=1, max_size=8))
def test_halves_of_any_bits_come_back(rows: list[list[int]]) -> None:
    values = np.array(rows, np.uint16).view(np.float16)  # every bit pattern: infinities, NaNs, subnormals
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": schemas.value_lists(values)}), sink)
    back = schemas.value_rows(pq.read_table(pa.BufferReader(sink.getvalue()))["x"])
    assert back.tobytes() == values.tobytes()


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
