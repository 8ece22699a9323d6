"""The whole path on this machine, each step the command a cluster user submits: `make demo`.

A local Ray cluster; images from the base model; pairs labelled by the oracle; latent stores; Diffusion-DPO and an SFT
control; images of held-out captions from all three; scores; the report. What is finished is not done again.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time

from infra import cluster
from infra.errors import UserError
from infra.files import ROOT

RUN = "runs/demo"
WORLD = "infra/world"
MODEL = f"{WORLD}/model"
RAY_JOBS = {f"pipelines/{name}.py" for name in ("generate", "encode_latents", "score")} | {"training/train_dpo.py"}
WORKER = re.compile(r"\x1b\[36m\(\w.*?pid=\d+\)\x1b\[0m ")
NOISE = (
    "INFO ", "SUCC ", "WARNING __init__", "WebSocket", "Requesting resources", "Attempting to start", "core_worker.cc",
    "Reporting training", "Running entrypoint", "Started training worker", "world_rank=", "Setting up process group",
    "Warning:", "deprecate(", "kept in float32", "read_parquet(", "weights:",
)  # fmt: skip
TRAINING = [
    "--store", f"{RUN}/store", "--held-out-store", f"{RUN}/held_out_store", "--workers", "2",
    "--validation-prompts", f"{WORLD}/prompts/validation.txt", "--sampling-steps", "12",
    "--steps", "120", "--checkpoint-every", "30", "--global-batch", "64", "--micro-batch", "16",
    "--learning-rate", "1e-5", "--warmup-steps", "10",
]  # fmt: skip


SAMPLING = ["--sampling-steps", "12", "--samplers", "2"]
TEST_CAPTIONS = f"{WORLD}/prompts/test.txt"


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


def train(objective: str) -> list[str]:
    """Return the command that trains by an objective."""
    script = ["python", "training/train_dpo.py", "--output", f"{RUN}/{objective}", "--objective", objective]
    return [*script, "--beta", "500", *TRAINING]


def commands() -> list[tuple[str, list[str]]]:
    """List the demo's steps: what each is for, and its command."""
    drawn = {"train": f"{RUN}/drawn/train", "held_out": f"{RUN}/drawn/held_out"}
    judged = [f"{RUN}/images/{name}" for name in ("base", "dpo", "sft")]
    models = [MODEL, f"{RUN}/dpo/result", f"{RUN}/sft/result"]
    true = f"{RUN}/images/true"
    train_images = ["--images-per-prompt", "4", "--seed", "1"]
    held_out_images = ["--images-per-prompt", "2", "--seed", "2", "--limit", "200"]
    judge = ["python", "pipelines/score.py", "--true-images", true, "--images", *judged]
    report = ["python", "pipelines/report.py", "--base", judged[0], "--policy", judged[1], "--control", judged[2]]
    runs = ["--train", f"{RUN}/dpo", "--control-train", f"{RUN}/sft", "--store", f"{RUN}/store", "--output", RUN]
    return [
        (
            "draw images for training pairs",
            generate(MODEL, f"{WORLD}/prompts/train.txt", drawn["train"], *train_images),
        ),
        ("draw images for held-out pairs", generate(MODEL, TEST_CAPTIONS, drawn["held_out"], *held_out_images)),
        ("let the oracle label the training pairs", label(drawn["train"], f"{RUN}/raw")),
        ("let the oracle label the held-out pairs", label(drawn["held_out"], f"{RUN}/held_out_raw")),
        ("encode the training pairs", encode(f"{RUN}/raw", f"{RUN}/store")),
        ("encode the held-out pairs", encode(f"{RUN}/held_out_raw", f"{RUN}/held_out_store")),
        ("train: Diffusion-DPO", train("dpo")),
        ("train: SFT on the winners, the control", train("sft")),
        *[
            (f"draw held-out captions: {name}", generate(model, TEST_CAPTIONS, output, "--images-per-prompt", "2"))
            for name, model, output in zip(("base", "Diffusion-DPO", "SFT"), models, judged, strict=True)
        ],
        (
            "render the true images",
            ["python", f"{WORLD}/render_images.py", "--prompts", TEST_CAPTIONS, "--output", true],
        ),
        ("score the images", judge),
        ("write the report", [*report, *runs]),
    ]


def needs_ray(command: list[str]) -> bool:
    """Say whether a command is a job for the cluster; the others are quick and run here."""
    return command[1] in RAY_JOBS


def main() -> None:
    """Run the demo's steps in order on a cluster of its own."""
    started, steps = time.monotonic(), commands()
    print("starting a local Ray cluster", flush=True)
    with cluster.running(ROOT / RUN / "cluster.log") as surroundings:
        for number, (title, command) in enumerate(steps, 1):
            submitted = ["ray", "job", "submit", "--", *command] if needs_ray(command) else command
            print(
                f"\n[{number}/{len(steps)}, {time.monotonic() - started:.0f} s] {title}\n$ {' '.join(submitted)}",
                flush=True,
            )
            if _run(submitted, surroundings):
                raise UserError(f"step {number} ({title}) failed; run make demo again to go on from there")
    print(f"\ndone in {time.monotonic() - started:.0f} s; open {ROOT / RUN / 'report.html'}")


def _run(command: list[str], surroundings: dict[str, str]) -> int:
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


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
