"""What a command prints on Ray is what it prints in its own process: no line of Ray's, of its workers' or of a library.

tests/test_your_pairs.py counts the lines of commands in their own process; docs/measurements.md lists both.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from support.material import Submit

from infra.base.files import ROOT

pytestmark = pytest.mark.long
LIBRARIES = re.compile(
    r"\bray\b|raylet|pid=\d|core_worker|TrainingReport|Traceback|\b(INFO|WARNING|ERROR)\b|UserWarning|FutureWarning",
    re.IGNORECASE,
)
OUR_OWN = re.compile(r"^engine: Ray, as ")  # names Ray
OF_SUBMIT = re.compile(  # what `ray job submit` prints of itself, without its colours
    r"^(-+|Job (submission server|'raysubmit_)|Next steps|\s+(Query|Request|ray job)|Tailing logs|"
    r"20\d\d-.*\s(INFO|SUCC)\s)"
)
COLOUR = re.compile(r"\x1b\[\d*m")


def run(
    script: str, *flags: str, check: bool = True, named: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, by default without a cluster that is named."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {**named}
    done = subprocess.run(
        [sys.executable, script, *flags],
        cwd=ROOT,
        env=surroundings | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stderr[-8000:]
    return done


def foreign(text: str) -> list[str]:
    """List the lines that a library wrote."""
    return [line for line in text.splitlines() if LIBRARIES.search(line) and not OUR_OWN.match(line)]


def lines(done: subprocess.CompletedProcess[str]) -> int:
    """Count the lines of a command, all of which must be its own."""
    assert [line for line in done.stderr.splitlines() if not line.startswith("warning: ")] == []
    assert foreign(done.stdout) == []
    return len(done.stdout.splitlines())


def of_job(done: subprocess.CompletedProcess[str]) -> int:
    """Count the lines of a command inside a job, without those of `ray job submit`."""
    plain = COLOUR.sub("", done.stdout).splitlines()
    own = [line for line in plain if line.strip() and not OF_SUBMIT.match(line)]
    assert foreign("\n".join(own)) == []
    return len(own)


def test_a_cluster_of_the_commands_own_adds_no_line(
    raw_pairs: Path, small_world: str, training_flags: list[str], tmp_path: Path
) -> None:
    encode = ["--source", str(raw_pairs), "--model", small_world]
    own = run("pipelines/encode_latents.py", *encode, "--store", str(tmp_path / "own"))
    on_ray = run("pipelines/encode_latents.py", *encode, "--store", str(tmp_path / "copies"), "--encoders", "2")
    assert lines(on_ray) <= lines(own) + 2  # beside the same lines, how many pairs and captions are written so far
    train = ["training/train_dpo.py", *training_flags, "--steps", "12", "--output"]
    own = run(*train, str(tmp_path / "one"))
    on_ray = run(*train, str(tmp_path / "two"), "--workers", "2")
    assert lines(on_ray) == lines(own)


def test_a_named_cluster_adds_no_line(
    raw_pairs: Path,
    small_world: str,
    encoded_store: Path,
    training_flags: list[str],
    ray_environment: dict[str, str],
    submit: Submit,
    tmp_path: Path,
) -> None:
    store = str(tmp_path / "store")
    shutil.copytree(encoded_store, store, ignore=shutil.ignore_patterns(".lock"))
    named = {name: value for name, value in ray_environment.items() if name.startswith("RAY_")}
    images = str(tmp_path / "images")
    model = ["--model", small_world]
    drawing = ["--limit", "4", "--sampling-steps", "2"]
    most = {
        "labelers/relabel.py": (30, ["--store", store, "--source", str(raw_pairs), "--scorer", "pickscore"]),
        "pipelines/encode_reference.py": (6, [*model, "--store", store, "--draws", "1", "--cache", str(tmp_path)]),
        "pipelines/generate.py": (6, [*model, "--output", images, *drawing]),
        "pipelines/score.py": (6, ["--images", images, "--scorers", "aesthetics"]),
    }
    for script, (limit, flags) in most.items():
        assert lines(run(script, *flags, named=named)) <= limit, script
    train = [*training_flags, "--steps", "12", "--workers", "2", "--output"]
    assert lines(run("training/train_dpo.py", *train, str(tmp_path / "named"), named=named)) <= 14
    assert of_job(submit("training/train_dpo.py", *train, str(tmp_path / "job"))) <= 14


def test_a_refusal_on_ray_is_one_line_and_verbose_brings_rays_own_back(
    raw_pairs: Path, small_world: str, tmp_path: Path
) -> None:
    encode = ["pipelines/encode_latents.py", "--source", str(raw_pairs), "--model", small_world, "--encoders", "2"]
    refused = run(*encode, "--store", str(tmp_path / "a"), "--encoders", "50", check=False)
    errors = [line for line in refused.stderr.splitlines() if not line.startswith("warning: ")]  # of repeated pairs
    assert (refused.returncode, len(errors)) == (2, 1)
    assert errors[0].startswith("error: this job needs ")
    told = run(*encode, "--store", str(tmp_path / "b"), "--verbose")
    assert foreign(told.stdout + told.stderr)
