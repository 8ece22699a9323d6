"""A component's fingerprint covers its settings and default weights, whole or in parts, and nothing beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import MODEL
from safetensors.torch import save_file

from infra import files
from infra.errors import UserError
from infra.models import ADAPTERS, adapters_folder, fingerprint, local_folder


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


def test_a_model_on_s3_is_copied_once_for_what_it_is(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/{tmp_path.name}/result"
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for path in MODEL.rglob("*"):
        if path.is_file():
            files.write_bytes(f"{place}/{path.relative_to(MODEL)}", path.read_bytes())
    files.write_bytes(f"{place}/unet/pytorch_model.bin", b"a pickle")
    first = local_folder(place)
    assert {name: (first / name).read_bytes() for name in ("model_index.json", "unet/config.json")} == {
        name: (MODEL / name).read_bytes() for name in ("model_index.json", "unet/config.json")
    }
    assert fingerprint(first, "unet") == fingerprint(MODEL, "unet")
    assert not (first / "unet/pytorch_model.bin").exists()
    with monkeypatch.context() as watched:
        watched.setattr(files, "copy", None)  # what is there is not copied again
        assert local_folder(place) == first
    files.write_bytes(f"{place}/facts.json", b"{}")
    second = local_folder(place)
    assert second != first
    assert (second / "facts.json").exists()


def test_what_is_no_model_on_s3_is_refused(bucket: str, tmp_path: Path) -> None:
    place = f"{bucket}/{tmp_path.name}"
    with pytest.raises(UserError, match=f"--base {place}: holds no diffusers model"):
        local_folder(place, flag="--base")
    files.write_bytes(f"{place}/{ADAPTERS}", b"adapters")
    with pytest.raises(UserError, match="holds adapters"):
        local_folder(place)
    with pytest.raises(UserError, match=r"--lora .* a disk that all nodes share"):
        adapters_folder("--lora", place)
