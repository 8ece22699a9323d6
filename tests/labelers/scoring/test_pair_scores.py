"""The scoring steps, without an engine: images decoded once, one bad pair costs itself, a broken scorer is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.material import rendered_pairs

from infra.base.errors import UserError
from infra.world.oracle import Oracle
from labelers.scoring import pair_scores
from labelers.scoring.reasons import NOT_FINITE
from pipelines.raw import pairs
from pipelines.raw.raw_pairs import SCHEMA


def raw_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def step_of(**judges: object) -> pair_scores.ScorePairs:
    step = pair_scores.ScorePairs([], {})
    step.scorers.update(judges)  # type: ignore[arg-type]
    return step


class Brightness:
    """Scores mean brightness, and notes what it was asked."""

    def __init__(self, spoil: object = None) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.captions: list[str] = []
        self.spoil = spoil

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray[Any, Any]:
        self.asked.append((len(images), *images[0].size))
        scores = np.array([np.asarray(image).mean() for image in images], np.float32)
        if callable(self.spoil):
            self.spoil(scores, captions)
        return scores

    def truncated(self, captions: Sequence[str]) -> int:
        self.captions += captions
        return sum("star" in caption for caption in captions)


def test_wanted_pairs_are_decoded_once_for_all_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = pair_scores.open_image

    def count(content: object) -> Image.Image:
        opened.append(content)
        return real(content)

    monkeypatch.setattr(pair_scores, "open_image", count)
    raw = raw_table(rendered_pairs(6))
    decoded = pair_scores.DecodePairs(pairs.pair_ids(raw)[1:5])(raw)
    assert decoded["pair_id"].to_pylist() == pairs.pair_ids(raw)[1:5].tolist()
    first = Brightness()
    second = Brightness()
    scored = step_of(first=first, second=second)(decoded)
    assert len(opened) == 8
    assert first.asked == second.asked == [(8, 64, 64)]  # both slots of all pairs in one call
    expected = Oracle().score([real(raw["jpg_1"][1].as_py())], [raw["caption"][1].as_py()])
    assert step_of(oracle=Oracle())(decoded)["score_1:oracle"][0].as_py() == expected[0]
    assert scored["score_0:first"] == scored["score_0:second"]


def test_wanted_ids_come_in_any_order_and_may_be_of_other_batches() -> None:
    raw = raw_table(rendered_pairs(6))
    ids = pairs.pair_ids(raw)
    decoded = pair_scores.DecodePairs(np.array([ids[4], ids[0], ids[0] + 1]))(raw)
    assert decoded["pair_id"].to_pylist() == [ids[0], ids[4]]
    assert pair_scores.DecodePairs(np.empty(0, np.int64))(raw).num_rows == 0


def test_a_corrupt_image_costs_its_pair_alone() -> None:
    rows = rendered_pairs(5)
    rows[2]["jpg_1"] = rows[2]["jpg_1"][:100]
    raw = raw_table(rows)
    scored = step_of(one=Brightness())(pair_scores.DecodePairs(pairs.pair_ids(raw))(raw))
    assert scored["reason:one"].to_pylist() == [None, None, "image_1: image cannot be decoded: OSError", None, None]
    for slot in (0, 1):
        assert [value is None for value in scored[f"score_{slot}:one"].to_pylist()] == [
            False,
            False,
            True,
            False,
            False,
        ]


def decoder(raw: pa.Table) -> pair_scores.DecodePairs:
    return pair_scores.DecodePairs(pairs.pair_ids(raw))


def decoded_pairs(count: int) -> pa.Table:
    raw = raw_table(rendered_pairs(count))
    return decoder(raw)(raw)


def test_one_copy_that_does_both_makes_what_the_two_steps_make_in_batches_of_its_own() -> None:
    rows = rendered_pairs(8)
    rows[4]["jpg_0"] = b"no image"
    raw = raw_table(rows)
    wanted = pairs.pair_ids(raw)[:6]
    judge = Brightness()
    both = pair_scores.ScoreRawPairs(wanted, [], {}, batch_size=3)
    both.scorers.update(one=judge)  # type: ignore[call-overload]
    scored = both(raw)
    assert judge.asked == [(6, 64, 64), (4, 64, 64)]  # two slots of 0..2, of 3 and 5; nothing is wanted of 6 and 7
    assert scored.equals(step_of(one=Brightness())(pair_scores.DecodePairs(wanted)(raw)))
    assert scored["reason:one"].null_count == 5
    none = both(raw.slice(0, 0))
    assert none.num_rows == 0
    assert none.schema == scored.schema


def test_a_pair_that_raises_or_is_not_finite_costs_itself_alone() -> None:
    decoded = decoded_pairs(10)
    victim = decoded["caption"][3].as_py()
    odd = decoded["caption"][6].as_py()

    def spoil(scores: np.ndarray[Any, Any], captions: Sequence[str]) -> None:
        scores[[caption == odd for caption in captions]] = np.inf
        if victim in captions:
            raise ValueError(f"not {victim}")

    scored = step_of(one=Brightness(spoil), two=Brightness())(decoded)
    reasons = scored["reason:one"].to_pylist()
    assert reasons[3] == f"scorer raised ValueError: not {victim}"
    assert reasons[6] == NOT_FINITE
    assert [i for i, reason in enumerate(reasons) if reason] == [3, 6]
    assert scored["score_0:one"][6].as_py() is None
    assert scored["reason:two"].null_count == 10  # another scorer's trouble is not its own
    good = [i for i in range(10) if i not in (3, 6)]
    assert scored["score_0:one"].take(good) == scored["score_0:two"].take(good)


def test_a_scorer_that_fails_on_a_whole_batch_is_refused() -> None:
    def spoil(scores: np.ndarray[Any, Any], _: Sequence[str]) -> None:
        scores[:] = np.nan

    with pytest.raises(UserError, match="scorer one: score is not finite, on every one of 8 pairs"):
        step_of(one=Brightness(spoil))(decoded_pairs(8))
    raw = raw_table(rendered_pairs(3))
    scored = step_of(one=Brightness(spoil))(decoder(raw)(raw))  # three may be bad pairs
    assert scored["reason:one"].to_pylist() == [NOT_FINITE] * 3
    with pytest.raises(UserError, match="on every one of 3 pairs"):  # but not where nothing was scored before
        step_of(one=Brightness(spoil)).score(decoder(raw).decode(raw), on_trial=True)


def test_scores_of_the_wrong_shape_are_refused() -> None:
    class Column(Brightness):
        def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray[Any, Any]:
            return super().score(images, captions)[:, None]

    with pytest.raises(UserError, match=r"scores of shape \[2, 1\] for 2 images"):
        step_of(one=Column())(decoded_pairs(8))


def test_too_little_memory_is_no_pairs_fault() -> None:
    def spoil(_: np.ndarray[Any, Any], __: Sequence[str]) -> None:
        raise MemoryError

    with pytest.raises(UserError, match="8 images at once are too many for the memory; lower --batch-size"):
        step_of(one=Brightness(spoil))(decoded_pairs(4))


def test_each_caption_is_measured_once() -> None:
    rows = rendered_pairs(4)
    rows += [rows[0] | {"ranking_id": 99, "image_0_uid": "again"}]
    raw = raw_table(rows)
    one = Brightness()
    scored = step_of(one=one)(pair_scores.DecodePairs(pairs.pair_ids(raw))(raw))
    assert sorted(one.captions) == sorted({row["caption"] for row in rows})
    assert scored["truncated:one"].to_pylist() == ["star" in row["caption"] for row in rows]
