"""Judge a run and show it: `python pipelines/report.py ...` writes report.json and a self-contained report.html."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from infra import cli, files
from infra.errors import UserError
from pipelines import charts, store
from pipelines.generate import read_images
from pipelines.score import paired_scores, read_scores
from pipelines.win_rate import win_rate
from training.journal import ASSESSMENTS, STEPS
from training.result import FACTS, result_folder

SCHEMA_VERSION = 1
SHOWN = 8  # image pairs per section


@dataclass(frozen=True)
class ReportConfig:
    """Flags of the report."""

    base: str
    """Scored images of the base model."""
    policy: str
    """Scored images of the trained model, same prompts and seeds."""
    train: str
    """Run folder of the trained model."""
    store: str
    """Latent store it was trained on."""
    output: str = "runs/report"
    """Folder for report.json and report.html."""
    judge: str = "oracle"
    """Scorer of the headline."""
    control: str | None = None
    """Scored images of a control, an SFT model say."""
    control_train: str | None = None
    """Run folder of the control."""


@dataclass(frozen=True)
class Drawn:
    """One model's images and scores."""

    images: pa.Table
    scores: pa.Table
    judged: dict[str, Any]

    @property
    def scorers(self) -> list[str]:
        """Return the names of the score columns."""
        return [name for name in self.scores.column_names if name not in ("image_id", "caption", "image_index")]


def read_drawn(path: str) -> Drawn:
    """Read a scored folder of images."""
    folder = files.resolve(path)
    judged = (
        {k: v for k, v in files.read_json(files.join(folder, "set.json")).items() if k != "identity"}
        if files.exists(files.join(folder, "set.json"))
        else {}
    )
    return Drawn(read_images(folder), read_scores(folder), judged)


def compare(policy: Drawn, base: Drawn) -> dict[str, dict[str, Any]]:
    """Compute each scorer's win rate and medians over one image per prompt."""
    compared = {}
    for name in base.scorers:
        ours, theirs = paired_scores(policy.scores, base.scores, name)
        medians = {"base": float(np.median(theirs)), "policy": float(np.median(ours))}
        compared[name] = {"win_rate": asdict(win_rate(ours, theirs)), "median": medians}
    return compared


def build(config: ReportConfig) -> dict[str, Any]:
    """Gather every figure of the report.

    Raises:
        UserError: if an input is missing or unfinished.
    """
    base, policy = read_drawn(config.base), read_drawn(config.policy)
    compared = compare(policy, base)
    if config.judge not in compared:
        raise UserError(f"--judge {config.judge}: the images were scored by {', '.join(compared)}")
    manifest = store.read_manifest(files.resolve(config.store))
    facts = _facts(config.train)
    counts = asdict(manifest.counts)
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "judge": config.judge,
        "win_rate": {name: found["win_rate"] for name, found in compared.items()},
        "median": {name: found["median"] for name, found in compared.items()},
        "sets": {"base": base.judged, "policy": policy.judged},
        "implicit_reward": facts.get("implicit_reward"),
        "store": counts | {"content_hash": manifest.content_hash},
        "train": facts["train"] | {"best_step": facts["best_step"]},
        "config": {"train": facts["config"], "encode": dict(manifest.config), "report": asdict(config)},
    }
    if config.control and config.control_train:
        control = read_drawn(config.control)
        versus = {"base": compare(control, base), "policy": compare(policy, control)}
        report["control"] = {
            "win_rate": {name: found["win_rate"] for name, found in versus["base"].items()},
            "policy_over_control": {name: found["win_rate"] for name, found in versus["policy"].items()},
            "median": {name: found["median"]["policy"] for name, found in versus["base"].items()},
            "config": _facts(config.control_train)["config"],
        }
        report["sets"]["control"] = control.judged
    return report


def _facts(run: str) -> dict[str, Any]:
    path = result_folder(Path(files.resolve(run))) / FACTS
    if not path.is_file():
        raise UserError(f"{run}: no finished run here; train_dpo.py writes {path}")
    return files.read_json(str(path))


def image_pairs(policy: Drawn, base: Drawn, judge: str) -> dict[str, list[dict[str, Any]]]:
    """Choose image pairs to show: the policy's best gains, its worst losses, and a random few."""
    ours, theirs = paired_scores(policy.scores, base.scores, judge)
    gain, first = ours - theirs, pc.equal(base.images["image_index"], 0)
    left, right = base.images.filter(first), policy.images.filter(first)
    order = np.argsort(gain, kind="stable")
    chosen = {
        "Random": np.random.default_rng(0).permutation(len(gain))[:SHOWN],
        "Largest gains": order[::-1][:SHOWN],
        "Largest losses": order[:SHOWN],
    }

    def show(row: int) -> dict[str, Any]:
        return {
            "caption": left["caption"][row].as_py(),
            "base": data_uri(left["image"][row].as_py()),
            "policy": data_uri(right["image"][row].as_py()),
            "base_score": float(theirs[row]),
            "policy_score": float(ours[row]),
        }

    return {title: [show(int(row)) for row in rows] for title, rows in chosen.items()}


def data_uri(content: bytes) -> str:
    """Embed image bytes in a page as PNG, at most 512 pixels wide."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image.thumbnail((512, 512))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def sample_grids(run: str, limit: int = 4) -> list[dict[str, str]]:
    """Embed a few of a run's sample grids, the first and the last among them."""
    found = sorted((Path(files.resolve(run)) / "samples").glob("step-*.png"))
    if len(found) > limit:
        found = [found[round(i * (len(found) - 1) / (limit - 1))] for i in range(limit)]
    return [{"step": str(int(path.stem.split("-")[1])), "image": data_uri(path.read_bytes())} for path in found]


def render(report: dict[str, Any], config: ReportConfig) -> str:
    """Lay the report out as one HTML page that loads nothing from elsewhere; every text is escaped."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    run = Path(files.resolve(config.train))
    control = Path(files.resolve(config.control_train)) if config.control_train else None
    return environment.get_template("report.html.jinja").render(
        report=report,
        headline=report["win_rate"][config.judge],
        pairs=image_pairs(read_drawn(config.policy), read_drawn(config.base), config.judge),
        grids=sample_grids(config.train),
        charts=charts.training_charts(
            _rows(run / STEPS), _rows(run / ASSESSMENTS), _rows(control / ASSESSMENTS) if control else []
        ),
        settings=json.dumps(report["config"], indent=2),
    )


def _rows(path: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main(config: ReportConfig) -> None:
    """Compare a trained model with its base and write report.json and report.html."""
    output = files.resolve(config.output)
    report = build(config)
    files.write_json(files.join(output, "report.json"), report)
    files.write_bytes(files.join(output, "report.html"), render(report, config).encode())
    won = report["win_rate"][config.judge]
    print(
        f"win rate of the policy over the base, judged by {config.judge}: {won['value']:.3f} "
        f"(95 % interval {won['low']:.3f} to {won['high']:.3f}, {won['n']} prompts)\n"
        f"report: {files.join(output, 'report.html')}",
        flush=True,
    )


if __name__ == "__main__":
    cli.run(main, ReportConfig)
