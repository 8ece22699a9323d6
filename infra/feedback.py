"""The paper's Fig. 6 in miniature, each step the command a cluster user submits: `make feedback`.

From the demo's pairs, store and human-label policy, whose steps are run first where they are missing: every scorer
labels the store, a policy is trained on each label set with the demo's settings, all judges score all images, and the
matrix of win rates is reported. What is finished is not done again.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.base import cli
from infra.local import demo

SCORERS = ("pickscore", "hpsv2", "clip", "aesthetics")
JUDGES = (*SCORERS, "oracle", "fidelity")


@dataclass(frozen=True)
class FeedbackConfig:
    """Flags of the experiment."""

    demo: str = "runs/demo"
    """Folder of the demo: its pairs, stores, human-label policy and base images are used, or made."""
    output: str = "runs/feedback"
    """Folder for everything else; the same folder again goes on from what is there."""


def demo_commands(run: str) -> list[demo.Step]:
    """List the demo's steps that the matrix builds on, as the demo itself gives them."""
    images = f"{run}/images"
    return [
        *demo.pair_commands(run),
        ("train on the human labels", demo.train(run, f"{run}/dpo", "dpo")),
        ("draw held-out captions: base", demo.draw_tests(demo.MODEL, f"{images}/base")),
        ("draw held-out captions: human labels", demo.draw_tests(f"{run}/dpo/result", f"{images}/dpo")),
        ("render the true images", demo.render_tests(f"{images}/true")),
    ]


def train_on(run: str, output: str, labels: str) -> list[str]:
    """Return the command that trains on a scorer's labels; that scorer also picks the checkpoint, as the oracle does
    for the human labels, so that a policy tuned on AI feedback has seen nothing of any other judge."""
    own = ["--labels", labels, "--validation-scorer", labels]
    return demo.train(run, f"{output}/{labels}", "dpo", *own)


def commands(run: str, output: str) -> list[demo.Step]:
    """List the steps: the demo's in the folder run, the others in output."""
    base, human, true = (f"{run}/images/{name}" for name in ("base", "dpo", "true"))
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
    """Tune the base model on each scorer's labels and on the human ones, and let every scorer judge each."""
    demo.run_steps(commands(config.demo, config.output), config.output, "make feedback")


if __name__ == "__main__":
    cli.run(main, FeedbackConfig)
