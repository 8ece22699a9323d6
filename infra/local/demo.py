"""List the steps of `make demo`: the whole path on this machine, each step a command that a cluster user submits.

The base model draws images, the oracle labels pairs of them, and the encoder writes latent stores. Diffusion-DPO and an
SFT control train on these. All three models draw held-out captions, which are scored and reported. A finished step is
not done again.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathText
from infra.local.steps import Step, run_steps

WORLD = "infra/world"
MODEL = f"{WORLD}/model"
TRAINING = [
    "--workers", "2", "--steps", "120", "--checkpoint-every", "40", "--global-batch", "128", "--micro-batch", "16",
    "--learning-rate", "1e-5", "--warmup-steps", "10",
    "--validation-prompts", f"{WORLD}/prompts/validation.txt", "--validation-images", "2", "--sampling-steps", "12",
]  # fmt: skip
SAMPLING = ["--sampling-steps", "12", "--samplers", "2"]
TWO = ["--images-per-prompt", "2"]
TEST_CAPTIONS = f"{WORLD}/prompts/test.txt"


@dataclass(frozen=True)
class DemoConfig:
    """Flags of the demo."""

    output: PathText = "runs/demo"
    """Folder for all results; the same folder again goes on from what is there."""


def generate(model: str, prompts: str, output: str, *flags: str) -> list[str]:
    """Return the command that draws images."""
    script = ["python", "pipelines/generate.py", "--model", model, "--prompts", prompts, "--output", output]
    return [*script, *SAMPLING, *flags]


def label(images: str, output: str) -> list[str]:
    """Return the command that labels images by the oracle."""
    return ["python", f"{WORLD}/label_pairs.py", "--images", images, "--output", output]


def encode(source: str, store: str) -> list[str]:
    """Return the command that encodes raw pairs."""
    return ["python", "pipelines/encode_latents.py", "--source", source, "--model", MODEL, "--store", store]


def train(run: str, output: str, objective: str, *flags: str) -> list[str]:
    """Return the command that trains with an objective on the stores of a run."""
    script = ["python", "training/train_dpo.py", "--output", output, "--objective", objective]
    stores = ["--store", f"{run}/store", "--held-out-store", f"{run}/held_out_store"]
    return [*script, "--beta", "500", *stores, *TRAINING, *flags]


def draw_tests(model: str, output: str) -> list[str]:
    """Return the command that draws the images to judge."""
    return generate(model, TEST_CAPTIONS, output, *TWO)


def render_tests(output: str) -> list[str]:
    """Return the command that renders true images of the judged captions."""
    return ["python", f"{WORLD}/render_images.py", "--prompts", TEST_CAPTIONS, "--output", output]


def pair_commands(run: str) -> list[Step]:
    """List the steps from nothing to the two stores of labelled pairs."""
    drawn = f"{run}/drawn/train"
    held_out = f"{run}/drawn/held_out"
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
    base = f"{run}/images/base"
    dpo = f"{run}/images/dpo"
    sft = f"{run}/images/sft"
    true = f"{run}/images/true"
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


def main(config: DemoConfig) -> None:
    """Run the whole path on this machine, on a Ray cluster of its own: pairs, store, training, images, report."""
    run_steps(commands(config.output), config.output, "make demo")
