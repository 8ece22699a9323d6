"""The report as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from infra.base import files
from infra.pages import charts
from infra.pages.made import command_line, describe
from infra.pages.page import data_uri, template
from pipelines.drawing.image_flags import flag_reasons, shown_contents
from pipelines.judging.comparison import Drawn
from pipelines.judging.score_files import paired_scores
from pipelines.reports.judges import judge_titles, training_seconds
from training.checkpoints.run_folder import ASSESSMENTS, SAMPLES, STEPS, VALIDATION, read_notes

SHOWN = 6  # image pairs per section
IMAGE_SIDE = 512  # pixels of an embedded image, at most
GRID_SIDE = 1600  # pixels of an embedded sample grid, at most
TEMPLATES = Path(__file__).parent / "templates"


def image_pairs(policy: Drawn, base: Drawn, judge: str) -> dict[str, list[dict[str, Any]]]:
    """Choose image pairs to show: some at random, the policy's largest gains, and its largest losses."""
    ours, theirs = paired_scores(policy.scores, base.scores, judge)
    gain = ours - theirs
    order = np.argsort(gain, kind="stable")
    chosen = {
        "At random": np.random.default_rng(0).permutation(len(gain))[:SHOWN],
        "Largest gains": order[::-1][:SHOWN],
        "Largest losses": order[:SHOWN],
    }
    first = base.scores.filter(pc.equal(base.scores["image_index"], 0))
    ids = [first["image_id"][int(row)].as_py() for rows in chosen.values() for row in rows]
    left = shown_contents(base.folder, ids)
    right = shown_contents(policy.folder, ids)
    flags = flags_of({"base": base.folder, "policy": policy.folder})

    def show(row: int) -> dict[str, Any]:
        key = first["image_id"][row].as_py()
        return {
            "caption": first["caption"][row].as_py(),
            "flags": flags(key),
            "base": data_uri(left[key], IMAGE_SIDE),
            "policy": data_uri(right[key], IMAGE_SIDE),
            "base_score": float(theirs[row]),
            "policy_score": float(ours[row]),
        }

    return {title: [show(int(row)) for row in rows] for title, rows in chosen.items()}


def flags_of(folders: Mapping[str, str]) -> Callable[[int], dict[str, str]]:
    """Return a function that takes an image_id and returns, by model, why that image is flagged.

    Args:
        folders: folder of images by the model's name.
    """
    flags = {name: flag_reasons(folder) for name, folder in folders.items()}
    return lambda key: {name: reasons[key] for name, reasons in flags.items() if key in reasons}


def picture(policy: Drawn, base: Drawn, columns: int = 12, side: int = 128) -> bytes:
    """Paste images of randomly chosen prompts into one PNG, the base's above the policy's, to show elsewhere."""
    first = base.scores.filter(pc.equal(base.scores["image_index"], 0))["image_id"].to_pylist()
    chosen = [first[row] for row in np.random.default_rng(1).permutation(len(first))[:columns]]
    canvas = Image.new("RGB", (len(chosen) * side, 2 * side))
    for row, drawn in enumerate((base, policy)):
        contents = shown_contents(drawn.folder, chosen)
        for column, key in enumerate(chosen):
            image = Image.open(io.BytesIO(contents[key]), formats=("PNG",)).convert("RGB").resize((side, side))
            canvas.paste(image, (column * side, row * side))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return buffer.getvalue()


def sample_grids(run: str, limit: int = 4) -> list[dict[str, str]]:
    """Embed at most `limit` of a run's sample grids, the first and the last among them."""
    grids = files.list_files(files.join(files.resolve(run), SAMPLES), ".png")
    paths = [path for path in grids if Path(path).name.startswith(f"{VALIDATION}-")]
    if len(paths) > limit:
        paths = [paths[round(i * (len(paths) - 1) / (limit - 1))] for i in range(limit)]
    return [
        {"step": str(int(Path(path).stem.split("-")[1])), "image": data_uri(files.read_bytes(path), GRID_SIDE)}
        for path in paths
    ]


def fill(name: str, report: dict[str, Any], **shown: Any) -> str:
    """Fill a report's template.

    Args:
        report: what report.json holds; its config is shown as the settings.
        shown: what the page shows beside the report, by the name that the template gives it.
    """
    return template(name, TEMPLATES).render(report=report, settings=json.dumps(report["config"], indent=2), **shown)


def render(report: dict[str, Any], policy: Drawn, base: Drawn, train: str, control_train: str | None) -> str:
    """Lay the report out; every text in it is escaped.

    Args:
        report: what report.json holds.
        train, control_train: run folders, for their curves and sample grids.
    """
    run = files.resolve(train)
    drawn = charts.training_charts(
        read_notes(run, STEPS),
        read_notes(run, ASSESSMENTS),
        read_notes(files.resolve(control_train), ASSESSMENTS) if control_train else [],
        report["train"]["best_step"],
    )
    return fill(
        "report.html.jinja",
        report,
        pairs=image_pairs(policy, base, report["judge"]),
        grids=[] if report["safety"] else sample_grids(train),  # a filter has not seen those
        charts=drawn,
        titles=judge_titles(base.folder, report["win_rate"]),
        made=describe(
            command_line("pipelines/report.py", report["config"]["report"]), {"training": training_seconds(train)}
        ),
    )
