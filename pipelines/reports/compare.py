"""Compare training runs: what each found, with intervals, and the settings in which they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.base import begun, config_files, files, object_storage
from infra.base.config_files import CONFIG, save_config
from infra.base.errors import UserError
from infra.base.result_files import FACTS
from pipelines.judging.win_rate import wilson
from pipelines.reports import compare_page
from pipelines.reports.compare_config import CompareConfig
from training.checkpoints.run_folder import ASSESSMENTS, RESULT, STEPS, STORES, read_notes
from training.settings.config import TrainConfig

SCHEMA_VERSION = 1
PAGE = "comparison.html"
FIGURES = "comparison.json"
OF_A_FOLDER = {"output", "data.cache", "keep_checkpoints", "resume_from"}  # say where a run lies, not what it is


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: its name on the page, its settings by their full names, and its notes."""

    name: str
    settings: Mapping[str, Any]
    steps: list[dict[str, Any]]
    assessments: list[dict[str, Any]]
    facts: Mapping[str, Any] | None  # None of a run that goes on
    report: Mapping[str, Any] | None
    held_out: str  # which pairs its accuracy on held-out pairs is of


def main(config: CompareConfig) -> None:
    """Read the runs and write the page and its figures."""
    output = files.resolve(config.output)
    object_storage.check("--output", output)
    runs = read_runs(config)
    compared = figures(runs)
    save_config(output, config)
    content = json.dumps(compared, indent=2, allow_nan=False) + "\n"
    files.write_bytes(files.join(output, FIGURES), content.encode())
    files.write_bytes(files.join(output, PAGE), compare_page.render(config, compared, runs).encode())
    print(f"{compared['verdict']}\nlook at {files.join(output, PAGE)}", flush=True)


def read_runs(config: CompareConfig) -> list[Run]:
    """Read the run folders and the reports of their results.

    Raises:
        UserError: naming the folder that is none of a run or of a report, or flags that do not go together.
    """
    if len(config.runs) < 2:
        raise UserError(f"runs: {len(config.runs)} named, and one alone compares with nothing; name two run folders")
    twice = sorted({run for run in config.runs if config.runs.count(run) > 1})
    if twice:
        raise UserError(f"{twice[0]}: is named twice; name each run once")
    if config.reports and len(config.reports) != len(config.runs):
        raise UserError(f"--reports: {len(config.reports)} folders for {len(config.runs)} runs; give one for each run")
    judged = [_read_report(path) for path in config.reports]
    _check_bases(config.reports, judged)
    names = names_of(config.runs)
    reports = [*judged, *[None] * (len(config.runs) - len(judged))]  # all runs have one, or none has
    named = zip(config.runs, names, reports, strict=True)
    return [_read_run(path, name, report) for path, name, report in named]


def names_of(paths: Sequence[str]) -> list[str]:
    """Name runs by the ends of their paths, as long as it takes to tell them apart."""
    parts = [path.rstrip("/").split("/") for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _read_run(path: str, name: str, report: Mapping[str, Any] | None) -> Run:
    folder = files.resolve(path)
    if not files.is_file(files.join(folder, CONFIG)):
        raise UserError(f"{path}: no run here, as it has no {CONFIG}; give the --output of train_dpo.py")
    settings = config_files.begun_with(files.join(folder, CONFIG), TrainConfig())
    result = files.join(folder, RESULT, FACTS)
    return Run(
        name=name,
        settings=begun.by_full_name(settings),
        steps=read_notes(folder, STEPS),
        assessments=read_notes(folder, ASSESSMENTS),
        facts=files.read_json(result) if files.is_file(result) else None,
        report=report,
        held_out=_held_out(folder, begun.by_full_name(settings)),
    )


def _held_out(folder: str, settings: Mapping[str, Any]) -> str:
    """Say which pairs a run holds out: by their store's content where the run noted it, else by its path."""
    share = settings["data.hold_out"]
    name = "store" if share else "held_out_store"
    noted = files.join(folder, STORES)
    hashes = files.read_json(noted) if files.is_file(noted) else {}
    return f"{share:g} of {hashes.get(name) or settings[f'data.{name}']}"


def _read_report(path: str) -> Mapping[str, Any]:
    file = files.join(files.resolve(path), "report.json")
    report = files.read_json(file) if files.is_file(file) else None
    if not isinstance(report, dict) or not isinstance(report.get("win_rate"), dict):
        raise UserError(f"--reports {path}: holds no report.json with win rates; give a folder of report.py")
    return report


def _base_of(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what decided the base's images: evaluate_model.py and report.py note it at places of their own."""
    by_part = report.get("models") or report.get("config", {}).get("generate") or {}
    return by_part.get("base") or {}


def _check_bases(paths: Sequence[str], reports: Sequence[Mapping[str, Any]]) -> None:
    """Refuse win rates over different base images: other prompts, seeds or base models.

    Raises:
        UserError: naming the folder and what differs.
    """
    bases = [_base_of(report) for report in reports]
    for path, base in zip(paths, bases, strict=True):
        if not base:
            raise UserError(f"--reports {path}: its report.json does not say what its base was; make the report again")
        names = sorted(name for name in base.keys() | bases[0].keys() if base.get(name) != bases[0].get(name))
        if names:
            raise UserError(
                f"--reports {path}: its win rates are over other base images than those of {paths[0]} "
                f"({', '.join(names)} differ); draw one base, and report every run over it"
            )


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Gather what comparison.json holds: the verdict, each run's figures, and the settings that differ."""
    rows = [_row(run) for run in runs]
    kind, best, is_shown = leader(rows)
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": sentence(rows, kind, best, is_shown),
        "is_shown": is_shown,
        "judges": judges(rows),
        "runs": rows,
        "differing": differing(runs),
    }


def _row(run: Run) -> dict[str, Any]:
    """Sum up a run: steps, its last loss, and what has an interval, the accuracy on held-out pairs and win rates."""
    scores = [row["validation_median"] for row in run.assessments if "validation_median" in row]
    reward = (run.facts or {}).get("implicit_reward")
    return {
        "name": run.name,
        "steps": run.steps[-1]["step"] if run.steps else 0,
        "finished": run.facts is not None,
        "loss": run.steps[-1]["loss"] if run.steps else None,
        "validation": max(scores, default=None),
        "accuracy": _interval(reward["accuracy"], reward["n"]) if reward else None,
        "held_out": run.held_out,
        "win_rate": dict(run.report["win_rate"]) if run.report else {},
    }


def _interval(share: float, count: int) -> dict[str, Any]:
    low, high = wilson(share * count, count)
    return {"value": share, "low": low, "high": high, "n": count}


def judges(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the scorers that judged every run, in the order of the first."""
    return [name for name in rows[0]["win_rate"] if all(name in row["win_rate"] for row in rows)]


def leader(rows: Sequence[Mapping[str, Any]]) -> tuple[str | None, int, bool]:
    """Find the run that is ahead.

    Returns:
        By what: the first judge of all runs, else "accuracy" on held-out pairs, which are the same in all runs, or None
        where neither is known of all; the run's place; and whether its interval lies above that of each other run.
    """
    shared = judges(rows)
    if shared:
        kind = shared[0]
        known = [row["win_rate"][kind] for row in rows]
    elif all(row["accuracy"] for row in rows) and _same_pairs(rows):
        kind = "accuracy"
        known = [row["accuracy"] for row in rows]
    else:
        return None, 0, False
    best = max(range(len(rows)), key=lambda place: known[place]["value"])
    apart = all(known[best]["low"] > one["high"] for place, one in enumerate(known) if place != best)
    return kind, best, apart


def _same_pairs(rows: Sequence[Mapping[str, Any]]) -> bool:
    return len({row["held_out"] for row in rows}) == 1


def sentence(rows: Sequence[Mapping[str, Any]], kind: str | None, best: int, is_shown: bool) -> str:
    """Say first whether a difference is shown, then by which figure."""
    if kind is None and all(row["accuracy"] for row in rows):
        return (
            f"No difference shown: these {len(rows)} runs hold out other pairs each, so accuracies do not compare; "
            "give --reports, or train with the same --hold-out of one store"
        )
    if kind is None:
        return (
            f"No difference shown: these {len(rows)} runs share no judge's win rates and no held-out accuracy; give "
            "--reports, or train with --hold-out"
        )
    row = rows[best]
    share = row["accuracy"] if kind == "accuracy" else row["win_rate"][kind]
    what = "accuracy on held-out pairs" if kind == "accuracy" else f"win rate over its base, judged by {kind}"
    figure = f"{share['value']:.1%} {what} (95 % interval {100 * share['low']:.1f} to {100 * share['high']:.1f} %)"
    values = {(one["accuracy"] if kind == "accuracy" else one["win_rate"][kind])["value"] for one in rows}
    if len(values) == 1:
        return f"No difference shown: every run has {figure}"
    if is_shown:
        return f"{row['name']} is ahead: {figure}, above every other run's interval"
    return f"No difference shown: {row['name']} has the highest figure, {figure}, but intervals overlap"


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all runs: the value in each run, by the setting's full name."""
    names = dict.fromkeys(name for run in runs for name in run.settings if name not in OF_A_FOLDER)
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}
