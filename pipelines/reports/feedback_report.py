"""The paper's Fig. 6: policies tuned on different label sets, each judged by every scorer.

`python pipelines/feedback_report.py --base ... --policies ...` writes report.json and a self-contained report.html. A
row is a policy, known by the label set that its facts name; a column is a judge; a cell is the win rate over the base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from infra.base import begun, files, object_storage
from infra.base.config_files import save_config
from infra.base.errors import UserError
from pipelines.drawing.image_flags import summarise_image_flags
from pipelines.judging.comparison import Drawn, compare, read_drawn
from pipelines.judging.origin import HUMAN, labellers_of
from pipelines.judging.score_files import paired_scores
from pipelines.judging.win_rate import win_points
from pipelines.latents import label_files, store
from pipelines.raw.raw_pairs import RATER
from pipelines.reports import feedback_hypotheses, feedback_page
from pipelines.reports.feedback_config import FeedbackReportConfig
from pipelines.reports.judges import judge_titles
from pipelines.reports.report import read_facts
from training.checkpoints.run_folder import RESULT

SCHEMA_VERSION = 1
BY_ROW = ("labels", "validation_scorer")  # settings in which rows are meant to differ


@dataclass(frozen=True)
class Row:
    """One policy."""

    drawn: Drawn
    facts: Mapping[str, Any]
    labels: Mapping[str, Any]  # the manifest of the label set it was trained on
    labelled_by: tuple[str, ...] = ()  # the scorers of the sets that a combined one is made of

    @property
    def scorer(self) -> str | None:
        """Return the scorer that gave the labels, None for people's, and for a set that combine.py made of others."""
        scorer: str | None = self.labels.get("settings", {}).get("scorer")
        return scorer


def read_rows(config: FeedbackReportConfig, manifest: store.Manifest) -> dict[str, Row]:
    """Read the policies, by the names of their label sets.

    Raises:
        UserError: naming the folder or label set that is missing, doubled, or not what the policy was trained on.
    """
    rows: dict[str, Row] = {}
    for path in config.policies:
        drawn = read_drawn(path)
        model = (drawn.identity.get("lora") or drawn.identity["model"]).rstrip("/")
        run, _, last = model.rpartition("/")
        if last != RESULT:
            raise UserError(
                f"{drawn.folder}: {model} drew these images, and it is no result of train_dpo.py; "
                f"draw them with a model from RUN/{RESULT}"
            )
        facts = read_facts(run, manifest)
        name = facts["config"]["data"]["labels"]
        if name in rows:
            raise UserError(
                f"--policies {path}: another policy was trained on the labels {name} too; give one per label set"
            )
        labels = label_files.read_labels_manifest(files.resolve(config.store), name)
        if labels["sha256"] != facts["labels_hash"]:
            raise UserError(f"--store: the label set {name} changed after {run} was trained on it; train again")
        rows[name] = Row(drawn, facts, labels, _combined_from(config.store, name, labels))
    return rows


def _combined_from(folder: str, name: str, labels: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the scorers whose sets a combined set is made of, none for other sets.

    Raises:
        UserError: if one of these sets is gone or changed, so that a judge's part in the labels is unknown.
    """
    if "sets" not in labels.get("settings", {}):
        return ()
    scorers, doubts = labellers_of(files.resolve(folder), name, labels["sha256"], "trained on")
    if doubts:
        raise UserError(f"--store: {doubts[0]}, so who labelled {name} is unknown; make that set again")
    return tuple(scorers)


def check_judges(config: FeedbackReportConfig, rows: Mapping[str, Row], base: Drawn) -> None:
    """Refuse folders that a judge did not score, and labels that another version of a judge gave.

    Raises:
        UserError: naming the folder or label set, and the scorer.
    """
    for drawn in (base, *(row.drawn for row in rows.values())):
        for judge in config.judges:
            if judge not in drawn.scorers:
                raise UserError(f"{drawn.folder}: {judge} has not scored these images; run score.py --scorers {judge}")
    for name, row in rows.items():
        if row.scorer in config.judges and row.labels["settings"]["fingerprint"] != base.fingerprints[row.scorer]:
            raise UserError(
                f"--store: the label set {name} is by another version of {row.scorer} than judges here; relabel it"
            )


def labelled(name: str, row: Row, judge: str) -> bool:
    """Say whether a judge also labelled a row's training data."""
    return judge in row.labelled_by or judge == (RATER if name == HUMAN else row.scorer)


def build(config: FeedbackReportConfig, rows: Mapping[str, Row], base: Drawn) -> dict[str, Any]:
    """Gather every figure of the report."""
    check_judges(config, rows, base)
    points = {}
    matrix = {}
    medians = {}
    for name, row in rows.items():
        compared = compare(row.drawn, base, config.judges)
        points[name] = {
            judge: win_points(*paired_scores(row.drawn.scores, base.scores, judge)) for judge in config.judges
        }
        matrix[name] = {
            judge: compared[judge]["win_rate"] | {"labelled": labelled(name, row, judge)} for judge in config.judges
        }
        medians[name] = {judge: compared[judge]["median"] for judge in config.judges}
    first = next(iter(rows.values()))
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": "feedback",
        "rows": list(rows),
        "judges": list(config.judges),
        "matrix": matrix,
        "median": medians,
        "hypotheses": {name: asdict(one) for name, one in feedback_hypotheses.answer_all(points).items()},
        "labels": {name: about(row) for name, row in rows.items()},
        "safety": summarise_image_flags({"base": base.folder} | {name: row.drawn.folder for name, row in rows.items()}),
        "sets": {"base": base.judged} | {name: row.drawn.judged for name, row in rows.items()},
        "train": {name: row.facts["train"] | {"best_step": row.facts["best_step"]} for name, row in rows.items()},
        "differs_in": {name: _differs(first, row) for name, row in rows.items()},
        "config": {
            "report": asdict(config),
            "train": {name: row.facts["config"] for name, row in rows.items()},
            "generate": {"base": base.identity} | {name: row.drawn.identity for name, row in rows.items()},
            "judges": {judge: base.fingerprints[judge] for judge in config.judges},
        },
    }


def about(row: Row) -> dict[str, Any]:
    """Describe a row's label set: its scorer, its hash, its counts, and how far it agrees with the human labels."""
    names = ("agreement", "counts")
    return {"scorer": row.scorer, "sha256": row.labels["sha256"]} | {name: row.labels.get(name) for name in names}


def _differs(first: Row, row: Row) -> dict[str, tuple[Any, Any]]:
    return begun.differences(first.facts["config"], row.facts["config"], ignored={"output", *BY_ROW}, exact=True)


def main(config: FeedbackReportConfig) -> None:
    """Compare policies tuned on different label sets with their base, and write report.json and report.html."""
    if not config.policies or not config.judges:
        raise UserError("--policies or --judges is empty, so there is nothing to compare; give at least one of each")
    output = files.resolve(config.output)
    object_storage.check("--output", output)
    base = read_drawn(config.base)
    rows = read_rows(config, store.read_manifest(files.resolve(config.store)))
    report = build(config, rows, base)
    page = feedback_page.render(report, {name: row.drawn for name, row in rows.items()}, base)
    content = json.dumps(report, indent=2, allow_nan=False) + "\n"  # NaN is no JSON
    save_config(output, config)
    files.write_bytes(files.join(output, "report.json"), content.encode())
    files.write_bytes(files.join(output, "report.html"), page.encode())
    print(
        f"{summary(report, judge_titles(base.folder, report['judges']))}\nreport: {files.join(output, 'report.html')}",
        flush=True,
    )


def summary(report: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Lay out the matrix and the answers, for the terminal; titles are the judges' names with their weights."""
    lines = [f"{'labels':<12}" + "".join(f"{judge:>14}" for judge in report["judges"])]
    for row, cells in report["matrix"].items():
        shown = (f"{100 * cell['value']:.1f}{'*' if cell['labelled'] else ' '}" for cell in cells.values())
        lines.append(f"{row:<12}" + "".join(f"{one:>14}" for one in shown))
    lines.append("win rate over the base in percent; * where the judge labelled the training data")
    lines.append(f"judges: {', '.join(titles.values())}")
    return "\n".join([*lines, *(f"{one['claim']} {one['sentence']}" for one in report["hypotheses"].values())])
