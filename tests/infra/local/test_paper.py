"""The steps of `make paper`: every command parses, trials differ in what they are about, captions are kept apart."""

from __future__ import annotations

import contextlib
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from support.parsed_commands import parsed

from infra.base.errors import UserError
from infra.base.files import ROOT
from infra.local import demo, feedback, paper, steps
from pipelines.experiments.sweep_trials import Sweep, make_trials

RUN = "runs/paper"
STEPS = [command for _, command in paper.commands(RUN)]


@pytest.mark.parametrize("command", STEPS, ids=lambda command: " ".join(command[1:4]))
def test_every_command_has_the_flags_of_its_entry_point(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(command, monkeypatch) is not None


@functools.cache
def trials() -> dict[str, object]:
    swept = Sweep.model_validate(json.loads(json.dumps(paper.sweep_file(RUN))))
    first = swept.model_copy(update={"seeds": swept.seeds[:1]})
    return {one.name: one.train for one in make_trials(first, f"{RUN}/sweep")}


@pytest.mark.slow
def test_the_scaled_rates_hold_rate_times_beta() -> None:
    for name, config in trials().items():
        if config is None or not name.startswith("beta-"):
            continue
        rate, beta = config.optimizer.learning_rate, config.objective.beta  # type: ignore[attr-defined]
        assert rate * beta == pytest.approx(2e-5 * 500) if "scaled" in name else rate == 2e-5, name


@pytest.mark.slow
def test_a_policy_of_ai_feedback_sees_its_own_scorer_alone() -> None:
    for name in paper.SCORERS:
        config = trials()[name]
        assert (config.data.labels, config.validation.validation_scorer) == (name, name)  # type: ignore[attr-defined]
        assert config.data.reference == "seed-0"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("main", "config"),
    [(demo.main, demo.DemoConfig), (feedback.main, feedback.FeedbackConfig), (paper.main, paper.PaperConfig)],
)
def test_runs_on_a_cluster_of_their_own_are_kept_on_a_disk(main: Any, config: Any) -> None:
    with pytest.raises(UserError, match=r"^--output s3://bucket/run: a cluster of this machine's own keeps its log"):
        main(config(output="s3://bucket/run"))


def test_all_trials_have_three_seeds_and_every_judge() -> None:
    swept = Sweep.model_validate(json.loads(json.dumps(paper.sweep_file(RUN))))
    assert len(swept.seeds) == 3
    assert {"oracle", "fidelity"} < set(swept.scorers)


def test_captions_of_training_selection_and_test_are_apart() -> None:
    read = {name: set((ROOT / f"infra/world/prompts/{name}.txt").read_text().split("\n")) - {""}
            for name in ("train", "validation", "test")}  # fmt: skip
    assert not read["train"] & read["validation"]
    assert not read["test"] & (read["train"] | read["validation"])


@pytest.mark.slow
def test_the_models_that_are_looked_at_are_the_sweeps() -> None:
    outputs = {one.output for one in trials().values() if one is not None}  # type: ignore[attr-defined]
    assert str(ROOT / Path(paper.result(RUN, 0)).parent) in outputs


def test_steps_keep_the_seconds_of_the_time_they_were_done_and_interrupted_ones_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter([0, 1, 0, 0])  # draw; label fails; then draw, which is done, and label again
    monkeypatch.setattr(steps, "run_step", lambda *_: next(codes))
    monkeypatch.setattr(steps.cluster, "running", lambda _: contextlib.nullcontext({}))
    listed = [("draw", ["python", "a.py"]), ("label", ["python", "b.py"])]
    with pytest.raises(UserError, match=r"step 2 \(label\) failed; run make x again"):
        steps.run_steps(listed, str(tmp_path), "make x")
    first = json.loads((tmp_path / "steps.json").read_text())
    assert first[0]["seconds"] >= 0
    steps.run_steps(listed, str(tmp_path), "make x")
    again = json.loads((tmp_path / "steps.json").read_text())
    assert again == first
    assert [(step["title"], step["seconds"] is None) for step in again] == [("draw", False), ("label", True)]
