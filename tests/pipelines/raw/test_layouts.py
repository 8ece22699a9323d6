"""Rankings, ratings and the layouts of published datasets become comparisons, whose images are shared by groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.base.errors import UserError
from pipelines.raw import group_source, raw_table, source, votes
from pipelines.raw.comparisons import Comparison, in_hidden_slots, of_prompt
from pipelines.raw.import_config import ImportConfig
from pipelines.raw.import_pairs import main, ranking_ids
from pipelines.raw.layouts import comparisons_of
from pipelines.raw.votes import probability_0

VOTED = {"caption": "a", "image_0": "x", "image_1": "y"}
Better = list[tuple[str, str, str]]  # caption, better image, worse image; of a tie in alphabetical order, with "="


def read(*rows: Any) -> tuple[str, Better]:
    """Return the layout's name, and who is better than whom."""
    layout, compared = comparisons_of([(f"line {n}", row) for n, row in enumerate(rows, 2)], "--table t")
    better = []
    for one in compared:
        if one.label_0 == 0.5:
            better.append((one.caption, "=", " ".join(sorted(one.names))))
        else:
            best = 0 if one.label_0 == 1 else 1
            better.append((one.caption, one.names[best], one.names[1 - best]))
    return layout, better


def test_ranks_of_a_caption_become_every_pair_of_it() -> None:
    layout, better = read(
        {"caption": "a", "image": "x", "rank": "2"},
        {"caption": "b", "image": "p", "rank": "1"},
        {"caption": "a", "image": "y", "rank": "1"},  # rank 1 is the best
        {"caption": "b", "image": "q", "rank": "3"},
        {"caption": "a", "image": "z", "rank": "2"},
    )
    assert layout == "images with ranks"
    assert better == [("a", "y", "x"), ("a", "=", "x z"), ("a", "y", "z"), ("b", "p", "q")]


def test_of_ratings_the_higher_wins_and_groups_part_a_caption() -> None:
    rows = [
        {"caption": "a", "image": name, "rating": rating, "group": group}
        for name, rating, group in [("x", 4.5, 1), ("y", 4, 1), ("p", 1, 2), ("q", 7, 2)]
    ]
    assert read(*rows) == ("images with ratings", [("a", "x", "y"), ("a", "q", "p")])


def test_an_image_that_nothing_is_compared_with_is_told(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"caption": caption, "image": name, "rank": 1} for caption, name in [("a", "x"), ("a", "y"), ("b", "z")]]
    assert read(*rows)[1] == [("a", "=", "x y")]
    assert "line 4: z is the only image of its caption or group" in caplog.text
    assert "left out so: 1 of 3 images" in caplog.text


def test_published_layouts() -> None:
    hpd2 = {"prompt": "a", "image_path": ["x.jpg", "y.jpg"], "human_preference": [0, 1]}
    assert read(hpd2) == ("HPDv2, pairs", [("a", "y.jpg", "x.jpg")])
    ranking = {"prompt": "a", "image_path": ["x", "y", "z"], "rank": [3, 1, 2], "raw_annotations": []}
    assert read(ranking) == ("HPDv2, rankings", [("a", "y", "x"), ("a", "z", "x"), ("a", "y", "z")])
    hpd3 = {"prompt": "a", "path1": "images/x.jpg", "path2": "images/y.jpg", "choice_dist": [7, 12], "confidence": 0.9}
    assert read(hpd3) == ("HPDv3", [("a", "images/x.jpg", "images/y.jpg")])
    rated = {"prompt": "a", "prompt_id": "1-2", "image_amount_in_total": 2, "overall_rating": 5}
    images = [
        rated | {"image_path": f"images/train/train_1/{name}.webp", "rank": rank} for name, rank in (("x", 2), ("y", 1))
    ]
    assert read(*images) == ("ImageRewardDB", [("a", "images/train/train_1/y.webp", "images/train/train_1/x.webp")])


def test_votes_in_an_own_table_make_the_label_and_a_soft_one() -> None:
    """The label of its own counts where there is one; else more votes win, and as many for either are a tie."""
    rows = [
        VOTED | {"votes_0": "3", "votes_1": "1", "label_0": ""},
        VOTED | {"votes_0": "2", "votes_1": "2", "label_0": ""},
        VOTED | {"votes_0": "1", "votes_1": "4", "label_0": "0"},
        VOTED | {"votes_0": "1", "votes_1": "4", "label_0": "1"},  # against the votes: no soft label is made of these
        VOTED | {"votes_0": "", "votes_1": "", "label_0": "1"},  # nobody voted
    ]
    layout, compared = comparisons_of([(f"line {n}", row) for n, row in enumerate(rows, 2)], "--table t")
    assert layout == "comparisons"
    assert [(one.label_0, probability_0(one)) for one in compared] == [(1, 0.75), (0.5, 0.5), (0, 0.2), (1, 1), (1, 1)]
    alone = [("line 2", VOTED | {"votes_0": 0, "votes_1": 7})]
    layout, compared = comparisons_of(alone, "--table t")
    assert (layout, compared[0].label_0) == ("comparisons by votes", 0.0)


@pytest.mark.parametrize(
    ("label_0", "given", "soft", "told"),
    [
        (0.5, (3, 1), 0.5, "in 1 of them most votes are against the set's own label, which then stands alone"),
        (0.5, (0, 2), 0.5, "in 1 of them most votes are against the set's own label, which then stands alone"),
        (0.5, (2, 2), 0.5, "1 of them have as many for either image and are ties"),
        (1.0, (2, 2), 0.5, "on average 50.0% of a pair's votes are for the winner"),
    ],
)
def test_votes_for_one_image_of_a_tie_are_against_the_label(
    label_0: float, given: tuple[float, float], soft: float, told: str
) -> None:
    one = Comparison(place="", caption="a", names=("x", "y"), label_0=label_0, votes=given)
    counted = votes.Votes()
    counted.add(one)
    assert probability_0(one) == soft
    assert counted.sentence() == (
        f"1 pairs have votes of several people; {told}. The shares are soft labels: train on them with --objective soft"
    )


@pytest.mark.parametrize(
    ("preference", "better"), [([1, 0], ("a", "x", "y")), ([0, 1], ("a", "y", "x")), ([1, 1], ("a", "=", "x y"))]
)
def test_either_image_of_hpdv2_may_be_preferred(preference: list[int], better: tuple[str, str, str]) -> None:
    for column in ("image_path", "file_path"):
        assert read({"prompt": "a", column: ["x", "y"], "human_preference": preference})[1] == [better]


def test_votes_follow_their_images_into_hidden_slots() -> None:
    rows = [
        {"prompt": "a", "image1": f"{n}-first", "image2": f"{n}-second", "votes_image1": 3, "votes_image2": 1}
        | {"model1": "flux", "model2": "sd3"}
        for n in range(16)
    ]
    _, compared = comparisons_of([("line 1", row) for row in rows], "--table t")
    assert {one.label_0 for one in compared} == {0.0, 1.0}
    for one in compared:
        straight = one.names[0].endswith("first")
        assert one.label_0 == float(straight)  # three of four voted for the first image
        assert votes.probability_0(one) == (0.75 if straight else 0.25)
        assert one.models == (("flux", "sd3") if straight else ("sd3", "flux"))


def test_no_votes_leave_the_label_alone() -> None:
    rows = [{"prompt": "a", "path1": "x", "path2": "y", "choice_dist": none} for none in ([], [0, 0], None)]
    for row in rows:
        (one,) = comparisons_of([("line 1", row)], "--table t")[1]
        assert one.votes is None
        assert votes.probability_0(one) == one.label_0


def test_known_slots_ids_and_groups_of_imported_pairs_stay() -> None:
    # Else a table that is imported again would be other pairs, and the store of the first import would not fit.
    compared = [
        Comparison(place="", caption="a", names=names, label_0=label)
        for names, label in ((("p", "q"), 1.0), (("r", "s"), 1.0), (("p", "q"), 0.0))
    ]
    assert [in_hidden_slots(one).names for one in compared] == [("p", "q"), ("s", "r"), ("p", "q")]
    assert ranking_ids(compared) == [-9140896584462496850, -5872946002875632624, 4417550606761581607]
    assert ranking_ids(compared[::-1]) == ranking_ids(compared)[::-1]  # two raters' labels of one pair keep their ids
    assert of_prompt("a") == "prompt -7fb76e7b130b9048"


def test_the_slot_does_not_tell_the_label() -> None:
    rows = [{"prompt": "a", "path1": f"{n}-better", "path2": f"{n}-worse"} for n in range(200)]
    _, compared = comparisons_of([("line 1", row) for row in rows], "--table t")
    # 200 fair draws: within 4 standard deviations, sqrt(200)/2 = 7.1 each.
    assert abs(sum(one.label_0 for one in compared) - 100) < 29


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"caption": "a", "image": "x", "rank": "first"}], "line 2: rank is 'first', not a number"),
        (
            [{"caption": "a", "image": "x", "rating": ""}],
            "line 2: rating is empty; write a number, or take the row out",
        ),
        (
            [{"prompt": "a", "images": ["x", "y"], "ranking": [1, 2]}],
            "line 2: no caption, .*; a ranking has a row for each image, with caption, image, and rank or rating",
        ),
        ([{"caption": "a", "image": "x", "rank": 1, "rating": 5}], "line 2: has both a rank and a rating"),
        ([{"caption": "a", "image": "x", "rank": 1}], "no group has two images"),
        (
            [{"caption": "a", "image": "x", "rank": 1}, {"caption": "a", "image": "x", "rank": 2}],
            "line 3: the image x stands twice in its group; where several people rated it, give each person's rows",
        ),
        (
            [{"caption": c, "image": c, "rank": 1, "group": "g"} for c in "ab"],
            "line 3: another caption than that of line 2",
        ),
        (
            [{"prompt": "a", "image_path": ["x", "y"], "human_preference": [2, 0]}],
            r"line 2: human_preference is \[2, 0\]; it has a 0 or 1",
        ),
        (
            [{"caption": "a", "image": f"{before}x.png", "rank": 1} for before in ("", "./")],
            "line 3: the image x.png stands twice in its group",
        ),
        ([{"caption": "a", "image": "https://h/x.png", "rank": 1}], "line 2: image is a URL, and no image is fetched"),
        ([{"prompt": "a", "path1": "x", "path2": "y", "choice_dist": [1]}], r"line 2: choice_dist is \[1\]"),
        (
            [{"prompt": "a", "path1": "x", "path2": "y", "choice_dist": [-1, 3]}],
            r"line 2: choice_dist is \[-1, 3\]; votes are not below 0",
        ),
        (
            [{"prompt": "a", "image1": "x", "image2": "y", "votes_image1": 0, "votes_image2": 0}],
            "line 2: nobody voted for either image; take the row out",
        ),
        ([{"prompt": "a", "image1": "x", "image2": "y"}], "line 2: has no votes; Rapidata's sets have votes_image1"),
        ([VOTED | {"votes_0": "0", "votes_1": "0"}], "line 2: has neither a label_0 nor a vote; take the row out"),
        ([VOTED | {"votes_0": "2", "votes_1": ""}], "line 2: votes_1 is empty; write a number, or take the row"),
        *(
            (
                [VOTED | {"label_0": "1", there: "2"}],
                f"line 2: no column {lacking}; votes need votes_0 and votes_1, one for each image",
            )
            for there, lacking in (("votes_0", "votes_1"), ("votes_1", "votes_0"))
        ),
        ([VOTED | {"votes_0": "2", "votes_1": "-1"}], "line 2: votes_0 and votes_1 is .*; votes are not below 0"),
        ([{"prompt": "a", "image_path": ["x"], "rank": [1, 2]}], "line 2: image_path and rank are not two lists"),
    ],
)
def test_a_bad_row_is_told(rows: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(UserError, match=f"--table t: {told}"):
        read(*rows)


def test_an_imported_ranking_holds_each_image_once(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number, name in enumerate("wxyz"):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / f"{name}.png")
    rows = [{"prompt": "a", "image_path": [f"{name}.png" for name in "wxyz"], "rank": [1, 2, 3, 4]}]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    main(ImportConfig(table=str(tmp_path / "test.json"), images=str(tmp_path / "photos"), output=str(tmp_path / "raw")))
    table = pq.read_table(tmp_path / "raw")
    assert table.num_rows == 6  # 4 * 3 / 2
    assert sum(table[f"jpg_{slot}"].null_count for slot in (0, 1)) == 12 - 4
    raw = raw_table.open_source(source.parquet_files(str(tmp_path / "raw"), "train"))
    assert group_source.count_images(raw) == 4
    filled = [
        row for piece in raw.pieces(["image_0_uid", "jpg_0", "image_1_uid", "jpg_1"]) for row in piece.to_pylist()
    ]
    for row in filled:
        for slot in (0, 1):
            assert row[f"jpg_{slot}"] == (tmp_path / "photos" / row[f"image_{slot}_uid"]).read_bytes()
