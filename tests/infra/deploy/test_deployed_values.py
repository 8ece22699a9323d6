"""The file of values: what is wrong in it is refused by name, and what is rendered reads back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.deployed import SHARED, VALUES, changed_values, given

from infra.base.errors import UserError
from infra.deploy import render, scratch, values
from infra.deploy.render import RenderConfig


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"namespace": "Alignment"}, "namespace"),
        ({"preset": "sd16"}, "sd16 is no model's preset; give one of sd15, sd21"),
        ({"image": "registry.example.com/diffusion-dpo:latest"}, "image"),
        ({"data.source": "s3://bucket/$(id)"}, "data.source"),
        ({"data.store": "s3://bucket/a store"}, "data.store"),
        ({"data.run": "relative/run"}, "data.run"),
        ({"data.source": "hf://datasets/$(id)"}, "data.source"),
        ({"data.source": "too/many/parts"}, "data.source"),
        ({"data.source": "--help"}, "data.source"),
        (
            {"data.run": "/mnt/shared/run"},
            "data.run: /mnt/shared/run is on no disk that all pods reach; give an s3:// path",
        ),
        (
            {"shared": SHARED, "data.run": "/other/run"},
            "data.run: /other/run is not on the shared disk; give a path below /mnt/shared",
        ),
        (
            {"shared": SHARED, "safety.prompt_blocklist": "/other/words.txt"},
            "safety.prompt_blocklist: /other/words.txt is not on the shared disk; give a path below /mnt/shared",
        ),
        ({"endpoint": "https://key:secret@minio"}, "endpoint"),
        ({"stages.train.workers": {"min": 3, "max": 2}}, "stages.train.workers: min 3 is above max 2"),
        (
            {"stages.encode.workers": {"min": 1, "max": 2}},
            "encode: min and max differ, but only train takes machines that come later",
        ),
        ({"stages.train.machine": "b200"}, "train: machine 'b200' is not under machines; choose one of"),
        ({"stages.train.machine": "head"}, "train: machine 'head' has 0 GPUs"),
        ({"data.labels": "clip"}, "data: labels 'clip': no stage makes this label set; choose one of human, pickscore"),
        ({"data.max_bad_fraction": 1.5}, "data.max_bad_fraction"),
        ({"safety.prompt_blocklist": "words.txt"}, "safety.prompt_blocklist"),
        ({"safety.safety_checker": "a $(b)"}, "safety.safety_checker"),
        ({"safety.safety_checker": "s3://bucket/checker"}, "safety.safety_checker"),
        (
            {"safety.safety_revision": "main"},
            "safety: safety_revision is given without a Hub name",
        ),
        ({"stop_seconds": 20}, "stop_seconds: Input should be greater than or equal to 30"),
        ({"ttl": 3}, "ttl: Extra inputs are not permitted"),
    ],
)
def test_bad_values_are_refused_by_file_and_name(changed: dict[str, Any], refusal: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(changed_values(changed)))
    with pytest.raises(UserError, match=re.escape("mine.yaml: ") + ".*" + re.escape(refusal)):
        values.read(str(file))


@pytest.mark.parametrize("text", ["a: [", "", "- 1"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml: "):
        values.read(str(tmp_path / "mine.yaml"))
    with pytest.raises(UserError, match="there is no such file"):
        values.read(str(tmp_path / "none.yaml"))


def test_what_is_rendered_reads_back_and_names_its_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render.main(RenderConfig(output=str(tmp_path)))
    written = {str(path.relative_to(tmp_path)): yaml.safe_load(path.read_text()) for path in tmp_path.rglob("*.yaml")}
    assert written == render.documents(given())
    lines = [str(tmp_path / name) for name in render.documents(given())]
    lines += [*render.bounds(given()), scratch.check(given(), str(VALUES))]
    assert capsys.readouterr().out.splitlines() == lines
    assert values.read(str(tmp_path / "values.yaml")) == given()
    for name, document in written.items():
        if name.startswith("kubernetes/"):
            assert document["metadata"].get("namespace") == "alignment"
    assert not any(re.search(r"[&*]id\d", path.read_text()) for path in tmp_path.rglob("*.yaml"))  # no aliases
