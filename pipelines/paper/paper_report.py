"""The paper's experimental section on the embedded world: `python pipelines/paper_report.py --run runs/paper`.

Reads what `make paper` left, refuses what is unfinished, and writes report.json and a self-contained report.html there.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from infra.base import files
from pipelines.drawing.image_flags import summarise_image_flags
from pipelines.latents import label_files
from pipelines.paper import paper_experiments as experiments
from pipelines.paper import paper_page
from pipelines.paper.paper_config import PaperReportConfig
from pipelines.paper.paper_hypotheses import LABELLED, percent
from pipelines.paper.paper_material import read_implicit, read_rejection
from pipelines.paper.paper_numbers import NUMBERS
from pipelines.paper.paper_run import DPO, FEEDBACK, SERIES, SFT, STABILITY, WEAKER, PaperRun, captions, read_run

SCHEMA_VERSION = 1
EXPERIMENTS: dict[str, Callable[[PaperRun], dict[str, Any]]] = {
    "beta_ablation": experiments.beta_ablation,
    "sft": experiments.sft,
    "in_distribution": experiments.in_distribution,
    "feedback": experiments.feedback,
    "implicit_reward": lambda run: experiments.implicit_reward(read_implicit(run)),
    "rejection_sampling": lambda run: experiments.rejection(read_rejection(run)),
    "sdedit": experiments.edits,
    "stability": experiments.stability,
}
TRIALS_OF = {  # by experiment; the others use the trial DPO
    "beta_ablation": tuple(dict.fromkeys([*SERIES["fixed"].values(), *SERIES["scaled"].values()])),
    "sft": (DPO, SFT),
    "in_distribution": (DPO, WEAKER),
    "feedback": (DPO, *FEEDBACK),
    "stability": tuple(name for names in STABILITY.values() for name in names.values()),
}
OWN_STEPS = {  # words of a step's command by which it belongs to one experiment; steps without any serve all
    "in_distribution": ("weaker",),
    "feedback": ("labelers/relabel.py",),
    "implicit_reward": ("implicit", "held_out"),
    "rejection_sampling": ("pipelines/rejection_sampling.py",),
    "sdedit": ("sdedit",),
}
WHOLE = ("pipelines/sweep.py", "pipelines/paper_report.py")  # steps of all experiments at once


def commands(run: PaperRun, experiment: str) -> list[str]:
    """List the commands that rerun one experiment, from nothing to this report, in order."""
    steps = [(step["command"], _without_folder(step["command"], run)) for step in run.steps]
    marks = [word for words in (*OWN_STEPS.values(), WHOLE) for word in words]
    shared = [command for command, line in steps if not any(word in line for word in marks)]
    own = [(command, line) for command, line in steps if any(word in line for word in OWN_STEPS.get(experiment, ()))]
    before = [command for command, line in own if not _needs_policy(line)]
    after = [command for command, line in own if _needs_policy(line)]
    trials = [trial for name in TRIALS_OF.get(experiment, (DPO,)) for trial in run.trials[name]]
    images = [run.sweep["base"]["images"], *(trial.entry["images"] for trial in trials)]
    drawing = next(iter(trials)).entry
    base = drawing["draw"].replace(f"{drawing['train']}/result", run.sweep["base"]["model"])
    return [
        *map(shlex.join, (*shared, *before)),
        *(trial.entry["command"] for trial in trials),
        base.replace(drawing["images"], run.sweep["base"]["images"]),
        *(trial.entry["draw"] for trial in trials),
        shlex.join(["python", "pipelines/score.py", "--images", *images, "--scorers", *run.judges]),
        *map(shlex.join, after),
        shlex.join(["python", "pipelines/paper_report.py", "--run", run.folder]),
    ]


def _without_folder(command: Sequence[str], run: PaperRun) -> str:
    """Join a command's words without the run's folder, whose name says nothing about what a step is for."""
    return " ".join(command).replace(files.resolve(run.folder), "").replace(run.folder, "")


def _needs_policy(line: str) -> bool:
    return "/sweep/" in line or "pipelines/score.py" in line


def sharing(run: PaperRun) -> dict[str, Any]:
    """Count what one store and one set of cached reference errors saved: seconds that no trial spent again.

    A store's encoding counts once for each trial beyond the first that was trained on it. Reference errors are
    computed once per seed and count once for each trial beyond the first that read them.
    """
    saved: dict[str, Any] = {
        "rule": "the seconds of the one step that made it, times the number of trials that used it less one. For a "
        "store only its encoding counts, without drawing and labelling. Null where no step of this run made it, or "
        "where that step was interrupted",
        "store": {},
        "reference": {},
    }
    shared = run.sweep["sharing"]
    for folder, trials in shared["store"].items():
        saved["store"][folder] = _saved(_seconds(run, "pipelines/encode_latents.py", {"--store": folder}), trials)
    for folder, names in shared["reference"].items():
        for name, trials in names.items():
            flags = {"--store": folder, "--name": name}
            seconds = _seconds(run, "pipelines/encode_reference.py", flags)
            saved["reference"][f"{folder}/reference/{name}"] = _saved(seconds, trials)
    for kind in ("store", "reference"):
        saved[f"{kind}_saved_seconds"] = sum(one["saved_seconds"] or 0.0 for one in saved[kind].values())
    return saved


def _seconds(run: PaperRun, script: str, flags: Mapping[str, str]) -> float | None:
    """Return the seconds of the step that ran a script with these flags; None if missing or interrupted."""
    took = [step["seconds"] for step in run.steps if script in step["command"] and _has(step["command"], flags)]
    return float(sum(took)) if took and None not in took else None


def _whole(run: PaperRun) -> float | None:
    """Return the seconds of all steps before this report; None where one was interrupted."""
    took = [step["seconds"] for step in run.steps if "pipelines/paper_report.py" not in step["command"]]
    return None if None in took else float(sum(took))


def _has(command: Sequence[str], flags: Mapping[str, str]) -> bool:
    pairs = set(itertools.pairwise(command))
    return all(pair in pairs for pair in flags.items())


def _saved(seconds: float | None, trials: int) -> dict[str, Any]:
    saved = None if seconds is None else seconds * (trials - 1)
    return {"seconds": seconds, "trials": trials, "saved_seconds": saved}


def identities(run: PaperRun) -> dict[str, Any]:
    """Gather what was measured: hashes of stores, label sets, models and judges, and every run's settings."""
    stores = {}
    for name, manifest in run.stores.items():
        folder = run.path(name)
        labels = {one: label_files.read_labels_manifest(folder, one) for one in label_files.label_sets(folder)}
        stores[name] = {
            "content_hash": manifest.content_hash,
            "counts": asdict(manifest.counts),
            "labels": {
                one: {"sha256": about["sha256"], "agreement": about.get("agreement")} for one, about in labels.items()
            },
        }
    every = [trial for same in run.trials.values() for trial in same]
    return {
        "stores": stores,
        "judges": {judge: run.base.fingerprints[judge] for judge in run.judges},
        "models": {"base": run.base.identity["fingerprints"]}
        | {f"{one.name}, seed {one.seed}": one.drawn.identity["fingerprints"]["unet"] for one in every},
        "best_step": {f"{one.name}, seed {one.seed}": one.facts["best_step"] for one in every},
        "train": {name: same[0].facts["config"] for name, same in run.trials.items()},
        "generate": dict(run.base.identity),
    }


def build(run: PaperRun) -> dict[str, Any]:
    """Gather every figure of the report."""
    counts = captions(run)
    measured = {}
    for name, measure in EXPERIMENTS.items():
        paper = [asdict(one) for one in NUMBERS[name]]
        measured[name] = measure(run) | {"paper": paper, "seeds": run.seeds, "commands": commands(run, name)}
    won = measured["sft"]["hypotheses"]["dpo_beats_base"]["parts"][0]
    answers = [one["answer"] for experiment in measured.values() for one in experiment["hypotheses"].values()]
    tally = {answer: answers.count(answer) for answer in ("yes", "no", "undecided")}
    return {
        "schema_version": SCHEMA_VERSION,
        "headline": f"Diffusion-DPO wins {percent(won)} of {won['n']} held-out captions against the base, judged by "
        f"{LABELLED}, over {won['seeds']} training seeds. Of {sum(tally.values())} claims tested {tally['yes']} "
        f"hold, {tally['no']} do not, {tally['undecided']} are undecided at this size.",
        "answers": tally,
        "win_rate": won,
        "captions": counts | {"disjoint": True},
        "experiments": measured,
        "sharing": sharing(run),
        "safety": summarise_image_flags({"base": run.base.folder, "policy": run.trials[DPO][0].drawn.folder}),
        "seconds": _whole(run),
        "steps": list(run.steps),
        "config": identities(run),
    }


def main(config: PaperReportConfig) -> None:
    """Report the paper's experiments, and answer its claims."""
    run = read_run(config.run)
    report = build(run)
    content = json.dumps(report, indent=2, allow_nan=False) + "\n"  # NaN is no JSON
    files.write_bytes(run.path("report.json"), content.encode())
    files.write_bytes(run.path("report.html"), paper_page.render(report, run).encode())
    for name, experiment in report["experiments"].items():
        print(name)
        for one in experiment["hypotheses"].values():
            print(f"  {one['claim']}\n    {one['sentence']}")
    print(f"{report['headline']}\nreport: {run.path('report.html')}", flush=True)
