"""What a marker names is on the disk before the marker, so that a power cut leaves none that vouches for nothing."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from infra.base import files
from pipelines.latents import store
from training.checkpoints import checkpoint

STATE = checkpoint.State(step=1, seed=0, global_batch=8, store_hash="s", labels_hash="l")


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths that are flushed, in their order, as the kernel names them at that moment."""
    paths: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return paths


def marker_in(flushed: list[str], name: str) -> int:
    """Return when a marker was flushed; it has the name of its process then."""
    return next(number for number, path in enumerate(flushed) if path.endswith(f"/{name}.{os.getpid()}.partial"))


def test_a_checkpoint_is_flushed_then_its_names_then_its_marker(tmp_path: Path, flushed: list[str]) -> None:
    tensors = {"weight": torch.ones(3)}
    checkpoint.save(tmp_path, STATE, {"network": tensors, "optimizer": tensors})
    folder = str(checkpoint.folder_of(tmp_path, 1))
    before = flushed[: marker_in(flushed, checkpoint.COMPLETE)]
    for path in ("/network.safetensors", "/optimizer.safetensors", ""):
        assert f"{folder}{path}" in before
    assert before.index(folder) > before.index(f"{folder}/optimizer.safetensors")
    assert flushed[-1] == folder  # the marker's own name


def test_a_stores_files_are_flushed_before_its_manifest(copied_store: Path, flushed: list[str]) -> None:
    path = str(copied_store)
    manifest = store.read_manifest(path)
    store.publish(path, dataclasses.replace(manifest, source="again"))
    before = flushed[: marker_in(flushed, store.MANIFEST)]
    assert {files.join(path, name) for name in manifest.files} <= set(before)


def test_a_written_files_name_is_flushed_too(tmp_path: Path, flushed: list[str]) -> None:
    files.write_bytes(str(tmp_path / "a"), b"1")
    assert flushed == [f"{tmp_path}/a.{os.getpid()}.partial", str(tmp_path)]
