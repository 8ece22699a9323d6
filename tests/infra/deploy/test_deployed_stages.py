"""What a deployed stage runs: every command exists, with flags that it has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from support.deployed import CASES, each_case, given
from support.parsed_commands import parsed

from infra.base.files import ROOT
from infra.deploy import manifests, stages
from infra.deploy.values import Values
from pipelines.drawing import generate_config
from pipelines.latents import encode_config
from pipelines.latents.models_known import MODELS


@pytest.mark.parametrize("stage", stages.STAGES)
@each_case
def test_every_command_is_one_of_the_projects_with_flags_it_has(
    stage: str, chosen: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in stages.STAGES[stage](chosen):
        assert parsed(command, monkeypatch) is not None


def test_a_flag_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        parsed([*stages.encode(given())[0], "--decoders", "2"], monkeypatch)


def test_the_stages_meet_in_store_run_and_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = given()
    (encode,), (reference,), (train,) = (
        [parsed(command, monkeypatch) for command in stages.STAGES[stage](chosen)]
        for stage in ("encode", "reference", "train")
    )
    base, policy, score, report = [parsed(command, monkeypatch) for command in stages.evaluate(chosen)]
    assert {encode.store, reference.store, train.data.store, report.store} == {chosen.data.store}
    assert train.data.reference == reference.name
    assert (policy.model, report.train, train.output) == (f"{train.output}/result", train.output, chosen.data.run)
    assert base.model == encode.model == reference.model == train.model
    assert score.images == (base.output, policy.output) == (report.base, report.policy)
    assert report.judge in score.scorers
    # One worker per GPU: one or two machines of eight.
    assert (train.min_workers, train.workers) == (8, 16)
    assert (encode.gpus_per_encoder, reference.gpus_per_copy) == (1, 1)


def test_the_filter_is_the_encoders_and_the_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = CASES["filtered"]
    (encode,), (*_, flag, report) = (
        [parsed(command, monkeypatch) for command in stages.STAGES[stage](chosen)] for stage in ("encode", "evaluate")
    )
    assert asdict(encode.safety) == asdict(flag.safety) == chosen.safety.model_dump()
    assert flag.images == (report.base, report.policy)
    assert not any("flag_images" in word for command in stages.evaluate(given()) for word in command)


def test_what_is_trained_on_is_what_relabel_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = given({"data.label_scorers": ["clip", "pickscore"], "data.labels": "pickscore"})
    (relabel,), (train,) = (
        [parsed(command, monkeypatch) for command in stages.STAGES[stage](chosen)] for stage in ("relabel", "train")
    )
    assert (relabel.source, relabel.store) == (chosen.data.source, chosen.data.store)
    assert (relabel.scorer, relabel.weights, relabel.speed.gpus_per_copy) == (("clip", "pickscore"), ("published",), 1)
    assert train.data.labels == "pickscore"
    assert parsed(stages.train(given())[0], monkeypatch).data.labels == "human"


@pytest.mark.parametrize("fraction", [0.0, 0.00001, 1.0])
def test_the_share_of_bad_rows_is_the_encoders(fraction: float, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = stages.encode(given({"data.max_bad_fraction": fraction}))
    assert parsed(command, monkeypatch).max_bad_fraction == fraction


def test_without_gpus_a_machine_is_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = CASES["cpu"]
    train = parsed(stages.train(chosen)[0], monkeypatch)
    assert (train.min_workers, train.workers) == (1, 2)
    assert parsed(stages.encode(chosen)[0], monkeypatch).gpus_per_encoder is None


def test_the_presets_are_those_that_every_stage_has() -> None:
    from training.reference import reference_config
    from training.settings import presets

    every = (
        set(encode_config.PRESETS) & set(reference_config.PRESETS) & set(generate_config.PRESETS) & set(presets.PRESETS)
    )
    assert set(MODELS) == every


@pytest.mark.parametrize("stage", stages.STAGES)
def test_a_command_reaches_the_driver_through_both_shells(stage: str, tmp_path: Path) -> None:
    """The operator writes the entry point into a shell script that calls ray; Ray joins what it gets for another."""
    chosen, noted = given(), tmp_path / "noted"
    note = f"import json, sys; open({str(noted)!r}, 'a').write(json.dumps(sys.argv[1:]) + chr(10))"
    for name, code in (("python", note), ("ray", "import shlex, sys; print(shlex.join(sys.argv[1:]))")):
        program = tmp_path / name
        program.write_text(f"#!{sys.executable}\n{code}\n")
        program.chmod(0o755)
    surroundings = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    entrypoint = manifests.ray_job(chosen, stage, "2.60.0")["spec"]["entrypoint"]
    submitted = subprocess.run(
        ["bash", "-ce", f"ray {entrypoint} ;"], env=surroundings, capture_output=True, text=True, check=True
    )
    subprocess.run(["bash", "-c", submitted.stdout], env=surroundings, check=True)
    ran = [["python", *json.loads(line)] for line in noted.read_text().splitlines()]
    assert ran == stages.STAGES[stage](chosen)


def test_evaluation_stops_at_the_first_failure() -> None:
    joined = stages.entrypoint([["false"], ["echo", "reached"]])
    done = subprocess.run(joined, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize(
    ("state", "applied"),
    [
        ("Complete SUCCEEDED", list(stages.STAGES)),
        ("Complete STOPPED", ["encode"]),  # so KubeRay tells of a job that was stopped
        ("Failed FAILED", ["encode"]),
    ],
)
def test_the_documented_loop_goes_on_only_after_success(state: str, applied: list[str], tmp_path: Path) -> None:
    (loop,) = re.findall(r"```\n(cd [^`]*for stage in [^`]*)```", (ROOT / "docs" / "deploy.md").read_text())
    (tmp_path / "runs" / "deploy" / "kubernetes").mkdir(parents=True)
    deployment, job = state.split()
    answers = (
        f"apply*) echo $3 >> {tmp_path}/applied ;; *.jobStatus*) echo {deployment} {job} ;; *) echo {deployment} ;;"
    )
    for name, code in (("kubectl", f'case "$*" in {answers} esac'), ("sleep", "kill $PPID")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / name).chmod(0o755)
    subprocess.run(["bash", "-c", loop], cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert (tmp_path / "applied").read_text().split() == [f"{stage}.rayjob.yaml" for stage in applied]
