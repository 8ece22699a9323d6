"""Manifests of older and newer schema versions: refused by file, versions and remedy; one without is version 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.judging_material import write_images, write_label_set, write_store

from infra.base import files
from infra.base.errors import UserError
from infra.base.versions import KEY, check_version
from pipelines.judging import score_files
from pipelines.latents import label_files
from training.checkpoints import checkpoint
from training.checkpoints.mirror import Mirror
from training.reference import reference_errors

pytestmark = pytest.mark.chaos
Kept = tuple[str, Callable[[], Any], str]  # a manifest, what reads it, and the remedy


def label_set(folder: Path, name: str) -> Kept:
    place = write_store(folder / "store")
    write_label_set(place, name, None if name == "human" else name)
    again = (
        "encode again with --repair" if name == "human" else f"delete {place}/labels/{name} and run relabel.py again"
    )
    return f"{place}/labels/{name}/manifest.json", lambda: label_files.read_labels(place, name), again


def errors(folder: Path) -> Kept:
    settings = reference_errors.Settings(
        network="n",
        store_hash="s",
        seed=0,
        caption_dropout=0.2,
        prediction_type="epsilon",
        schedule="h",
        batch_size=4,
        precision="float32",
    )
    about = {"draw-0000.parquet": {"bytes": 1, "sha256": "0", "rows": 2}}
    manifest = reference_errors.Manifest(
        settings=settings,
        model="model",
        revision=None,
        draws=1,
        pairs=2,
        hardware=("CPU",),
        config={},
        files=about,
    )
    reference_errors.write_manifest(str(folder), "base", manifest)
    place = reference_errors.folder_of(str(folder), "base")
    again = f"delete {place} and run encode_reference.py again"
    return f"{place}/manifest.json", lambda: asdict(reference_errors.read_manifest(str(folder), "base")), again


def kept(folder: Path) -> Kept:
    place = checkpoint.begin(folder, 2)
    (place / "network.safetensors").write_bytes(b"weights")
    hashes = {"network.safetensors": files.sha256(str(place / "network.safetensors"))}
    checkpoint.mark(place, checkpoint.State(step=2, seed=0, global_batch=8, store_hash="s", labels_hash="l"), hashes)
    again = f"delete {place} to resume from the one before"
    return str(place / checkpoint.COMPLETE), lambda: checkpoint.read_state(place), again


def scores(folder: Path) -> Kept:
    place = write_images(folder / "images", {"a": [(1, 2, 3)]})
    table = pa.table([[1], ["a"], [0], [0.5]], names=[*score_files.KEYS, "red"])
    identity = {"scorer": "red", "fingerprint": "f", "of": files.sha256(f"{place}/manifest.json")}
    score_files.write_scores(place, "red", table, {"identity": identity})
    again = f"delete {place}/scores/red and run score.py again"

    def read() -> None:
        score_files.read_scores(place)
        score_files.fingerprints(place)

    return f"{place}/scores/red/manifest.json", read, again


KINDS: dict[str, Callable[[Path], Kept]] = {
    "label set": lambda folder: label_set(folder, "pickscore"),
    "human label set": lambda folder: label_set(folder, "human"),
    "reference errors": errors,
    "checkpoint": kept,
    "scores": scores,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_refused_by_file_versions_and_remedy(kind: str, version: int, tmp_path: Path) -> None:
    manifest, read, remedy = KINDS[kind](tmp_path)
    files.write_json(manifest, files.read_json(manifest) | {KEY: version})
    with pytest.raises(UserError) as refused:
        read()
    newer = ", or use the newer code that wrote it" if version == 2 else ""
    assert str(refused.value) == f"{manifest}: schema version {version}; this code reads 1: {remedy}{newer}"


@pytest.mark.parametrize("kind", KINDS)
def test_what_names_no_version_is_from_before_versions_and_read(kind: str, tmp_path: Path) -> None:
    manifest, read, _ = KINDS[kind](tmp_path)
    content = files.read_json(manifest)
    value = read()
    assert content.pop(KEY) == 1
    files.write_json(manifest, content)
    assert read() == value


def test_reference_errors_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    manifest, read, remedy = errors(tmp_path)
    files.write_json(manifest, files.read_json(manifest) | {"from_tomorrow": 1})
    with pytest.raises(UserError, match=r"not a whole manifest of schema version 1 \(.*from_tomorrow") as refused:
        read()
    assert str(refused.value).endswith(remedy)


@pytest.mark.parametrize("kind", ["label set", "checkpoint", "scores"])
def test_what_lies_in_the_folder_of_another_is_refused(kind: str, tmp_path: Path) -> None:
    manifest, _, _ = KINDS[kind](tmp_path)
    folder = Path(manifest).parent
    other = folder.rename(folder.with_name("step-0000004" if kind == "checkpoint" else "other"))
    reads: dict[str, Callable[[], object]] = {
        "label set": lambda: label_files.read_labels(str(other.parent.parent), "other"),
        "checkpoint": lambda: checkpoint.read_state(other),
        "scores": lambda: score_files.read_scores(str(other.parent.parent)),
    }
    with pytest.raises(UserError, match=rf"^{other}/{Path(manifest).name}: .*rename"):
        reads[kind]()


def test_judgements_of_a_set_have_a_version_too(tmp_path: Path) -> None:
    path = f"{tmp_path}/set.json"
    files.write_json(f"{tmp_path}/manifest.json", {"identity": {}, "images": 0})
    identity = {"of": files.sha256(f"{tmp_path}/manifest.json")}
    files.write_json(path, {"identity": identity, "config": {"feature_model": "m"}, "judged": {"kid": 1.0}})
    assert score_files.read_set(str(tmp_path)) == {"kid": 1.0, "feature_model": "m"}
    files.write_json(path, files.read_json(path) | {KEY: 2})
    with pytest.raises(UserError, match=rf"^{path}: schema version 2; this code reads 1: delete it and run score\.py"):
        score_files.read_set(str(tmp_path))


def test_a_checkpoint_on_s3_of_another_version_is_refused_before_it_is_copied(bucket: str, tmp_path: Path) -> None:
    manifest, _, _ = kept(tmp_path)
    mirror = Mirror(f"{bucket}/{tmp_path.name}", tmp_path)
    mirror.send(2, keep=1, best=None)
    mirror.forget()
    place = f"{mirror.place}/{checkpoint.name_of(2)}"
    marker = files.read_json(f"{place}/{checkpoint.COMPLETE}")
    files.write_json(f"{place}/{checkpoint.COMPLETE}", marker | {KEY: 2, "sha256": None})
    with pytest.raises(UserError) as refused:
        mirror.bring(2)
    remedy = f"delete {place} to resume from the one before, or use the newer code that wrote it"
    assert str(refused.value) == f"{place}/{checkpoint.COMPLETE}: schema version 2; this code reads 1: {remedy}"
    assert not Path(manifest).parent.exists()


@pytest.mark.parametrize("manifest", [{}, {KEY: "2"}, [], None])
def test_what_should_name_a_version_and_does_not_is_refused(manifest: Any) -> None:
    version = manifest.get(KEY) if isinstance(manifest, dict) else None
    with pytest.raises(UserError, match=rf"^m: schema version {version}; this code reads 1: do$"):
        check_version("m", manifest, 1, "do")
