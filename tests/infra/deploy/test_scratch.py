"""What a stage copies to a node's disk is compared with the room that its pods have, before anything is rendered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.base.errors import UserError
from infra.base.files import ROOT
from infra.deploy import render, scratch
from infra.deploy.render import RenderConfig
from infra.deploy.values import Values

EXAMPLE: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "deploy" / "values.yaml").read_text())


def chosen(preset: str, size: str = EXAMPLE["machines"]["a10g"]["scratch"]) -> dict[str, Any]:
    """Return the example with another preset, and another scratch of the machine that computes the reference."""
    a10g = EXAMPLE["machines"]["a10g"] | {"scratch": size}
    return EXAMPLE | {"preset": preset, "machines": EXAMPLE["machines"] | {"a10g": a10g}}


@pytest.mark.parametrize(
    ("preset", "latent", "caption", "size"),
    [
        ("sd15", 4 * 64 * 64, 77 * 768, "62.76 GB"),
        ("sdxl", 4 * 128 * 128, 77 * (768 + 1280) + 1280, "241.9 GB"),
    ],
)
def test_the_example_holds_the_store_of_each_preset(preset: str, latent: int, caption: int, size: str) -> None:
    needed = 2 * (851_293 * 2 * latent + (58_960 + 1) * caption)  # float16; two images a pair, and the empty caption
    assert f"{needed / 1e9:.4g} GB" == size
    told = f"scratch: preset {preset}'s store of 851,293 pairs takes {size} on each node, in the stages reference and"
    assert scratch.check(Values.model_validate(chosen(preset)), "mine.yaml").startswith(told)


def test_a_scratch_below_the_store_is_refused_before_anything_is_rendered(tmp_path: Path) -> None:
    # 200 x 2^30 = 214.7 x 10^9 bytes, and SDXL's store takes 241.9 x 10^9.
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(chosen("sdxl", "200Gi")))
    refusal = "mine.yaml: machines.a10g.scratch: 200Gi is 214.7 GB, but preset sdxl's store of 851,293 pairs takes"
    with pytest.raises(UserError, match=re.escape(refusal) + ".* 241.9 GB on each node of stage reference"):
        render.main(RenderConfig(values=str(file), output=str(tmp_path / "deploy")))
    assert not (tmp_path / "deploy").exists()


def test_a_preset_whose_settings_are_out_of_reach_is_rendered_and_told() -> None:
    told = scratch.check(Values.model_validate(chosen("flux")), "mine.yaml")  # the tests ask no Hub
    assert told.startswith(
        "scratch: it is not checked, because the store's size is unknown (--model black-forest-labs/"
    )
