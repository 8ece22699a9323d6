"""One page of each kind, made by the commands themselves of small hand-made material: what browsers look at."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.base import files
from labelers.scoring import scorers
from pipelines.arena_app import arena_results
from pipelines.arena_app.arena_pairs import read_sets
from pipelines.drawing import gallery, generate, image_sets
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.drawing.prompts import read_prompts
from pipelines.experiments import evaluate_model
from pipelines.experiments.evaluate_config import EvaluateConfig
from pipelines.latents.look import SHEET
from pipelines.paper import paper_report
from pipelines.reports import compare, feedback_report, report
from pipelines.reports.compare_config import CompareConfig
from support import judging_material, paper_folder
from support.arena_material import voted
from support.judging_material import score_folders, write_images, write_label_set, write_run, write_store
from support.material import MODEL, encode_plainly, rendered_pairs, write_pairs
from training.method.objective_config import ObjectiveConfig
from training.run import run_page
from training.settings.config import DataConfig, TrainConfig

CAPTIONS = [
    "a big red circle on a teal background",
    "two cats asleep on a wooden chair by an open window, in the light of a low evening sun, oil on canvas, highly "
    "detailed, wide angle",
    "a_name_without_any_break_that_somebody_took_from_a_file_of_the_nineteen_nineties_and_pasted_here.png",
    "Bücher, Äpfel & <b>Ölfarben</b>",
]
REDS = {"base": (10, 120, 200, 40), "policy": (250, 160, 5, 40)}  # two wins, a loss, a tie


def write_pages(folder: Path) -> dict[str, Path]:
    """Write the pages, and return each one's file by its kind."""
    with pytest.MonkeyPatch.context() as patch:
        judging_material.name_scorers(patch)
        made = {
            "report": _report(folder / "report"),
            "evaluation": _evaluation(folder / "evaluation", patch, ("red", "green")),
            "side-by-side": _evaluation(folder / "side", patch, ("none",)),
            "comparison": _comparison(folder / "comparison"),
            "gallery": _gallery(folder / "gallery"),
            "run": _run(folder / "run"),
            "feedback": _feedback(folder / "feedback", patch),
            "contact-sheet": _contact_sheet(folder / "contact-sheet"),
            "arena-report": _arena_report(folder / "arena-report"),
        }
    with paper_folder.written(folder / "paper") as run:
        paper_report.main(paper_report.PaperReportConfig(run))
        made["paper"] = Path(run, "report.html")
    return made


def _colours(side: str) -> dict[str, list[tuple[int, int, int]]]:
    return {caption: [(red, 60, 90)] for caption, red in zip(CAPTIONS, REDS[side], strict=True)}


def _report(folder: Path) -> Path:
    sets = [write_images(folder / side, _colours(side)) for side in REDS]
    score_folders(*sets)
    config = report.ReportConfig(
        base=sets[0],
        policy=sets[1],
        train=write_run(folder / "run"),
        store=write_store(folder / "store"),
        output=str(folder / "out"),
        judge="red",
    )
    report.main(config)
    return folder / "out" / "report.html"


def _evaluation(folder: Path, patch: pytest.MonkeyPatch, judges: tuple[str, ...]) -> Path:
    folder.mkdir(parents=True)
    rows = [{"prompt": caption, "Category": f"kind {n % 2}"} for n, caption in enumerate(CAPTIONS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def draw(config: GenerateConfig) -> None:
        if not Path(config.output, image_sets.DONE).exists():
            assert len(read_prompts(config.prompts)) == len(CAPTIONS)
            colours = _colours("base" if Path(config.output).name == "base" else "policy")
            write_images(Path(config.output), colours, model=config.model, seed=config.seed)

    patch.setattr(generate, "main", draw)
    config = EvaluateConfig(
        model=str(shutil.copytree(MODEL, folder / "tuned")),
        prompts=str(folder / "prompts.jsonl"),
        output=str(folder / "out"),
        scorers=judges,
    )
    evaluate_model.main(config)
    return folder / "out" / "report.html"


def _notes(run: Path, steps: int, rise: float) -> None:
    """Write a run's notes, whose loss falls and whose accuracy rises."""
    run.mkdir(parents=True, exist_ok=True)
    errors = {
        f"{who}_error_q{quarter}": 0.5 + quarter / 50 for who in ("policy", "reference") for quarter in range(1, 5)
    }
    rows = [
        {
            "step": step,
            "loss": 0.69 - rise * step / 200,
            "accuracy": 0.5 + rise * step / 100,
            "gradient_norm": 0.4,
            "pairs_per_second": 12.5,
            "seconds": 2.0,
            "data_wait_seconds": 0.0,
            **errors,
        }
        for step in range(1, steps + 1)
    ]
    files.write_bytes(str(run / "metrics.jsonl"), "".join(json.dumps(row) + "\n" for row in rows).encode())
    judged = [
        {"step": step, "held_out_accuracy": 0.5 + rise * step / 100, "held_out_pairs": 64, "validation_median": 0.2}
        for step in range(0, steps + 1, 10)
    ]
    files.write_bytes(str(run / "assessments.jsonl"), "".join(json.dumps(row) + "\n" for row in judged).encode())


def _comparison(folder: Path) -> Path:
    runs = []
    for beta, accuracy in ((500.0, 0.55), (2000.0, 0.60), (5000.0, 0.75)):
        run = folder / f"a-run-with-a-rather-long-name-beta-{beta:g}"
        _notes(run, 40, accuracy - 0.5)
        config = TrainConfig(output=str(run), objective=ObjectiveConfig(beta=beta))
        files.write_json(str(run / "config.json"), asdict(config))
        reward = {"accuracy": accuracy, "n": 400, "draws": 10}
        files.write_json(str(run / "result" / "facts.json"), {"config": {}, "implicit_reward": reward})
        runs.append(str(run))
    compare.main(CompareConfig(runs=tuple(runs), output=str(folder / "out")))
    return folder / "out" / "comparison.html"


def _gallery(folder: Path) -> Path:
    write_images(folder, {caption: [(200, 60, 40), (30, 90, 200)] for caption in CAPTIONS})
    wanted = image_sets.wanted_images(CAPTIONS, 2, seed=0)
    config = GenerateConfig(output=str(folder), model="runwayml/stable-diffusion-v1-5", gallery=8)
    page = gallery.write_gallery(str(folder), wanted, config)
    assert page is not None
    return Path(page)


def _run(folder: Path) -> Path:
    _notes(folder, 40, 0.2)
    (folder / "samples").mkdir()
    for step in (0, 20, 40):
        shade = np.linspace(0, 255, 512 * 128, dtype=np.uint8).reshape(128, 512)
        grid = np.stack([shade, np.roll(shade, 40 * step), np.full_like(shade, 90)], axis=-1)
        Image.fromarray(grid).save(folder / "samples" / f"sample-{step:07d}.png")
    config = TrainConfig(steps=80, output=str(folder), data=DataConfig(global_batch=25))
    run_page.write(replace(config, model="runwayml/stable-diffusion-v1-5"), folder, 500)
    return folder / "index.html"


def _feedback(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    judges = ("pickscore", "aesthetics", "oracle")
    for name, channel in zip(judges, ("Red", "Green", "Red"), strict=True):
        patch.setitem(scorers.SCORERS, name, f"support.judging_material:{channel}")
    pairs = write_store(folder / "store")
    base = write_images(folder / "base", _colours("base"))
    policies = []
    for name in ("human", "pickscore", "aesthetics"):
        labels = write_label_set(pairs, name, None if name == "human" else name)
        run = write_run(folder / "runs" / name, labels=name, labels_hash=labels)
        policies.append(write_images(folder / name, _colours("policy"), model=f"{run}/result"))
    score_folders(base, *policies, names=judges)
    config = feedback_report.FeedbackReportConfig(
        base=base, policies=tuple(policies), store=pairs, judges=judges, output=str(folder / "out")
    )
    feedback_report.main(config)
    return folder / "out" / "report.html"


def _contact_sheet(folder: Path) -> Path:
    """Encode eight pairs of the embedded world, one of them a tie, some under captions of another kind."""
    rows = rendered_pairs(8)
    for row, caption in zip(rows, CAPTIONS, strict=False):
        row["caption"] = caption
    return encode_plainly(write_pairs(folder / "raw", rows), folder / "store") / SHEET


def _arena_report(folder: Path) -> Path:
    """Export eleven votes of four raters: the policy wins two of four pairs, the base one, and one is a tie."""
    base, policy = (write_images(folder / side, _colours(side)) for side in REDS)
    sets = read_sets((base, policy))
    votes = voted(sets, {0: [1, 1, 0], 1: [1, 1, 1, 0], 2: [0, None, 0], 3: [None]})
    arena_results.export(sets, votes, str(folder / "out"), {"seed": 0}, str(folder / "work"))
    return folder / "out" / arena_results.REPORT
