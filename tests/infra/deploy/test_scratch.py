"""What a stage copies to a node's disk is compared with the room that its pods have, before anything is rendered."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.base.errors import UserError
from infra.base.files import ROOT
from infra.deploy import render, scratch
from infra.deploy.render import RenderConfig
from infra.deploy.values import Values
from infra.planning import plan_flags

EXAMPLE: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "deploy" / "values.yaml").read_text())


def chosen(preset: str, size: str = EXAMPLE["machines"]["a10g"]["scratch"]) -> dict[str, Any]:
    """Return the example with another preset, and another scratch of the machine that computes the reference."""
    a10g = EXAMPLE["machines"]["a10g"] | {"scratch": size}
    return EXAMPLE | {"preset": preset, "machines": EXAMPLE["machines"] | {"a10g": a10g}}


def test_the_example_holds_the_index_of_its_store() -> None:
    needed = 24 * 851_293 + 20 * (58_960 + 1)  # of pairs, and of captions with the empty one
    assert f"{needed / 1e9:.4g} GB" == "0.02161 GB"
    told = "scratch: the index of a store of 851,293 pairs takes 0.02161 GB on each node, in the stages reference and"
    assert scratch.check(Values.model_validate(chosen("sdxl")), "mine.yaml").startswith(told)


def test_a_scratch_below_the_index_is_refused_before_anything_is_rendered(tmp_path: Path) -> None:
    # 20 x 2^30 = 21.47 x 10^9 bytes, and the index of a billion pairs takes 24 bytes of each
    file = tmp_path / "mine.yaml"
    billion = {"data": EXAMPLE["data"] | {"pairs": 10**9}}
    file.write_text(yaml.safe_dump(chosen("sdxl", "20Gi") | billion))
    refusal = "mine.yaml: machines.a10g.scratch: 20Gi is 21.47 GB, but the index of a store of 1,000,000,000"
    with pytest.raises(UserError, match=re.escape(refusal) + ".* 24 GB on each node of stage reference"):
        render.main(RenderConfig(values=str(file), output=str(tmp_path / "deploy")))
    assert not (tmp_path / "deploy").exists()


def test_a_preset_whose_settings_are_out_of_reach_is_rendered_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = plan_flags.PRESETS["sd3"]
    monkeypatch.setitem(plan_flags.PRESETS, "sd3", replace(preset, model="nobody/nothing"))  # has no shipped settings
    told = scratch.check(Values.model_validate(chosen("sd3")), "mine.yaml")  # the tests ask no Hub
    assert told.startswith("scratch: it is not checked, because the store's size is unknown (--model nobody/nothing")
