"""A component's fingerprint covers its settings and default weights, whole or in parts, and nothing beside them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from infra.models import fingerprint


def test_other_variants_of_the_weights_do_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder_3"
    folder.mkdir()
    (folder / "config.json").write_text('{"d_model": 24, "transformers_version": "1"}')
    for part in (1, 2):
        save_file({"x": torch.tensor([part])}, folder / f"model-0000{part}-of-00002.safetensors")
    before = fingerprint(tmp_path, "text_encoder_3")
    for name in ("model.fp16", "model.fp16-00001-of-00002", "model-00001-of-00002.fp16", "model.non_ema"):
        (folder / f"{name}.safetensors").write_bytes(b"other")
    (folder / "config.json").write_text('{"d_model": 24, "transformers_version": "2"}')
    assert fingerprint(tmp_path, "text_encoder_3") == before
    save_file({"x": torch.tensor([3])}, folder / "model-00002-of-00002.safetensors")
    assert fingerprint(tmp_path, "text_encoder_3") != before
