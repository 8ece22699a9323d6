"""Run the paper's Fig. 6 in miniature, each step a command that a cluster user submits: `make feedback`.

It starts from the demo's pairs, store and policy of human labels, and runs the steps to these where they are missing.
Every scorer labels the store, and a policy is trained on each label set with the demo's settings. All judges score all
images, and the report shows the matrix of win rates. A finished step is not done again.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathText
from infra.local import demo
from infra.local.steps import Step, run_steps

SCORERS = ("pickscore", "hpsv2", "clip", "aesthetics")
JUDGES = (*SCORERS, "oracle", "fidelity")


@dataclass(frozen=True)
class FeedbackConfig:
    """Flags of the experiment."""

    demo: PathText = "runs/demo"
    """Folder of the demo, whose pairs, stores, policy and base images it uses, or makes where they are missing."""
    output: PathText = "runs/feedback"
    """Folder for all other results; the same folder again goes on from what is there."""


def demo_commands(run: str) -> list[Step]:
    """List the steps of the demo that the matrix builds on, with the demo's own commands."""
    images = f"{run}/images"
    return [
        *demo.pair_commands(run),
        ("train on the human labels", demo.train(run, f"{run}/dpo", "dpo")),
        ("draw held-out captions: base", demo.draw_tests(demo.MODEL, f"{images}/base")),
        ("draw held-out captions: human labels", demo.draw_tests(f"{run}/dpo/result", f"{images}/dpo")),
        ("render the true images", demo.render_tests(f"{images}/true")),
    ]


def train_on(run: str, output: str, labels: str) -> list[str]:
    """Return the command that trains on a scorer's labels.

    That scorer also chooses the checkpoint, as the oracle does for the human labels. A policy tuned on AI feedback has
    thus seen nothing of any other judge.
    """
    own = ["--labels", labels, "--validation-scorer", labels]
    return demo.train(run, f"{output}/{labels}", "dpo", *own)


def commands(run: str, output: str) -> list[Step]:
    """List the steps: the demo's in the folder run, the others in output."""
    base = f"{run}/images/base"
    human = f"{run}/images/dpo"
    true = f"{run}/images/true"
    tuned = [f"{output}/images/{name}" for name in SCORERS]
    relabel = ["python", "labelers/relabel.py", "--source", f"{run}/raw", "--store", f"{run}/store"]
    score = ["python", "pipelines/score.py", "--true-images", true, "--images", base, human, *tuned]
    report = ["python", "pipelines/feedback_report.py", "--base", base, "--policies", human, *tuned]
    return [
        *demo_commands(run),
        ("let the scorers label the training pairs", [*relabel, "--scorer", *SCORERS]),
        *((f"train on the labels of {name}", train_on(run, output, name)) for name in SCORERS),
        *(
            (f"draw held-out captions: {name}", demo.draw_tests(f"{output}/{name}/result", images))
            for name, images in zip(SCORERS, tuned, strict=True)
        ),
        ("score the images by all judges", [*score, "--scorers", *JUDGES]),
        ("write the matrix", [*report, "--judges", *JUDGES, "--store", f"{run}/store", "--output", output]),
    ]


def main(config: FeedbackConfig) -> None:
    """Tune the base model on each scorer's labels and on the human ones, and judge each policy by every scorer."""
    run_steps(commands(config.demo, config.output), config.output, "make feedback")
