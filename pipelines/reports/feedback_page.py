"""The matrix of label sets and judges as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from infra.pages.made import command_line, describe
from infra.pages.page import data_uri
from pipelines.drawing.image_flags import shown_contents
from pipelines.judging.comparison import Drawn
from pipelines.judging.score_files import paired_scores
from pipelines.reports.judges import judge_titles, training_seconds
from pipelines.reports.report_page import IMAGE_SIDE, fill, flags_of

SHOWN = 4  # captions drawn at random


def strips(report: Mapping[str, Any], policies: Mapping[str, Drawn], base: Drawn) -> list[dict[str, Any]]:
    """Choose captions and show each one's image by every model: a few at random, then each policy's largest gain.

    A policy's gain is measured by the judge that labelled its training data, where there is one.
    """
    first = base.scores.filter(pc.equal(base.scores["image_index"], 0))
    chosen = [("At random", int(row)) for row in np.random.default_rng(0).permutation(first.num_rows)[:SHOWN]]
    for name, drawn in policies.items():
        for judge in (judge for judge, cell in report["matrix"][name].items() if cell["labelled"]):
            ours, theirs = paired_scores(drawn.scores, base.scores, judge)
            chosen.append((f"Largest gain of {name} by {judge}", int(np.argmax(ours - theirs))))
    ids = [first["image_id"][row].as_py() for _, row in chosen]
    models = {"base": base, **policies}
    contents = {name: shown_contents(drawn.folder, ids) for name, drawn in models.items()}
    flags = flags_of({name: drawn.folder for name, drawn in models.items()})
    return [
        {
            "title": title,
            "caption": first["caption"][row].as_py(),
            "flags": flags(key),
            "images": {name: data_uri(contents[name][key], IMAGE_SIDE) for name in models},
        }
        for (title, row), key in zip(chosen, ids, strict=True)
    ]


def render(report: dict[str, Any], policies: Mapping[str, Drawn], base: Drawn) -> str:
    """Lay the matrix out; every text in it is escaped.

    Args:
        report: what report.json holds.
        policies: images by row.
    """
    runs = [config["output"] for config in report["config"]["train"].values()]
    seconds = [training_seconds(run) for run in runs]
    return fill(
        "feedback.html.jinja",
        report,
        strips=strips(report, policies, base),
        titles=judge_titles(base.folder, report["judges"]),
        made=describe(
            command_line("pipelines/feedback_report.py", report["config"]["report"]),
            {"training of all rows": None if None in seconds else sum(one or 0.0 for one in seconds)},
        ),
    )
