"""Judges with packages of their own score what their packages score, on tiny random weights of the packages' classes.

Skipped where the packages are not; docs/scorers.md has the lines that install them:

    export IMAGEREWARD_PYTHON=/envs/imagereward/bin/python CYCLEREWARD_PYTHON=... HPSV3_PYTHON=...
    .venv/bin/python -m pytest -rs -m long THIS_FILE
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import tiny_judges

from infra.base.errors import UserError
from labelers.scoring import scorers
from labelers.scoring.endpoint_config import EndpointConfig

pytestmark = pytest.mark.long
SHAPES = ((300, 200), (120, 333), (224, 224), (64, 48))  # widths and heights
CAPTIONS = ("a red star", "a blue star, big!", "stars " * 60, "unheard words")


def shrunk_environment(python: str, folder: Path) -> str:
    """Make an environment that has all packages of a judge's, and builds their towers with few blocks."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    packages = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "of_the_judge.pth").write_text(f"{packages}\n")
    (site / "tiny_judges.py").write_text(Path(tiny_judges.__file__).read_text())
    (site / "sitecustomize.py").write_text("import sys, tiny_judges\nsys.meta_path.insert(0, tiny_judges.Shrink())\n")
    return str(folder / "bin" / "python")


def images_in(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    paths = [str(folder / f"{number}.png") for number in range(len(SHAPES))]
    for path, (width, height) in zip(paths, SHAPES, strict=True):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)
    return paths


def called(python: str, *arguments: str) -> str:
    done = subprocess.run(
        [python, "-I", "-m", "tiny_judges", *arguments], check=False, capture_output=True, text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", ["imagereward", "cyclereward", "hpsv3"])
def test_a_judge_scores_as_its_package_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"{name.upper()}_PYTHON"
    installed = os.environ.get(variable)
    if not installed:
        pytest.skip(f"needs the package: set {variable} (see the head of this file)")
    python = shrunk_environment(installed, tmp_path / "venv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    weights = tmp_path / "weights"
    weights.mkdir()
    called(python, "weights", name, str(weights))
    paths = images_in(tmp_path)
    theirs = json.loads(
        called(python, "scores", name, str(weights), json.dumps({"images": paths, "captions": CAPTIONS}))
    )
    known = scorers.described([name], [f"{name}={weights}"], EndpointConfig(), [f"{name}={python}"])
    judge = scorers.load(name, known[name])
    images = [Image.open(path).convert("RGB") for path in paths]
    ours = judge.score(images, CAPTIONS)
    print(f"{name}: package {theirs}; largest difference {np.abs(ours - theirs).max():.2e}")
    assert np.ptp(theirs) > 1e-3  # the judge tells these images apart
    # HPSv3 computes in bfloat16, where a batch's padding moves the last bits; the others in float32.
    assert ours.tolist() == pytest.approx(theirs, rel=1e-3 if name == "hpsv3" else 1e-6, abs=1e-6)
    judge.process.end()  # type: ignore[attr-defined]
    if name == "hpsv3":
        return  # its own loader is strict
    (file,) = (*weights.glob("*.pt"), *weights.glob("*.pth"))
    called(python, "lack", name, str(file))
    with pytest.raises(UserError, match=r"not the weights of .*: 1 tensors differ: mlp"):
        scorers.load(name, known[name]).score(images, CAPTIONS)
