"""Scored images become raw pairs: best against worst or all, ties, odd groups, slots that tell nothing, stable ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.judging_material import name_scorers, score_folders, write_images

from infra.base import cli, files
from infra.base.errors import UserError
from pipelines.drawing.image_sets import read_images
from pipelines.judging.rank_config import Pairs, RankConfig
from pipelines.judging.rank_pairs import Group, Image, choose, image_uid, lay_out, main
from pipelines.raw import raw_table, source
from pipelines.raw.decode import decode_image
from pipelines.raw.pairs import pair_ids
from pipelines.raw.source import CONFIG


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    name_scorers(monkeypatch)


def drawn(folder: Path, reds: dict[str, Sequence[int]], **identity: Any) -> RankConfig:
    """Draw images whose scores by `red` are the given numbers, score them, and return the settings that rank them."""
    colours = {caption: [(red, 0, 0) for red in shown] for caption, shown in reds.items()}
    images = write_images(folder / "drawn", colours, **identity)
    score_folders(images)
    return RankConfig(images=images, output=str(folder / "raw"), scorer="red", group_size=4)


def ranked(config: RankConfig) -> list[dict[str, Any]]:
    """Rank, and read the rows with the bytes that groups have once."""
    main(config)
    paths = source.parquet_files(config.output, "train")
    shown = [
        row for path in paths for piece in raw_table.read_pieces(path, ["jpg_0", "jpg_1"]) for row in piece.to_pylist()
    ]
    return [row | images for row, images in zip(pq.read_table(config.output).to_pylist(), shown, strict=True)]


def reds(row: dict[str, Any]) -> tuple[int, int]:
    """Read the two slots' scores off their pixels."""
    left, right = (decode_image(row[f"jpg_{slot}"], 64)[0, 0, 0] for slot in (0, 1))
    return int(left), int(right)


@pytest.mark.parametrize(
    ("scores", "pairs", "chosen"),
    [
        ([3.0, 9.0, 1.0, 5.0], "best-worst", [(1, 2)]),
        ([9.0, 9.0, 1.0, 1.0], "best-worst", [(0, 3)]),  # the first of the best, the last of the worst
        ([2.0, 2.0, 2.0], "best-worst", [(0, 2)]),  # all equal: still two images
        ([1.0, 2.0], "best-worst", [(0, 1)]),
        ([3.0, 1.0, 2.0], "all", [(0, 1), (0, 2), (1, 2)]),
    ],
)
def test_which_images_of_a_group_are_compared(scores: list[float], pairs: Pairs, chosen: list[tuple[int, int]]) -> None:
    assert choose(scores, pairs) == chosen


def test_groups_follow_the_images_order_and_a_single_one_left_over_is_not_compared(tmp_path: Path) -> None:
    rows = ranked(drawn(tmp_path, {"a": [30, 10, 20, 40, 70, 60, 50, 80, 99], "b": [5, 7, 6], "c": [1]}))
    found = sorted((row["caption"], *sorted(reds(row))) for row in rows)
    assert found == [("a", 10, 40), ("a", 50, 80), ("b", 5, 7)]  # of nine images two groups of four
    for row in rows:
        left, right = reds(row)
        assert row["label_0"] == float(left > right)
        assert row["best_image_uid"] == row["image_0_uid" if left > right else "image_1_uid"]


def test_groups_have_as_many_images_as_the_flag_says(tmp_path: Path) -> None:
    rows = ranked(replace(drawn(tmp_path, {"a": [30, 10, 20, 40, 60, 50, 99]}), group_size=3))
    assert sorted(tuple(sorted(reds(row))) for row in rows) == [(10, 30), (40, 60)]  # of seven two groups of three


def test_all_pairs_of_a_group_with_equal_scores_as_ties(tmp_path: Path) -> None:
    config = drawn(tmp_path, {"a": [10, 10, 20]})
    rows = ranked(RankConfig(images=config.images, output=config.output, scorer="red", pairs="all"))
    assert sorted((*sorted(reds(row)), row["label_0"] == 0.5) for row in rows) == [
        (10, 10, True),
        (10, 20, False),
        (10, 20, False),
    ]
    assert [row["best_image_uid"] for row in rows].count("tie") == 1
    assert len({row["group_id"] for row in rows}) == 1
    written = pq.read_table(config.output)
    assert sum(6 // 2 - written[f"jpg_{slot}"].null_count for slot in (0, 1)) == 3  # 6 places, each image once


def test_slot_0_is_the_better_one_about_half_of_the_time(tmp_path: Path) -> None:
    rows = ranked(drawn(tmp_path, {f"caption {n}": [n, n + 1] for n in range(200)}))
    # 200 fair draws: within 4 standard deviations, sqrt(200)/2 = 7.1 each.
    assert abs(sum(row["label_0"] for row in rows) - 100) < 29


def test_ids_and_slots_are_of_the_pair_not_of_its_label_or_its_company(tmp_path: Path) -> None:
    def keyed(folder: str, shown: dict[str, Sequence[int]], **identity: Any) -> dict[int, tuple[str, str]]:
        rows = ranked(drawn(tmp_path / folder, shown, **identity))
        ids = pair_ids(pa.Table.from_pylist(rows)).tolist()
        return {key: (row["image_0_uid"], row["image_1_uid"]) for key, row in zip(ids, rows, strict=True)}

    known = {"fingerprints": {"unet": "1"}}
    first = keyed("one", {"a": [10, 20], "b": [30, 5]}, **known)
    assert keyed("other", {"b": [5, 30]}, captions="fewer", model="moved", **known).items() <= first.items()
    for change in ({"seed": 1}, {"fingerprints": {"unet": "2"}}):  # other images of the same captions
        assert not keyed(str(change), {"a": [10, 20], "b": [30, 5]}, **known | change).keys() & first.keys()


def test_known_ids_and_slots_of_ranked_images_stay() -> None:
    # Else pairs that are ranked again would be other pairs, and their store another.
    assert image_uid("{}", 5) == "82e05518-bf43-5011-b219-2afaec680605"
    shown = [Image(1, "u1", 0.5), Image(2, "u2", 0.7), Image(3, "u3", 0.7)]
    rows = lay_out(Group("c", shown, choose([0.5, 0.7, 0.7], "all")), {1: b"1", 2: b"2", 3: b"3"}, "m")
    assert [(row["ranking_id"], row["image_0_uid"], row["image_1_uid"], row["label_0"]) for row in rows] == [
        (8411418098879214937, "u1", "u2", 0.0),
        (3349679292651927299, "u1", "u3", 0.0),
        (-7343037660563248696, "u2", "u3", 0.5),
    ]
    assert [(row["jpg_0"], row["jpg_1"]) for row in rows] == [(b"1", b"2"), (b"1", b"3"), (b"2", b"3")]


def test_the_same_command_again_changes_nothing_and_other_settings_replace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = drawn(tmp_path, {"a": [10, 30, 20]}, model="me/my-model")
    rows = ranked(config)
    assert {row[f"model_{slot}"] for row in rows for slot in (0, 1)} == {"me/my-model"}
    stamp = (tmp_path / "raw" / "pairs-0000.parquet").stat().st_mtime_ns
    assert ranked(config) == rows
    assert "already ranked, nothing to do: 1 pairs, 0 ties" in capsys.readouterr().out
    assert (tmp_path / "raw" / "pairs-0000.parquet").stat().st_mtime_ns == stamp
    place = f"{config.output}/{CONFIG}"
    assert cli.parse(RankConfig, {}, ["--config", place]) == config
    saved = files.read_json(place)
    files.write_json(place, saved.pop("config") | saved)  # as earlier versions wrote it
    assert ranked(config) == rows
    assert (tmp_path / "raw" / "pairs-0000.parquet").stat().st_mtime_ns == stamp
    assert len(ranked(RankConfig(images=config.images, output=config.output, scorer="red", pairs="all"))) == 3


def test_images_go_in_as_they_were_drawn(tmp_path: Path) -> None:
    config = drawn(tmp_path, {"a": [10, 30]})
    drawn_bytes = set(read_images(config.images)["image"].to_pylist())
    assert {ranked(config)[0]["jpg_0"], ranked(config)[0]["jpg_1"]} == drawn_bytes


def test_what_cannot_be_ranked_is_refused_in_a_sentence(tmp_path: Path) -> None:
    config = drawn(tmp_path, {"a": [1], "b": [2]})
    with pytest.raises(UserError, match="no caption has two images"):
        main(config)
    with pytest.raises(UserError, match="--scorer green: has not scored"):
        main(RankConfig(images=config.images, output=config.output, scorer="green"))
    with pytest.raises(UserError, match="--group-size 1: must be at least 2"):
        main(RankConfig(images=config.images, output=config.output, scorer="red", group_size=1))
    assert not Path(config.output).exists()


def test_a_scored_image_that_is_gone_leaves_no_finished_pairs(tmp_path: Path) -> None:
    config = drawn(tmp_path, {"a": [10, 30], "b": [1, 2]})
    path = Path(config.images) / "images" / "part-0.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(UserError, match=r"images: holds 3 images, but manifest\.json beside it says 4"):
        main(config)
    assert not (Path(config.output) / CONFIG).exists()
