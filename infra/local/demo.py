"""The whole path on this machine, each step the command a cluster user submits: `make demo`.

A local Ray cluster; images from the base model; pairs labelled by the oracle; latent stores; Diffusion-DPO and an SFT
control; images of held-out captions from all three; scores; the report. What is finished is not done again.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.base import files
from infra.base.errors import UserError
from infra.base.files import ROOT
from infra.local import cluster

WORLD = "infra/world"
MODEL = f"{WORLD}/model"
ON_RAY = ("generate", "encode_latents", "encode_reference", "score", "sweep", "rejection_sampling")
RAY_JOBS = {f"pipelines/{name}.py" for name in ON_RAY}
RAY_JOBS |= {"labelers/relabel.py", "labelers/accuracy.py", "training/train_dpo.py"}
WORKER = re.compile(r"\x1b\[36m\(\w.*?pid=\d+\)\x1b\[0m ")
NOISE = (
    "INFO ", "SUCC ", "WARNING __init__", "WebSocket", "Requesting resources", "Attempting to start", "core_worker.cc",
    "Reporting training", "Running entrypoint", "Started training worker", "world_rank=", "Setting up process group",
    "Warning:", "deprecate(", "kept in float32", "read_parquet(", "weights:",
)  # fmt: skip
TRAINING = [
    "--workers", "2", "--steps", "120", "--checkpoint-every", "40", "--global-batch", "128", "--micro-batch", "16",
    "--learning-rate", "1e-5", "--warmup-steps", "10",
    "--validation-prompts", f"{WORLD}/prompts/validation.txt", "--validation-images", "2", "--sampling-steps", "12",
]  # fmt: skip
SAMPLING = ["--sampling-steps", "12", "--samplers", "2"]
TWO = ["--images-per-prompt", "2"]
STEPS_FILE = "steps.json"
TEST_CAPTIONS = f"{WORLD}/prompts/test.txt"
Step = tuple[str, list[str]]  # what it is for, and its command


@dataclass(frozen=True)
class DemoConfig:
    """Flags of the demo."""

    output: str = "runs/demo"
    """Folder for everything it makes; the same folder again goes on from what is there."""


def generate(model: str, prompts: str, output: str, *flags: str) -> list[str]:
    """Return the command that draws images."""
    script = ["python", "pipelines/generate.py", "--model", model, "--prompts", prompts, "--output", output]
    return [*script, *SAMPLING, *flags]


def label(images: str, output: str) -> list[str]:
    """Return the command that lets the oracle label images."""
    return ["python", f"{WORLD}/label_pairs.py", "--images", images, "--output", output]


def encode(source: str, store: str) -> list[str]:
    """Return the command that encodes raw pairs."""
    return ["python", "pipelines/encode_latents.py", "--source", source, "--model", MODEL, "--store", store]


def train(run: str, output: str, objective: str, *flags: str) -> list[str]:
    """Return the command that trains by an objective on the stores of a run."""
    script = ["python", "training/train_dpo.py", "--output", output, "--objective", objective]
    stores = ["--store", f"{run}/store", "--held-out-store", f"{run}/held_out_store"]
    return [*script, "--beta", "500", *stores, *TRAINING, *flags]


def draw_tests(model: str, output: str) -> list[str]:
    """Return the command that draws the images to be judged."""
    return generate(model, TEST_CAPTIONS, output, *TWO)


def render_tests(output: str) -> list[str]:
    """Return the command that renders true images of the captions that are judged."""
    return ["python", f"{WORLD}/render_images.py", "--prompts", TEST_CAPTIONS, "--output", output]


def pair_commands(run: str) -> list[Step]:
    """List the steps from nothing to the two stores of labelled pairs."""
    drawn, held_out = f"{run}/drawn/train", f"{run}/drawn/held_out"
    held_out_flags = [*TWO, "--seed", "2", "--limit", "200"]
    return [
        ("draw images for training pairs",
         generate(MODEL, f"{WORLD}/prompts/train.txt", drawn, "--images-per-prompt", "4", "--seed", "1")),
        ("draw images for held-out pairs", generate(MODEL, TEST_CAPTIONS, held_out, *held_out_flags)),
        ("let the oracle label the training pairs", label(drawn, f"{run}/raw")),
        ("let the oracle label the held-out pairs", label(held_out, f"{run}/held_out_raw")),
        ("encode the training pairs", encode(f"{run}/raw", f"{run}/store")),
        ("encode the held-out pairs", encode(f"{run}/held_out_raw", f"{run}/held_out_store")),
    ]  # fmt: skip


def commands(run: str) -> list[Step]:
    """List the demo's steps."""
    base, dpo, sft, true = (f"{run}/images/{name}" for name in ("base", "dpo", "sft", "true"))
    report = ["python", "pipelines/report.py", "--base", base, "--policy", dpo, "--control", sft]
    runs = ["--train", f"{run}/dpo", "--control-train", f"{run}/sft", "--store", f"{run}/store", "--output", run]
    return [
        *pair_commands(run),
        ("train: Diffusion-DPO", train(run, f"{run}/dpo", "dpo")),
        ("train: SFT on the winners, the control", train(run, f"{run}/sft", "sft")),
        ("draw held-out captions: base", draw_tests(MODEL, base)),
        ("draw held-out captions: Diffusion-DPO", draw_tests(f"{run}/dpo/result", dpo)),
        ("draw held-out captions: SFT", draw_tests(f"{run}/sft/result", sft)),
        ("render the true images", render_tests(true)),
        ("score the images", ["python", "pipelines/score.py", "--true-images", true, "--images", base, dpo, sft]),
        ("write the report", [*report, *runs]),
    ]


def needs_ray(command: list[str]) -> bool:
    """Say whether a command is a job for the cluster; the others are quick and run here."""
    return command[1] in RAY_JOBS


def main(config: DemoConfig) -> None:
    """Run the whole path on this machine, on a Ray cluster of its own: pairs, store, training, images, report."""
    run_steps(commands(config.output), config.output, "make demo")


def run_folder(output: str) -> Path:
    """Return the folder of a run on this machine's own cluster, whose log it holds.

    Raises:
        UserError: if it is not on a disk.
    """
    if files.is_remote(path := files.resolve(output)):
        raise UserError(f"--output {output}: a cluster of this machine's own keeps its log there; give a local folder")
    return Path(path)


def run_steps(steps: list[Step], output: str, again: str) -> None:
    """Run steps one after the other on a Ray cluster of their own, and point to the report.

    Args:
        output: folder of the report and of the cluster's log.
        again: what to run again after a failure.

    Raises:
        UserError: naming the step that failed.
    """
    run, started = run_folder(output), time.monotonic()
    print("starting a local Ray cluster", flush=True)
    with cluster.running(run / "cluster.log") as surroundings:
        for number, (title, command) in enumerate(steps, 1):
            submitted = ["ray", "job", "submit", "--", *command] if needs_ray(command) else command
            clock = f"{time.monotonic() - started:.0f} s"
            print(f"\n[{number}/{len(steps)}, {clock}] {title}\n$ {' '.join(submitted)}", flush=True)
            begun, first = time.monotonic(), note_step(run, title, command, None)
            if run_step(submitted, surroundings):
                raise UserError(f"step {number} ({title}) failed; run {again} again to go on from there")
            if first:
                note_step(run, title, command, time.monotonic() - begun)
    print(f"\ndone in {time.monotonic() - started:.0f} s; open {run / 'report.html'}")


def note_step(run: Path, title: str, command: list[str], seconds: float | None) -> bool:
    """Note in RUN/steps.json that a step begins, or what it took; says whether it begins for the first time.

    One that was finished before keeps the seconds of that time, one that was interrupted has none: those of its last
    attempt would be too few.
    """
    path = str(run / STEPS_FILE)
    noted = files.read_json(path) if files.exists(path) else []
    first = command not in [step["command"] for step in noted]
    if first or seconds is not None:
        others = [step for step in noted if step["command"] != command]
        files.write_json(path, [*others, {"title": title, "command": command, "seconds": seconds}])
    return first


def run_step(command: list[str], surroundings: Mapping[str, str]) -> int:
    """Run one step, show what it says, and return its exit code."""
    with subprocess.Popen(
        command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        assert job.stdout is not None
        for line in job.stdout:
            if _worth_showing(line):
                print(f"  {WORKER.sub('', line)}", end="", flush=True)
    return job.returncode


def _worth_showing(line: str) -> bool:
    """Leave out the lines in which Ray and the libraries talk of themselves."""
    return bool(line.strip()) and not any(word in line for word in NOISE)
