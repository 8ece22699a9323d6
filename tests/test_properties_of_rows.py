"""What must hold for any rows: ids, label rules, schemas."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support.strategies import FLOAT32, INT64, TEXTS

from infra.base import (
    row_digest,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from labelers.labels import label_rules
from pipelines.latents import schemas
from pipelines.latents.decoding import CheckAndDecode
from pipelines.raw import pairs
from pipelines.raw.raw_pairs import SCHEMA, labelled_pair

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


def png(colour: tuple[int, int, int]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (9, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


RED = png((255, 0, 0))
BLUE = png((0, 0, 255))
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
    assert row_digest.rows_digest(back) == row_digest.rows_digest(back.take(pa.array(range(len(rows))[::-1])))


@given(st.lists(st.lists(st.integers(0, 2**16 - 1), min_size=3, max_size=3), min_size=1, max_size=8))
def test_halves_of_any_bits_come_back(rows: list[list[int]]) -> None:
    values = np.array(rows, np.uint16).view(np.float16)  # every bit pattern: infinities, NaNs, subnormals
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": schemas.value_lists(values)}), sink)
    back = schemas.value_rows(pq.read_table(pa.BufferReader(sink.getvalue()))["x"])
    assert back.tobytes() == values.tobytes()
