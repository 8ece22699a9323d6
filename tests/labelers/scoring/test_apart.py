"""A scorer in another environment: a real virtual environment with a judge of its own, and what may go wrong there."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from infra.base.errors import UserError
from infra.base.files import ROOT
from labelers.labels import relabel
from labelers.scoring import apart, apart_process, scorers
from labelers.scoring.endpoint_config import EndpointConfig
from pipelines.latents import label_files

JUDGE = """
import os, sys
print("a package that prints what nobody asked for")

def red(images, captions):
    print("and again")
    assert "PYTHONPATH" not in os.environ and "JUDGE_API_KEY" not in os.environ
    assert not any("infra" in os.listdir(path) for path in sys.path if os.path.isdir(path))
    if "end" in captions:
        os._exit(7)
    if "fail" in captions:
        raise ValueError("not this one\\nsecond line")
    if "large" in captions:
        raise MemoryError("too large")
    return [float("nan") if caption == "odd" else image.getpixel((0, 0))[0] / 255
            for image, caption in zip(images, captions)]
"""
RED = Image.new("RGB", (5, 3), (255, 0, 0))
DARK = Image.new("RGB", (2, 7), (51, 0, 0))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the Python of an environment that has Pillow and a judge, and nothing else."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "their_judge.py").write_text(JUDGE)
    (site / "PIL").symlink_to(Path(PIL.__file__).parent)
    for bundled in Path(PIL.__file__).parents[1].glob("pillow.libs"):
        (site / bundled.name).symlink_to(bundled)
    return str(folder / "bin" / "python")


@pytest.fixture
def scorer(python: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUDGE_API_KEY", "sk-of-another-judge")
    name = "their_judge:red"
    known = scorers.described([name], (), EndpointConfig(), [f"{name}={python}"])
    made = scorers.load(name, known[name])
    yield made
    made.process.end()  # type: ignore[attr-defined]


def test_images_go_there_and_scores_come_back(scorer: Any) -> None:
    scores = scorer.score([RED, DARK, RED], ["a", "ünïcode", "odd"])
    np.testing.assert_array_equal(scores, np.array([1.0, 0.2, np.nan], np.float32))
    assert scorer.score([DARK], ["a"]).tolist() == [np.float32(0.2)]
    assert scorer.temperature is None


def test_what_is_raised_there_is_raised_here_and_it_goes_on(scorer: Any) -> None:
    with pytest.raises(RuntimeError, match=r"^ValueError: not this one$"):
        scorer.score([RED], ["fail"])
    with pytest.raises(MemoryError, match="too large"):
        scorer.score([RED], ["large"])
    assert scorer.score([RED], ["a"]).tolist() == [1.0]
    with pytest.raises(UserError, match="its process ended with code 7; what it said is above"):
        scorer.score([RED], ["end"])


def test_other_packages_on_a_node_are_refused(scorer: Any) -> None:
    known = json.loads(scorer.apart.as_json())
    assert set(known["versions"]) == {"python"}
    other = apart.ApartScorer(json.dumps(known | {"versions": {"python": "2.7"}}))
    with pytest.raises(UserError, match=r"other packages on this node .* than where the job was started"):
        other.score([RED], ["a"])


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("their_judge:red", ["their_judge:red=/nowhere/bin/python"], "cannot be started .*give the bin/python of a"),
        ("their_judge:red", ["other=PYTHON"], "--scorer-python other=PYTHON: give NAME=PATH for one of the scorers"),
        ("imagereward", ["imagereward=PYTHON"], "cannot be loaded there: PackageNotFoundError: .*image-reward"),
        ("imagereward", [], "scorer imagereward: runs in an environment of its own; make one and give it as"),
    ],
)
def test_what_cannot_work_is_refused(python: str, name: str, flags: list[str], message: str) -> None:
    pythons = [flag.replace("=PYTHON", f"={python}") for flag in flags]
    with pytest.raises(UserError, match=message.replace("=PYTHON", f"={python}")):
        scorers.load(name, scorers.described([name], (), EndpointConfig(), pythons)[name])


def test_a_judge_that_is_not_there_is_named(python: str) -> None:
    name = "no_such_module:judge"
    known = scorers.described([name], (), EndpointConfig(), [f"{name}={python}"])
    with pytest.raises(UserError, match="cannot be loaded there: ModuleNotFoundError: No module named 'no_such"):
        scorers.load(name, known[name]).score([RED], ["a"])


def test_weights_are_part_of_what_it_is(python: str, tmp_path: Path) -> None:
    name = "their_judge:red"
    (tmp_path / "weights").write_text("one")
    prints = set()
    for content in ("one", "two"):
        (tmp_path / "weights").write_text(content)
        prints.add(apart.find(name, python, str(tmp_path / "weights")).fingerprint)
    prints.add(apart.find(name, python, None).fingerprint)
    assert len(prints) == 3
    with pytest.raises(UserError, match="no such local file or folder"):
        apart.find(name, python, str(tmp_path / "absent"))


@pytest.mark.usefixtures("noted_jobs")
def test_a_store_is_labelled_by_it(python: str, raw_pairs: Path, copied_store: Path) -> None:
    name = "their_judge:red"
    relabel.main(
        relabel.RelabelConfig(
            scorer=(name, "oracle"), scorer_python=(f"{name}={python}",), source=str(raw_pairs), store=str(copied_store)
        )
    )
    table, _ = label_files.read_labels(str(copied_store), "red")
    assert table.num_rows == label_files.read_labels(str(copied_store), "oracle")[0].num_rows
    assert label_files.read_labels_manifest(str(copied_store), "red")["provenance"]["python"] == python
    assert 0 <= table["score_0"].to_numpy().min() < table["score_0"].to_numpy().max() <= 1


def test_a_request_that_ends_within_an_image_is_no_image() -> None:
    with pytest.raises(EOFError, match="ended within an image"):
        apart_process.read_images(io.BytesIO(b"12345"), [(1, 2)])
