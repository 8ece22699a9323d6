"""The result of a run: a whole diffusers folder with the trained network, or adapters alone; facts and model card."""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from infra.base import (
    files,
    models,
    named_files,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.result_files import FACTS
from pipelines.latents.kinds import kind_of, tokenizer_of, tokens_of
from training.backbones.backbone import Backbone
from training.checkpoints.run_folder import RESULT, SAMPLES
from training.data.applied_labels import Labelled
from training.run import card, exports
from training.settings.config import TrainConfig

import diffusers  # isort: skip

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx")  # ends of weight files that are never opened


def result_folder(output: Path) -> Path:
    """Name the folder of a finished run's pipeline."""
    return output / RESULT


def write_result(
    config: TrainConfig,
    output: Path,
    backbone: Backbone,
    policy: torch.nn.Module,
    facts: dict[str, Any],
    data: Labelled,
) -> None:
    """Write what was trained, its card and its facts; an older result stands until the new one is whole.

    Without adapters it is the base model's folder with the trained network in its place; with adapters it is these
    alone, as diffusers' load_lora_weights reads them.
    """
    folder = output / f"{RESULT}.partial"
    _delete(folder)
    folder.mkdir(parents=True)
    if config.policy.lora_rank:
        write_adapters(folder, backbone, policy)
    else:
        _write_pipeline(folder, backbone, policy)
    manifest = data.pairs.manifest
    kind = kind_of(backbone.folder)
    tokens = tokens_of(kind, manifest.embeddings)
    left_out = (kind.sized, tokenizer_of(kind.sized)) if kind.sized and tokens == 0 else ()
    facts = facts | {
        "store_hash": manifest.content_hash,
        "labels_hash": data.labels_hash,
        "reference": config.reference.name if config.objective.needs_reference else "none",
        "resolution": manifest.resolution,
        "buckets": manifest.buckets,
        "prediction_type": backbone.prediction_type,
        "max_tokens": tokens,  # to sample and score with
        "config": asdict(config),
    }
    if config.export == "single-file":
        exports.write(folder, backbone.folder, Path(config.output).name, lora=bool(config.policy.lora_rank))
    grids = sorted((output / SAMPLES).glob("*.png"), key=lambda path: (path.stem.rpartition("-")[2], path.stem))
    if grids:
        shutil.copy(grids[-1], folder / card.SAMPLES)
    said = card.fill(config, backbone.folder, facts, pairs=len(data.rows), left_out=left_out, samples=bool(grids))
    (folder / "README.md").write_text(said)
    _follow_umask(folder)
    files.flush_below(str(folder))
    named = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    facts["files"] = named_files.describe(str(folder), named)
    files.write_json(str(folder / FACTS), facts)
    take_place(folder, result_folder(output))


def _follow_umask(folder: Path) -> None:
    """Give files the rights that a new file has: safetensors writes its own for their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


def take_place(new: Path, folder: Path) -> None:
    """Put a whole folder in the place of another, which is set aside until then and deleted last."""
    older = folder.with_name(f"{folder.name}.old")
    if os.path.lexists(folder):
        _delete(older)
        folder.rename(older)
    new.rename(folder)
    files.flush(str(folder.parent))
    _delete(older)


def _delete(folder: Path) -> None:
    """Delete a folder with all that lies in it, copied from a read-only one, too; of a link, the link alone."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        _make_writable(folder)
        shutil.rmtree(folder)


def _make_writable(folder: Path) -> None:
    for place, _, _ in os.walk(folder):
        mode = os.stat(place).st_mode
        if not mode & stat.S_IWUSR:
            os.chmod(place, mode | stat.S_IRWXU)


def _write_pipeline(folder: Path, backbone: Backbone, policy: Any) -> None:
    index = files.read_json(str(backbone.folder / "model_index.json"))
    for name in index:
        if name != backbone.network_folder and (backbone.folder / name).is_dir():
            shutil.copytree(backbone.folder / name, folder / name, ignore=_not_opened)
            _make_writable(folder / name)  # the base model may be read-only, its copy is the run's own
    shutil.copy(backbone.folder / "model_index.json", folder)
    policy.save_pretrained(folder / backbone.network_folder, safe_serialization=True)


def _not_opened(folder: str, names: list[str]) -> list[str]:
    """List the weight files of a part that lie beside those which are opened: pickles, fp16 copies and their like."""
    opened = {path.name for path in models.opened_weights(Path(folder))}
    if not opened:
        return []
    weights = [name for name in names if name.removesuffix(".index.json").endswith((*PICKLED, ".safetensors"))]
    index = {f"{name.split('-')[0].split('.')[0]}.safetensors.index.json" for name in opened}
    return [name for name in weights if name not in opened | index]


def write_adapters(folder: Path, backbone: Backbone, policy: Any) -> None:
    """Write the adapters through the pipeline's own class, alpha/rank multiplied into B: any reader's scale is 1."""
    from peft import get_peft_model_state_dict

    pipeline = getattr(diffusers, files.read_json(str(backbone.folder / "model_index.json"))["_class_name"])
    tensors = {name: value.cpu().contiguous() for name, value in get_peft_model_state_dict(policy).items()}
    settings = policy.peft_config["default"].to_dict()
    # Older readers, and those of other names, know no alpha but the rank: the scale is in the weights.
    scale = settings["lora_alpha"] / settings["r"]
    tensors = {name: value * scale if "lora_B" in name else value for name, value in tensors.items()}
    settings["lora_alpha"] = settings["r"]
    # A set's order changes from process to process, and with it the file's hash.
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    name = backbone.network_folder
    pipeline.save_lora_weights(folder, **{f"{name}_lora_layers": tensors, f"{name}_lora_adapter_metadata": settings})
    sort_metadata(folder / models.ADAPTERS)


def sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file: its order changes from process to process, and with it the file's hash.

    The layout is that of safetensors: 8 bytes of the header's length, the header as JSON padded with spaces, the data.
    """
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
