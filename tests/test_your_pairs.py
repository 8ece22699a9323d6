"""docs/your-pairs.md is run command by command, on synthetic pairs and with the embedded world as the model."""

from __future__ import annotations

import io
import pkgutil
import re
import shlex
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.material import rendered_pairs

from infra.base.files import ROOT

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
PAGE = ROOT / "docs" / "your-pairs.md"
# What stands on the page, and what takes its place here: the page's models are published ones.
SMALL = {
    "--preset sd15-lora": "--model infra/world/model --lora-rank 4 --global-batch 8 --micro-batch 8 --sampling-steps 2",
    "--preset sd15": "--model infra/world/model",
    "--steps 40 --checkpoint-every 20": "--steps 2 --checkpoint-every 1",
}
DRAWING = "--sampling-steps 2"
MOST_LINES = {
    "dpo-import": 3,
    "dpo-encode": 26,
    "dpo-train": 14,
    "dpo-generate": 8,
    "dpo-evaluate": 16,
}  # of a terminal


def commands() -> list[str]:
    """Return the page's commands."""
    blocks = re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("dpo-")]


def write_own_pairs(folder: Path) -> None:
    """Write twenty comparisons: true renders of several shapes, some with alpha, two of them ties."""
    (folder / "photos").mkdir(parents=True)
    lines = ["caption,image_0,image_1,label_0"]
    for number, row in enumerate(rendered_pairs(20)):
        names = []
        for slot in (0, 1):
            image = Image.open(io.BytesIO(row[f"jpg_{slot}"])).convert("RGBA")
            if number % 3 == 0:
                image = image.resize((64, 96))
            elif number % 3 == 1:
                image = image.resize((96, 64))
            if number % 4 == 0:
                image.putalpha(Image.fromarray(np.full(image.size[::-1], 128, np.uint8)))
            names.append(f"{number}-{slot}.png")
            image.save(folder / "photos" / names[-1])
        lines.append(f"{row['caption']},{names[0]},{names[1]},{row['label_0']:g}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    (folder / "prompts.txt").write_text("a big red circle on a teal background\n")


@pytest.mark.slow
def test_the_page_runs_as_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    write_own_pairs(folder)
    monkeypatch.chdir(folder)
    scripts = []
    for words in commands():
        for there, here in SMALL.items():
            words = words.replace(there, here)
        script, *flags = shlex.split(words)
        if script == "dpo-evaluate":
            flags = [flag.replace("--model", "--base") for flag in flags]
        if script in ("dpo-generate", "dpo-evaluate"):
            flags += shlex.split(DRAWING)
        monkeypatch.setattr(sys, "argv", [script, *flags])
        pkgutil.resolve_name(SCRIPTS[script])()
        scripts.append(script)
        said = capfd.readouterr()
        assert [line for line in said.err.splitlines() if not line.startswith("warning: ")] == []
        printed = said.out.splitlines()
        assert len(printed) <= MOST_LINES[script], said.out
        assert "; next: dpo-" in printed[-1] or script == "dpo-evaluate"
    assert scripts == ["dpo-import", "dpo-encode", "dpo-train", "dpo-generate", "dpo-evaluate"]
    named = re.findall(r"`((?:store|run|images|compared)/[\w/.-]+)`", PAGE.read_text())
    assert {"store/contact-sheet.html", "run/index.html", "images/gallery.html", "compared/report.html"} <= set(named)
    for name in named:
        assert (folder / name).exists(), name


@pytest.mark.slow
def test_the_page_s_lines_merge_a_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merged weight is the base's plus B @ A, which hold the adapters' scale."""
    from safetensors.torch import load_file
    from support.trained_models import lora_result

    lora, _ = lora_result(tmp_path / "result", alpha=8)
    (tmp_path / "base").symlink_to(ROOT / "infra/world/model")
    adapters = lora / "pytorch_lora_weights.safetensors"
    adapters.rename(tmp_path / "lora.safetensors")
    (lines,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, str(PAGE), "exec"), {})
    weights = load_file(tmp_path / "lora.safetensors")
    name = next(key.removesuffix(".lora_A.weight") for key in weights if key.endswith(".lora_A.weight"))
    file = "unet/diffusion_pytorch_model.safetensors"
    layer = f"{name.removeprefix('unet.')}.weight"
    added = weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
    merged = load_file(tmp_path / "merged" / file)[layer]
    assert np.allclose(merged, load_file(tmp_path / "base" / file)[layer] + added, atol=1e-6)
    assert float(added.abs().max()) > 0.01
