"""A component's fingerprint covers its settings and default weights, whole or in parts, and nothing beside them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.faulty_s3 import Fault, faulty
from support.material import MODEL

from infra.base import (
    files,
    torchvision_guard,  # noqa: F401  (before diffusers)
    weight_names,
)
from infra.base.errors import UserError
from infra.base.models import ADAPTERS, adapters_folder, default_weights, fingerprint, local_folder
from pipelines.latents import identity

from diffusers import DiffusionPipeline  # isort: skip


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


def renamed(folder: Path, kind: str) -> Path:
    """Give the weights of a copy of the embedded model the names of a variant."""
    shutil.copytree(MODEL, folder)
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(f"{path.name.removesuffix('.safetensors')}.{kind}.safetensors"))
    return folder


@pytest.mark.parametrize("kind", ["fp16", "bf16", "non_ema"])
def test_weights_that_exist_only_as_a_variant_are_taken_and_this_is_said(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = renamed(tmp_path / "model", kind)
    taken = local_folder(str(folder))
    said = capsys.readouterr().err.splitlines()
    assert [line.removeprefix(f"{folder}/") for line in said] == [
        f"{part}: has no weights but those of the variant {kind}, which are taken"
        for part in ("text_encoder", "unet", "vae")
    ]
    assert [fingerprint(taken, part) for part in ("unet", "vae")] == [
        fingerprint(MODEL, part) for part in ("unet", "vae")
    ]
    assert DiffusionPipeline.from_pretrained(taken, use_safetensors=True).unet.config["sample_size"] == 8
    assert local_folder(str(folder)) == taken
    save_file({"x": torch.ones(1)}, folder / "vae" / f"diffusion_pytorch_model.{kind}.safetensors")
    assert local_folder(str(folder)) != taken  # the file behind the link is another


def test_a_variant_in_parts_is_taken_with_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = tmp_path / "model"
    pipeline = DiffusionPipeline.from_pretrained(MODEL)
    pipeline.save_pretrained(folder, variant="fp16", max_shard_size="40KB")
    assert len(list((folder / "unet").glob("*.fp16-*.safetensors"))) > 1
    opened = DiffusionPipeline.from_pretrained(local_folder(str(folder)), use_safetensors=True)
    for part in ("unet", "vae", "text_encoder"):
        wanted = getattr(pipeline, part).state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in getattr(opened, part).state_dict().items())


def test_of_several_variants_the_most_exact_is_taken(tmp_path: Path) -> None:
    names = [f"model.{kind}.safetensors" for kind in ("fp16", "bf16", "ema")]
    assert weight_names.only_variant(tmp_path, names) == "bf16"
    assert weight_names.only_variant(tmp_path, [*names, "model.safetensors"]) is None
    with pytest.raises(UserError, match="has its weights as ema and as non_ema; keep one of them"):
        weight_names.only_variant(tmp_path, ["model.ema.safetensors", "model.non_ema.safetensors"])


def test_the_command_in_the_refusal_of_pickles_converts_them(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    DiffusionPipeline.from_pretrained(MODEL).save_pretrained(folder, safe_serialization=False)
    encoder = folder / "text_encoder" / "model.safetensors"  # transformers writes no pickles any more
    torch.save(load_file(encoder), encoder.with_name("pytorch_model.bin"))
    encoder.unlink()
    with pytest.raises(UserError, match=r"unet: no safetensors weights but diffusion_pytorch_model\.bin") as refused:
        default_weights(folder, "unet")
    command = str(refused.value).split('python -c "')[1].split('"')[0]
    exec(command, {})
    for part in ("unet", "text_encoder"):
        assert identity.fingerprint(tmp_path / "model-safetensors", part) == identity.fingerprint(MODEL, part)
