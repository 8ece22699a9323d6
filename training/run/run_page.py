"""A run to look at while it trains: index.html in its folder, with health, curves and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infra.base import config_files, files
from infra.pages.made import command_of, describe
from training.checkpoints.run_folder import (
    ASSESSMENTS,
    FACTS,
    PAGE,
    RESULT,
    SAMPLE,
    SAMPLES,
    STEPS,
    VALIDATION,
    read_notes,
)
from training.run import health
from training.settings.config import TrainConfig

TEMPLATES = Path(__file__).parent / "templates"
TITLES = {SAMPLE: "Sample prompts", VALIDATION: "Validation images"}
SHOWN = 6  # grids of a kind, the first and the last among them


def write(config: TrainConfig, folder: Path, pairs: int) -> None:
    """Write the page of a run.

    Args:
        folder: the run folder, or this node's copy of one on S3.
        pairs: how many are trained on.
    """
    from infra.pages import charts  # loads matplotlib, which only the page needs
    from infra.pages.page import template

    steps = read_notes(str(folder), STEPS)
    assessments = read_notes(str(folder), ASSESSMENTS)
    step = max((row["step"] for row in [*steps, *assessments]), default=0)
    pictures = {title: grids(folder, name) for name, title in TITLES.items()}
    page = template("run.html.jinja", TEMPLATES).render(
        name=Path(config.output).name,
        step=step,
        steps=config.steps,
        finished=(folder / RESULT / FACTS).is_file(),
        config=config,
        pairs_per_second=steps[-1]["pairs_per_second"] if steps else None,
        health=health.describe(config, steps, assessments, pairs),
        charts=charts.training_charts(steps, assessments, [], None, "this run"),
        grids={title: shown for title, shown in pictures.items() if shown},
        settings=config_files.as_yaml(config),
        made=describe(
            command_of("training/train_dpo.py", config, ("store", "model", "output", "steps")),
            {"training": sum(row["seconds"] for row in steps if "seconds" in row) or None},
        ),
    )
    files.write_bytes(str(folder / PAGE), page.encode())


def grids(folder: Path, name: str) -> list[dict[str, Any]]:
    """List a run's grids of images of one kind: step, and the file as the page names it."""
    paths = sorted((folder / SAMPLES).glob(f"{name}-*.png"))
    if len(paths) > SHOWN:
        paths = [paths[round(i * (len(paths) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
    return [{"step": int(path.stem.rpartition("-")[2]), "file": f"{SAMPLES}/{path.name}"} for path in paths]
