"""Results of the votes: majority, win rate and agreement per question, and raw pairs in Pick-a-Pic's columns."""

from __future__ import annotations

import contextlib
import datetime
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from infra.base import files
from infra.base.errors import UserError
from infra.pages.made import command_line, describe
from pipelines.arena_app.arena_pairs import Contents, Pair, Sets
from pipelines.arena_app.arena_votes import QUESTIONS, Choice, Vote, Votes, majority
from pipelines.judging.win_rate import WinRate, rate_over_prompts
from pipelines.raw import raw_pairs
from pipelines.raw.pairs import hash64, prompt_id
from pipelines.reports import report_page

SCHEMA_VERSION = 1
RESULTS = "results.json"
REPORT = "report.html"
POINTS = {0: 0.0, None: 0.5, 1: 1.0}  # of the policy
Judged = Mapping[Pair, Sequence[Vote]]


def votes_by_pair(sets: Sets, votes: Votes) -> dict[Pair, list[Vote]]:
    """Sort votes by the pair that they are on, in the sets' order.

    Raises:
        UserError: if there are none, or one is on a pair that the sets do not hold.
    """
    if not votes:
        raise UserError("--export: there are no votes yet; judge some pairs first")
    judged: dict[int, list[Vote]] = {}
    for _, vote in sorted(votes.items()):
        judged.setdefault(vote.image_id, []).append(vote)
    unknown = set(judged) - {pair.image_id for pair in sets.pairs}
    if unknown:
        raise UserError(
            f"--images: {len(unknown)} judged pairs are not in these folders, for example image_id {min(unknown)}; "
            "give the folders that were judged"
        )
    return {pair: judged[pair.image_id] for pair in sets.pairs if pair.image_id in judged}


def win_rate(judged: Judged, question: str) -> WinRate:
    """Compute how often the majority preferred the policy's image; a tie counts a half.

    Wilson's interval where each prompt was judged once, else a bootstrap that resamples prompts.
    """
    return _rate(judged, question)[0]


def _rate(judged: Judged, question: str) -> tuple[WinRate, str]:
    points = np.array([POINTS[majority(vote.choice(question) for vote in votes)] for votes in judged.values()])
    return rate_over_prompts(points, np.array([prompt_id(pair.caption) for pair in judged]))


def agreement(units: Sequence[Sequence[Choice]]) -> dict[str, Any]:
    """Compute how well raters agree: the share of equal answers, and Krippendorff's alpha for nominal data.

    Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability": of all ordered pairs of answers within a unit, each
    weighted by 1/(m - 1), the disagreeing share over the share that chance gives. 1 is perfect, 0 is chance.

    Args:
        units: the answers that each pair got; those with one answer do not count.

    Returns:
        pairs: the number of units that count; same: 0 to 1; alpha: at most 1. None where nothing can be said.
    """
    counted = [unit for unit in units if len(unit) > 1]
    totals = Counter(answer for unit in counted for answer in unit)
    n = totals.total()
    if not counted:
        return {"pairs": 0, "same": None, "alpha": None}
    same = 0.0
    for unit in counted:
        same += sum(a == b for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1)
    chance = sum(count * (count - 1) for count in totals.values()) / (n * (n - 1))
    alpha = None if chance == 1 else 1 - (1 - same / n) / (1 - chance)
    return {"pairs": len(counted), "same": same / n, "alpha": alpha}


def build(sets: Sets, judged: Judged, config: Mapping[str, Any]) -> dict[str, Any]:
    """Gather every figure of results.json."""
    questions = {}
    for question in QUESTIONS:
        choices = [[vote.choice(question) for vote in votes] for votes in judged.values()]
        counts = Counter(choice for unit in choices for choice in unit)
        questions[question] = {
            "win_rate": asdict(win_rate(judged, question)),
            "votes": {"policy": counts[1], "base": counts[0], "none": counts[None]},
            "agreement": agreement(choices),
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "models": dict(zip(("base", "policy"), sets.names, strict=True)),
        "pairs": len(judged),
        "interval": _rate(judged, "general")[1],
        "raters": dict(sorted(Counter(vote.rater for votes in judged.values() for vote in votes).items())),
        "questions": questions,
        "identities": [dict(one.identity) for one in sets.models],
        "config": dict(config),
    }


def labelled_rows(sets: Sets, judged: Judged, contents: Contents) -> Iterator[dict[str, Any]]:
    """Lay the judged pairs out as raw pairs, label_0 by majority on the general question.

    Which model stands in slot 0 is a function of the pair's images alone, and so is the row's id.
    """
    numbers = Counter(pair.caption for pair in judged)
    for pair, votes in judged.items():
        uids = sets.uids(pair)
        named = [uid.encode() for uid in uids]
        slots = (1, 0) if hash64(b"slots", *named) % 2 else (0, 1)
        preferred = majority(vote.choice("general") for vote in votes)
        label_0 = 0.5 if preferred is None else float(preferred == slots[0])
        shown = [(uids[model], contents.drawn(pair, model)) for model in slots]
        row = raw_pairs.labelled_pair(hash64(b"arena", *named), pair.caption, shown, label_0, "")
        last = max(datetime.datetime.fromisoformat(vote.at) for vote in votes)
        yield row | {
            "model_0": sets.names[slots[0]],
            "model_1": sets.names[slots[1]],
            "created_at": last.astimezone(datetime.UTC).replace(tzinfo=None),
            "num_example_per_prompt": numbers[pair.caption],
        }


def export(sets: Sets, votes: Votes, output: str, config: Mapping[str, Any], work: str) -> dict[str, Any]:
    """Write raw pairs, results.json and report.html, and return the results.

    Args:
        work: a local folder that the images pass through.

    Raises:
        UserError: if there are no votes, or the folder holds Parquet files of somebody else.
    """
    judged = votes_by_pair(sets, votes)
    results = build(sets, judged, config)
    with contextlib.closing(Contents(sets, list(judged), work)) as contents:
        raw_pairs.write_pairs(output, labelled_rows(sets, judged, contents), config)
    files.write_json(files.join(output, RESULTS), results)
    made = describe(command_line("pipelines/arena.py", config))
    page = report_page.fill("arena_report.html.jinja", results, questions=QUESTIONS, made=made)
    files.write_bytes(files.join(output, REPORT), page.encode())
    return results
