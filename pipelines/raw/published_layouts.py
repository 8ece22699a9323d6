"""Rows of the public preference sets, as their cards and loaders write them; docs/public-sets.md has the table.

Each reader takes one row and its place. Images that lie inside a row are named by their column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from infra.base.errors import UserError
from pipelines.raw.comparisons import (
    UNKNOWN,
    Comparison,
    RankedImage,
    Row,
    caption_of,
    image_name,
    in_hidden_slots,
    lists,
    number,
    of_prompt,
)

CHOSEN = ("chosen", "rejected")
NUMBERED = ("image1", "image2")
VOTES = ("votes_image1", "votes_image2")
SHARES = "weighted_results_image1_"  # begins a column's name, which ends in what people were asked for
PREFERENCE = "preference"  # the criterion that is taken where people rated by several


def hpdv2_pair(column: str) -> Callable[[Row, str], Iterator[Comparison]]:
    """Return the reader of HPDv2's train.json: two paths, and a 1 for the preferred one."""

    def read(row: Row, place: str) -> Iterator[Comparison]:
        caption = caption_of(row["prompt"], place)
        shown = lists(row, (column, "human_preference"), place)
        votes = [vote for _, vote in shown]
        if len(shown) != 2 or any(vote not in (0, 1) for vote in votes):
            raise UserError(f"{place}: human_preference is {str(votes)[:40]}; it has a 0 or 1 for each of two images")
        yield Comparison(
            place=place,
            caption=caption,
            names=(image_name(shown[0][0], column, place), image_name(shown[1][0], column, place)),
            label_0=(1 + votes[0] - votes[1]) / 2,
            group=of_prompt(caption),
        )

    return read


def hpdv2_ranking(row: Row, place: str) -> Iterator[RankedImage]:
    """Read HPDv2's test.json: the paths of a prompt's images, and their ranks."""
    caption = caption_of(row["prompt"], place)
    for name, rank in lists(row, ("image_path", "rank"), place):
        yield RankedImage(
            place=place,
            caption=caption,
            name=image_name(name, "image_path", place),
            worth=-number(rank, "rank", place),
            group=f"{of_prompt(caption)} of {place.rpartition(': ')[2]}",
        )


def hpdv3_pair(row: Row, place: str) -> Iterator[Comparison]:
    """Read a pair of HPDv3, whose path1 is the preferred image; choice_dist has people's votes for path1 and path2.

    Votes that most people gave to path2 contradict the label, which its authors weighted by raters. They are left out.
    """
    caption = caption_of(row["prompt"], place)
    votes = votes_of(row.get("choice_dist"), "choice_dist", place)
    pair = Comparison(
        place=place,
        caption=caption,
        names=(image_name(row["path1"], "path1", place), image_name(row["path2"], "path2", place)),
        label_0=1.0,
        group=of_prompt(caption),
        votes=votes,
        models=_models(row),
    )
    yield in_hidden_slots(pair)


def votes_of(value: object, column: str, place: str) -> tuple[float, float] | None:
    """Read people's votes for two images; None where there are none."""
    if value is None or value == []:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise UserError(f"{place}: {column} is {str(value)[:40]}; it has a number of votes for each of two images")
    votes = (number(value[0], column, place), number(value[1], column, place))
    if min(votes) < 0:
        raise UserError(f"{place}: {column} is {str(value)[:40]}; votes are not below 0")
    return votes if sum(votes) else None


def won_by(votes: tuple[float, float]) -> float:
    """Return the label_0 of what most votes are for; as many for either are a tie."""
    return 0.5 + (votes[0] > votes[1]) / 2 - (votes[0] < votes[1]) / 2


def _models(row: Row) -> tuple[str, str]:
    """Name what drew both images, where a row says it."""
    return str(row.get("model1") or UNKNOWN), str(row.get("model2") or UNKNOWN)


def image_reward_image(row: Row, place: str) -> Iterator[RankedImage]:
    """Read an image of ImageRewardDB: of the metadata-SPLIT.parquet, or of the JSON in one of its archives."""
    yield RankedImage(
        place=place,
        caption=caption_of(row["prompt"], place),
        name=image_name(row["image_path"], "image_path", place),
        worth=-number(row["rank"], "rank", place),
        group=f"prompt {image_name(row['prompt_id'], 'prompt_id', place)}",
    )


def open_preference(row: Row, place: str) -> Iterator[Comparison]:
    """Read a pair of the Open Image Preferences set: the chosen image and the rejected one."""
    yield Comparison(place=place, caption=caption_of(row["prompt"], place), names=CHOSEN, label_0=1.0)


def voted_pair(row: Row, place: str) -> Iterator[Comparison]:
    """Read a pair of Rapidata's with numbers of votes: most votes win, and as many for either are a tie."""
    yield _won_by(row, votes_of([row[name] for name in VOTES], " and ".join(VOTES), place), place)


def shared_pair(row: Row, place: str) -> Iterator[Comparison]:
    """Read a pair of Rapidata's with shares of votes, weighted by how reliable its people were.

    Raises:
        UserError: if there are no votes, or people rated by several criteria and none of them is the preference.
    """
    asked = [name.removeprefix(SHARES) for name in row if name.startswith(SHARES)]
    if not asked:
        raise UserError(f"{place}: has no votes; Rapidata's sets have {' and '.join(VOTES)}, or {SHARES}{PREFERENCE}")
    if PREFERENCE not in asked and len(asked) != 1:
        raise UserError(
            f"{place}: people rated by {', '.join(asked)}, and {PREFERENCE} is not among them; keep the columns of one"
        )
    criterion = PREFERENCE if PREFERENCE in asked else asked[0]
    columns = [f"weighted_results_image{slot}_{criterion}" for slot in (1, 2)]
    missing = [name for name in columns if name not in row]
    if missing:
        raise UserError(f"{place}: no {', '.join(missing)}")
    yield _won_by(row, votes_of([row[name] for name in columns], " and ".join(columns), place), place)


def _won_by(row: Row, votes: tuple[float, float] | None, place: str) -> Comparison:
    if votes is None:
        raise UserError(f"{place}: nobody voted for either image; take the row out")
    return Comparison(
        place=place,
        caption=caption_of(row["prompt"], place),
        names=NUMBERED,
        label_0=won_by(votes),
        votes=votes,
        models=_models(row),
    )
