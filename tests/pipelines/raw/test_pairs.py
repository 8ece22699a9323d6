"""Ids are stable; label and caption rules are those of the contract."""

from __future__ import annotations

import pyarrow as pa
import pytest
from support.material import rendered_pairs

from pipelines.raw import groups, pairs
from pipelines.raw.raw_pairs import SCHEMA


def table(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_ids_survive_reordering_and_subsetting() -> None:
    rows = rendered_pairs(12)
    ids = pairs.pair_ids(table(rows)).tolist()
    assert len(set(ids)) == 12
    assert pairs.pair_ids(table(rows[::-1])).tolist() == ids[::-1]
    assert pairs.pair_ids(table(rows[3:5])).tolist() == ids[3:5]


def test_an_id_does_not_depend_on_image_bytes_or_label_where_uids_name_the_pair() -> None:
    row = rendered_pairs(1)[0]
    changed = row | {"jpg_0": b"other", "label_0": 0.5}
    assert pairs.pair_ids(table([row])).tolist() == pairs.pair_ids(table([changed])).tolist()


def test_without_uids_the_content_names_the_pair() -> None:
    bare = pa.table({"caption": ["a", "a"], "jpg_0": [b"x", b"x"], "jpg_1": [b"y", b"z"], "label_0": [1.0, 1.0]})
    first, second = pairs.pair_ids(bare).tolist()
    assert first != second
    assert pairs.identity_columns(bare.column_names) == ("caption", "jpg_0", "jpg_1")


def test_parts_are_hashed_with_their_lengths() -> None:
    assert pairs.hash64(b"ab", b"c") != pairs.hash64(b"a", b"bc")


def test_known_id_stays() -> None:
    # BLAKE2b-64 over (8-byte little-endian length, bytes) of b"prompt" and the caption; stores depend on it.
    assert pairs.prompt_id("a red circle") == KNOWN_PROMPT_ID


KNOWN_PROMPT_ID = 4847134995586064019


def test_known_ids_of_pairs_groups_and_images_stay() -> None:
    # Stores, label sets and cached errors name pairs by these, and draws are made from them.
    row = {"ranking_id": [7], "image_0_uid": ["x"], "image_1_uid": ["y"], "caption": ["a red circle"]}
    known = pa.table({**row, "jpg_0": [b"1"], "jpg_1": [b"2"]})
    assert pairs.pair_ids(known).tolist() == [-2251294676121225412]
    assert pairs.pair_ids(known.drop_columns(["ranking_id"])).tolist() == [124820079425320996]
    assert pairs.pair_ids(known.drop_columns(["ranking_id", "image_0_uid"])).tolist() == [1003822548096190213]
    assert groups.group_key("g") == -534909353249071286
    assert groups.image_key("g", "x") == 4586075564496298790


@pytest.mark.parametrize("label", [0.0, 0.5, 1.0, 1])
def test_labels_of_the_contract_are_accepted(label: float) -> None:
    assert pairs.check_label(label, None, strict=True) is None


@pytest.mark.parametrize("label", [None, float("nan"), 2.0, -1.0, 0.3, "1"])
def test_other_labels_are_refused(label: object) -> None:
    refusal = pairs.check_label(label, None, strict=False)
    assert refusal is not None
    assert refusal.stage == "label"


def test_contradictions_are_refused_only_when_strict() -> None:
    assert pairs.contradicts(1.0, 1.0)
    assert not pairs.contradicts(1.0, 0.0)
    assert not pairs.contradicts(0.5, 0.5)
    assert not pairs.contradicts(1.0, None)
    # A label_0 that is refused for itself is counted once, as invalid.
    assert not pairs.contradicts(float("nan"), 0.0)
    assert not pairs.contradicts(2.0, 0.0)
    assert pairs.check_label(1.0, 1.0, strict=False) is None
    refusal = pairs.check_label(1.0, 1.0, strict=True)
    assert refusal is not None
    assert "contradicts" in refusal.reason


@pytest.mark.parametrize("caption", [None, 7, "x" * 10_001, "half a pair: \ud83d"])
def test_bad_captions_are_refused(caption: object) -> None:
    assert pairs.check_caption(caption) is not None


@pytest.mark.parametrize("caption", ["", "../../x", "<script>", "a\x00b", "‮evil"])
def test_odd_captions_are_text_like_any_other(caption: str) -> None:
    assert pairs.check_caption(caption) is None
    assert -(2**63) <= pairs.prompt_id(caption) < 2**63


def test_a_null_is_named_like_no_text() -> None:
    rest = {"image_0_uid": ["a", "a", "a"], "image_1_uid": ["b", "b", "b"]}
    ids = pairs.pair_ids(pa.table({"caption": [None, "\x00null", ""], **rest})).tolist()
    assert len(set(ids)) == 3
