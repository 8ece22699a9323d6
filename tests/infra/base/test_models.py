"""A component's fingerprint covers its settings and default weights, whole or in parts, and nothing beside them."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file
from support.faulty_s3 import Fault, faulty
from support.material import MODEL

from infra.base import files
from infra.base.errors import UserError
from infra.base.models import ADAPTERS, adapters_folder, fingerprint, local_folder


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


def test_a_copy_that_s3_breaks_off_is_one_line_and_begun_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/{tmp_path.name}/model"
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for name in ("model_index.json", "unet/config.json"):
        files.write_bytes(f"{place}/{name}", (MODEL / name).read_bytes())

    def fault(method: str, path: str) -> Fault:
        return "SlowDown" if method == "GET" and path.endswith("/unet/config.json") else None

    with faulty(os.environ["AWS_ENDPOINT_URL"], fault) as url, monkeypatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", url)
        patched.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(UserError, match=rf"^--base {place}: could not be copied to this node \(.*\)$"):
            local_folder(place, flag="--base")
    assert (local_folder(place) / "unet/config.json").read_bytes() == (MODEL / "unet/config.json").read_bytes()


def test_a_full_disk_names_what_generate_and_score_have(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/{tmp_path.name}/model"
    files.write_bytes(f"{place}/model_index.json", b"{}")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("infra.base.node_cache.shutil.disk_usage", Mock(return_value=Mock(free=1)))
    with pytest.raises(UserError, match=rf"^{tmp_path}/.* 2 bytes are needed for {place}, 1 are free; set TMPDIR to"):
        local_folder(place)


def test_names_on_s3_that_lead_out_are_refused_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    listed = [("model_index.json", 2, 0), ("../../planted.json", 2, 0)]
    monkeypatch.setattr(files, "stamps", lambda _: listed)
    with pytest.raises(UserError, match=r"^s3://bucket/model: names the file '\.\./\.\./planted\.json', which may lie"):
        local_folder("s3://bucket/model")
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_on_s3_is_refused(bucket: str, tmp_path: Path) -> None:
    place = f"{bucket}/{tmp_path.name}"
    with pytest.raises(UserError, match=f"--base {place}: holds no diffusers model"):
        local_folder(place, flag="--base")
    files.write_bytes(f"{place}/{ADAPTERS}", b"adapters")
    with pytest.raises(UserError, match="holds adapters"):
        local_folder(place)
    folder = adapters_folder("--lora", place)
    assert (folder / ADAPTERS).read_bytes() == b"adapters"
    assert adapters_folder("--lora", place) == folder
    with pytest.raises(UserError, match=rf"^--lora {place}/no: holds no {ADAPTERS}: no LoRA result$"):
        adapters_folder("--lora", f"{place}/no")
