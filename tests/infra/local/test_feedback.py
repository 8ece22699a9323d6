"""The steps of `make feedback`: the demo's own artifacts, one pass of labels, a policy each, one pass of judges."""

from __future__ import annotations

from infra.local import demo, feedback, steps

STEPS = [command for _, command in feedback.commands("runs/demo", "runs/feedback")]


def test_the_demos_steps_are_the_demos() -> None:
    # Only equal commands find the artifacts finished, and a demo afterwards finds its own as it left them.
    demos = [command for _, command in demo.commands("runs/demo")]
    shared = [command for _, command in feedback.demo_commands("runs/demo")]
    assert [command for command in demos if command in shared] == shared
    assert not any("sft" in word for command in shared for word in command)


def test_each_scorer_labels_once_trains_once_and_judges_all() -> None:
    own = STEPS[len(feedback.demo_commands("runs/demo")) :]
    relabel, score, report = own[0], own[-2], own[-1]
    assert relabel[relabel.index("--scorer") + 1 :] == ["pickscore", "hpsv2", "clip", "aesthetics"]
    trained = [command[command.index("--labels") + 1] for command in own if "training/train_dpo.py" in command]
    assert trained == ["pickscore", "hpsv2", "clip", "aesthetics"]
    assert score[score.index("--scorers") + 1 :] == [*trained, "oracle", "fidelity"]
    assert [f"runs/feedback/images/{name}" for name in trained] == [
        word for word in report if "feedback/images" in word
    ]


def test_rows_differ_from_the_human_row_only_in_labels_and_judge_of_the_checkpoint() -> None:
    human = demo.train("runs/demo", "runs/feedback/clip", "dpo")
    clip = feedback.train_on("runs/demo", "runs/feedback", "clip")
    assert clip[: len(human)] == human
    assert clip[len(human) :] == ["--labels", "clip", "--validation-scorer", "clip"]


def test_only_steps_of_several_copies_run_on_the_cluster() -> None:
    here = {command[1] for command in STEPS if not steps.needs_ray(command)}
    alone = {"pipelines/encode_latents.py", "labelers/relabel.py", "pipelines/score.py"}  # one copy each
    quick = {"infra/world/label_pairs.py", "infra/world/render_images.py", "pipelines/feedback_report.py"}
    assert here == alone | quick
