"""An evaluation's figures by hand: all images of a prompt count, together, and groups add up to the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from infra.base.errors import UserError
from pipelines.drawing.image_sets import wanted_images
from pipelines.drawing.prompts import Prompt
from pipelines.judging.comparison import Drawn
from pipelines.judging.evaluation import break_down, judge, line_up
from pipelines.judging.win_rate import BOOTSTRAP, WILSON, wilson

PROMPTS = [Prompt("a", {"kind": "x"}), Prompt("b", {"kind": "y"}), Prompt("c", {"kind": "x"}), Prompt("d", {})]


def drawn(captions: Sequence[str], scores: Mapping[tuple[str, int], float], per_prompt: int = 1) -> Drawn:
    """Return images with a score by caption and image_index, in the order of image_id, as score.py has them."""
    wanted = wanted_images(captions, per_prompt, seed=9)
    rows = zip(wanted["caption"].to_pylist(), wanted["image_index"].to_pylist(), strict=True)
    column = pa.array([scores[row] for row in rows], pa.float32())
    scores = wanted.drop(["image_seed"]).append_column("red", column).sort_by("image_id")
    return Drawn(folder="folder", identity={}, scores=scores, judged={}, fingerprints={"red": "the first"})


def each(values: Sequence[float]) -> dict[tuple[str, int], float]:
    return {(caption, 0): value for caption, value in zip("abcd", values, strict=True)}


def test_one_image_per_prompt() -> None:
    evaluated = line_up(PROMPTS, 1, drawn("abcd", each([5, 1, 4, 3])), drawn("abcd", each([4, 2, 4, 1])), ["red"])
    found = judge(evaluated, "red")  # won, lost, tied, won: 2.5 of 4
    assert (found["value"], found["n"], found["prompts"], found["interval"]) == (0.625, 4, 4, WILSON)
    assert (found["low"], found["high"]) == wilson(2.5, 4)
    assert found["median"] == {"base": 3.0, "policy": 3.5}  # of 1 2 4 4, and of 1 3 4 5


def test_groups_add_up_to_the_whole() -> None:
    evaluated = line_up(PROMPTS, 1, drawn("abcd", each([5, 1, 4, 3])), drawn("abcd", each([4, 2, 4, 1])), ["red"])
    found = break_down(evaluated, ["kind"])["kind"]
    assert list(found) == ["x", "y", "(none)"]  # the largest first
    assert {group: cell["red"]["value"] for group, cell in found.items()} == {"x": 0.75, "y": 0.0, "(none)": 1.0}
    assert [cell["red"]["n"] for cell in found.values()] == [2, 1, 1]
    assert sum(cell["red"]["value"] * cell["red"]["n"] for cell in found.values()) == 2.5
    assert found["x"]["red"]["median"] == {"base": 4.0, "policy": 4.5}


def test_all_images_of_a_prompt_count_and_stay_together() -> None:
    captions = [prompt.caption for prompt in PROMPTS]
    policy = {(caption, index): 1.0 + index for caption in "abcd" for index in (0, 1)}
    base = {key: 0.0 if key[0] in "ab" or key == ("c", 1) else 9.0 for key in policy}
    evaluated = line_up(PROMPTS, 2, drawn(captions, policy, 2), drawn(captions, base, 2), ["red"])
    assert evaluated.policy["red"].tolist() == [1, 2, 1, 2, 1, 2, 1, 2]  # in the prompts' order
    found = judge(evaluated, "red")  # a and b won twice, c once, d never: the first images alone would say 2 of 4
    assert (found["value"], found["n"], found["prompts"], found["interval"]) == (5 / 8, 8, 4, BOOTSTRAP)


def test_a_caption_that_stands_twice_in_the_set_is_one_prompt() -> None:
    prompts = [Prompt("a", {"kind": "x"}), Prompt("b", {"kind": "x"}), Prompt("a", {"kind": "y"})]
    policy = {("a", 0): 1.0, ("b", 0): 1.0, ("a", 1): 0.0}
    base = dict.fromkeys(policy, 0.5)
    captions = [prompt.caption for prompt in prompts]
    evaluated = line_up(prompts, 1, drawn(captions, policy), drawn(captions, base), ["red"])
    found = judge(evaluated, "red")
    assert (found["n"], found["prompts"], found["interval"]) == (3, 2, BOOTSTRAP)
    groups = break_down(evaluated, ["kind"])["kind"]
    assert (groups["x"]["red"]["value"], groups["y"]["red"]["value"]) == (1.0, 0.0)  # each place has its own image


def test_a_missing_image_or_scorer_is_refused() -> None:
    whole, short = drawn("abcd", each([1, 2, 3, 4])), drawn("abc", each([1, 2, 3, 4]))
    with pytest.raises(UserError, match="folder: 3 scored images are not the 4 of the prompts"):
        line_up(PROMPTS, 1, whole, short, ["red"])
    other = drawn("abce", each([1, 2, 3, 4]) | {("e", 0): 0.0})
    with pytest.raises(UserError, match="4 scored images are not the 4 of the prompts"):
        line_up(PROMPTS, 1, other, whole, ["red"])
    with pytest.raises(UserError, match="not scored by green"):
        line_up(PROMPTS, 1, whole, whole, ["red", "green"])


def test_scores_of_another_version_of_the_scorer_are_refused() -> None:
    one = drawn("abcd", each([1, 2, 3, 4]))
    other = replace(one, folder="elsewhere", fingerprints={"red": "the second"})
    with pytest.raises(UserError, match="folder and elsewhere were scored by different versions of red"):
        line_up(PROMPTS, 1, one, other, ["red"])


def test_equal_models_tie() -> None:
    same = drawn("abcd", each([1, 2, 3, 4]))
    found = judge(line_up(PROMPTS, 1, same, same, ["red"]), "red")
    assert found["value"] == 0.5
    assert found["low"] < 0.5 < found["high"]
    assert np.isfinite(found["low"])
