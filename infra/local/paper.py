"""List the steps of `make paper`: the paper's experiments in miniature, each a command that a cluster user submits.

The base model draws images and the oracle labels pairs of them. One latent store holds four scorers' label sets and the
reference errors of each training seed. A sweep trains all trials on it. The models of the main trial go through
implicit accuracy, rejection sampling and edits. One report shows it all. A finished step is not done again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from infra.base import files
from infra.base.places import PathText
from infra.local import demo
from infra.local.demo import MODEL, WORLD
from infra.local.steps import Step, run_folder, run_steps

SEEDS = (0, 1, 2)
SCORERS = ("pickscore", "hpsv2", "clip", "aesthetics")
RATER_AND_OTHER = ("oracle", "fidelity")  # the judge that gave the human labels, and one that labelled nothing
JUDGES = (*RATER_AND_OTHER, *SCORERS)
BETAS = (50, 500, 5000, 50000)
MAIN = 500  # beta of the main trial
RATE = 2e-5  # learning rate of the main trial
STEPS = 80
GLOBAL_BATCH = 64
DRAWS = 3  # epochs that STEPS steps begin on the kept pairs of the store
STEADY = {  # flags by method of the experiment "stability"
    "plain": [],
    "safeguard": ["--safeguard", "0.9"],
    "sft-weight": ["--sft-weight", f"{MAIN / 40:g}"],
    "auto-beta": ["--beta", "auto"],
}
TIMES = (1, 3, 10)  # the main trial's learning rate, in that experiment
DRAWING = ["--sampling-steps", "12"]
EDITED = "200"  # captions of the edits
REJECTED = "60"  # captions of rejection sampling


@dataclass(frozen=True)
class PaperConfig:
    """Flags of the experiments."""

    output: PathText = "runs/paper"
    """Folder for all results; the same folder again goes on from what is there."""


def pair_commands(run: str) -> list[Step]:
    """List the steps to three stores: of the base's images, of its images of held-out captions, and of worse images."""
    train = f"{WORLD}/prompts/train.txt"
    test = demo.TEST_CAPTIONS
    weaker = ["python", "pipelines/generate.py", "--model", MODEL, "--prompts", train, "--samplers", "2",
              "--sampling-steps", "4", "--guidance-scale", "1"]  # fmt: skip
    drawings = {
        "train": demo.generate(MODEL, train, f"{run}/drawn/train", "--images-per-prompt", "4", "--seed", "1"),
        "held_out": demo.generate(MODEL, test, f"{run}/drawn/held_out", *demo.TWO, "--seed", "2"),
        "weaker": [*weaker, "--output", f"{run}/drawn/weaker", "--images-per-prompt", "4", "--seed", "3"],
    }
    steps: list[Step] = []
    for name, drawing in drawings.items():
        prefix = "" if name == "train" else f"{name}_"
        raw = f"{run}/{prefix}raw"
        store = f"{run}/{prefix}store"
        steps += [
            (f"draw images for pairs: {name}", drawing),
            (f"let the oracle label them: {name}", demo.label(f"{run}/drawn/{name}", raw)),
            (f"encode the pairs: {name}", demo.encode(raw, store)),
        ]
    return steps


def shared_commands(run: str) -> list[Step]:
    """List the steps to what all trials share: label sets, and the reference errors of each seed."""
    relabel = ["python", "labelers/relabel.py", "--source", f"{run}/raw", "--store", f"{run}/store"]
    errors = ["python", "pipelines/encode_reference.py", "--store", f"{run}/store", "--draws", str(DRAWS)]
    copies = ["--copies", "2", "--batch-size", "16"]
    return [
        ("let the scorers label the training pairs", [*relabel, "--scorer", *SCORERS]),
        *(
            (f"compute the reference's errors: seed {seed}",
             [*errors, *copies, "--name", f"seed-{seed}", "--seed", str(seed)])
            for seed in SEEDS
        ),
    ]  # fmt: skip


def trials(run: str) -> dict[str, list[str]]:
    """Return by name the flags of train_dpo.py in which each trial differs from the others."""
    cached = ["--reference", "seed-{seed}"]
    flags: dict[str, list[str]] = {}
    for beta in BETAS:
        flags[f"beta-{beta}"] = [*cached, "--beta", str(beta)]
        if beta != MAIN:
            rate = f"{RATE * MAIN / beta:g}"
            flags[f"beta-{beta}-scaled"] = [*cached, "--beta", str(beta), "--learning-rate", rate]
    for name in SCORERS:
        flags[name] = [*cached, "--labels", name, "--validation-scorer", name]
    for method, own in STEADY.items():
        for times in TIMES:
            flags.setdefault(
                steady_trial(method, times), [*cached, *own, "--learning-rate", f"{times * RATE:g}"]
            )  # plain at the usual rate is the main trial
    flags["sft"] = ["--objective", "sft"]
    flags["weaker"] = ["--store", f"{run}/weaker_store"]
    return flags


def steady_trial(method: str, times: int) -> str:
    """Name the trial of a method of STEADY at so many times the usual learning rate."""
    return f"beta-{MAIN}" if method == "plain" and times == 1 else f"{method}-x{times}"


def sweep_file(run: str) -> dict[str, object]:
    """Return the sweep of all trials, as pipelines/sweep.py reads it."""
    train = {
        "--store": f"{run}/store", "--steps": STEPS, "--checkpoint-every": STEPS // 2, "--global-batch": GLOBAL_BATCH,
        "--micro-batch": 16, "--learning-rate": f"{RATE:g}", "--warmup-steps": 8, "--beta": MAIN,
        "--validation-prompts": f"{WORLD}/prompts/validation.txt", "--sampling-steps": 12, "--cpus-per-worker": 1,
    }  # fmt: skip
    return {
        "seeds": list(SEEDS),
        "train": [str(word) for flag in train.items() for word in flag],
        "generate": ["--prompts", demo.TEST_CAPTIONS, *DRAWING],
        "scorers": list(JUDGES),
        "trials": trials(run),
    }


def result(run: str, seed: int) -> str:
    """Return the folder of the main trial's model for a seed."""
    return f"{run}/sweep/beta-{MAIN}/seed-{seed}/train/result"


def implicit_commands(run: str) -> list[Step]:
    """List the steps of the paper's Tab. 2: how often scorers and policies prefer the image that people chose."""
    accuracy = ["python", "labelers/accuracy.py", "--source", f"{run}/held_out_raw", "--output"]
    steps = [("preference accuracy: the scorers", [*accuracy, f"{run}/implicit/scorers", "--scorers", *JUDGES])]
    for seed in SEEDS:
        policy = ["--scorers", "implicit", "--weights", f"implicit={result(run, seed)}"]
        steps.append((f"preference accuracy: seed {seed}", [*accuracy, f"{run}/implicit/seed-{seed}", *policy]))
    return steps


def rejection_commands(run: str) -> list[Step]:
    """List the steps of the paper's S8: how many images of the base are worth one of the policy."""
    script = ["python", "pipelines/rejection_sampling.py", "--limit", REJECTED, *demo.SAMPLING]
    return [
        (f"rejection sampling by {judge}: seed {seed}",
         [*script, "--model", result(run, seed), "--scorer", judge, "--seed", str(1000 * (seed + 1)),
          "--output", f"{run}/rejection/{judge}/seed-{seed}"])
        for judge in RATER_AND_OTHER for seed in SEEDS
    ]  # fmt: skip


def edit_commands(run: str) -> list[Step]:
    """List the steps of SDEdit: edits of worse images and of colour layouts by the base and by each policy."""
    limit = ["--limit", EDITED]
    test = demo.TEST_CAPTIONS
    starts = f"{run}/sdedit/starts"
    layouts = f"{run}/sdedit/painted"
    weaker = ["python", "pipelines/generate.py", "--model", MODEL, "--prompts", test, *limit, "--samplers", "2",
              "--sampling-steps", "4", "--guidance-scale", "1", "--seed", "5", "--output", starts]  # fmt: skip
    paint = ["python", "pipelines/colour_layouts.py", "--prompts", test, *limit, "--output", layouts]
    steps = [("draw images to edit", weaker), ("paint colour layouts", paint)]
    models = {"base": MODEL} | {f"seed-{seed}": result(run, seed) for seed in SEEDS}
    for kind, source, strength, sampling in (("edits", starts, "0.6", "12"), ("layouts", layouts, "0.98", "25")):
        for name, model in models.items():
            script = ["python", "pipelines/generate.py", "--model", model, "--prompts", test, *limit, "--samplers", "2",
                      "--sampling-steps", sampling, "--init-images", source, "--strength", strength]  # fmt: skip
            steps.append((f"draw {kind}: {name}", [*script, "--output", f"{run}/sdedit/{kind}/{name}"]))
    drawn = [f"{run}/sdedit/{kind}/{name}" for kind in ("edits", "layouts") for name in models]
    judge = ["python", "pipelines/score.py", "--images", *drawn, "--scorers", *RATER_AND_OTHER]
    return [*steps, ("score the edits", judge)]


def commands(run: str) -> list[Step]:
    """List all steps."""
    sweep = ["python", "pipelines/sweep.py", "--file", f"{run}/sweep_file.json", "--output", f"{run}/sweep"]
    return [
        *pair_commands(run),
        *shared_commands(run),
        ("train, draw and score all trials", sweep),
        *implicit_commands(run),
        *rejection_commands(run),
        *edit_commands(run),
        ("write the report", ["python", "pipelines/paper_report.py", "--run", run]),
    ]


def main(config: PaperConfig) -> None:
    """Run the paper's experiments on the embedded world, on a Ray cluster of their own, and report them."""
    path = run_folder(config.output) / "sweep_file.json"
    files.write_bytes(str(path), (json.dumps(sweep_file(config.output), indent=2) + "\n").encode())
    run_steps(commands(config.output), config.output, "make paper")
