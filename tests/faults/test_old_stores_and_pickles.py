"""Stores of another version, and pickles posing as weights: refused in one sentence before anything is loaded."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.material import MODEL

from infra.base import models
from infra.base.errors import UserError
from pipelines.latents import store
from pipelines.latents.adapters import check_adapters
from pipelines.latents.encoders import LatentEncoder
from training.backbones.backbone import open_backbone
from training.backbones.schedule_config import EVERY
from training.data.staging import stage

pytestmark = pytest.mark.chaos


def manifest() -> dict[str, Any]:
    counts = store.Counts(rows_in=1, ties=0, invalid=0, quarantined=0, kept=1, contradicting=0, prompts=1)
    whole = store.Manifest(
        *("raw", "model", {"vae": "0"}, 64, (4, 8, 8), 1.0, 0.0, "mean", False, {"text_encoder": (16, 64)}),
        *(counts, {}, "0", {}, {}),
    )
    return json.loads(json.dumps(asdict(whole)))


def without(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: kept for key, kept in value.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"schema_version": 0}, "schema version 0; this code reads 1"),
        (lambda m: m | {"schema_version": 2}, "schema version 2; this code reads 1: encode again"),
        (lambda m: without(m, "schema_version"), "another file's content, without schema_version; restore this file"),
        (lambda m: [m], "another file's content, without schema_version; restore this file"),
        (lambda m: without(m, "content_hash"), "not a whole manifest of schema version 1 .*content_hash"),
        (lambda m: without(m, "counts"), "not a whole manifest of schema version 1"),
        (lambda m: m | {"from_tomorrow": 1}, "not a whole manifest of schema version 1 .*from_tomorrow"),
        (lambda m: m | {"counts": {"rows_in": 1}}, "not a whole manifest of schema version 1"),
    ],
)
def test_a_store_of_another_version_is_refused_with_words(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / store.MANIFEST
    path.write_text(json.dumps(manifest()))
    assert store.read_manifest(str(tmp_path)).latent_shape == (4, 8, 8)  # whole, it is read
    path.write_text(json.dumps(change(manifest())))
    for opened in (store.read_manifest, stage):
        with pytest.raises(UserError, match=rf"manifest\.json: {message}"):
            opened(str(tmp_path))


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.target,)


@pytest.fixture
def trapped(tmp_path: Path) -> tuple[Path, Path]:
    """Copy the embedded world's model with a pickle in its VAE's place; return the model and what the pickle makes."""
    folder, target = tmp_path / "model", tmp_path / "made by the pickle"
    shutil.copytree(MODEL, folder)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(pickle.dumps(Hostile(target)))
    return folder, target


def test_a_pickle_named_safetensors_is_refused_before_any_job_and_does_not_run(trapped: tuple[Path, Path]) -> None:
    folder, target = trapped
    with pytest.raises(UserError, match=r"vae/diffusion_pytorch_model\.safetensors: not a readable safetensors file"):
        models.fingerprint(folder, "vae")
    with pytest.raises(OSError, match="safetensors"):  # and were it not refused, it would not run
        LatentEncoder(models.Model(str(folder)), 64, "mean", False, 0, 4, "float32")
    assert not target.exists()
    pickle.loads((folder / "vae" / "diffusion_pytorch_model.safetensors").read_bytes())  # the trap is real
    assert target.exists()


def test_pickled_weights_beside_none_are_not_loaded(trapped: tuple[Path, Path]) -> None:
    folder, target = trapped
    posing = folder / "vae" / "diffusion_pytorch_model.safetensors"
    posing.rename(posing.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"no safetensors weights but .* pickled weights are not loaded"):
        models.fingerprint(folder, "vae")
    with pytest.raises(OSError, match="safetensors"):
        LatentEncoder(models.Model(str(folder)), 64, "mean", False, 0, 4, "float32")
    assert not target.exists()


def test_a_pickle_in_the_networks_place_is_refused_where_it_would_be_loaded(trapped: tuple[Path, Path]) -> None:
    folder, target = trapped
    (folder / "vae" / "diffusion_pytorch_model.safetensors").replace(
        folder / "unet" / "diffusion_pytorch_model.safetensors"
    )
    with pytest.raises(UserError, match=r"unet/diffusion_pytorch_model\.safetensors: not a readable safetensors file"):
        open_backbone(folder, EVERY).load_network()
    assert not target.exists()


def test_a_pickle_posing_as_adapters_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "made by the pickle"
    (tmp_path / models.ADAPTERS).write_bytes(pickle.dumps(Hostile(target)))
    with pytest.raises(UserError, match=rf"{models.ADAPTERS}: not a readable safetensors file"):
        check_adapters("--model", tmp_path, MODEL)
    assert not target.exists()


def test_real_weights_pass(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "vae" / "model.safetensors")
    assert len(models.fingerprint(tmp_path, "vae")) == 64
