"""Scorers' weights: where they come from, what they must look like, and how they are read without running anything.

A scorer names two sets, `world` (tiny, committed, the default) and `published` (the Hub, at a pinned revision), and
takes a local path. Only safetensors and `weights_only` checkpoints are read; no code beside or inside them runs.
"""

from __future__ import annotations

import hashlib
import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from infra.base import files, json_text, pointers
from infra.base.errors import UserError

if TYPE_CHECKING:
    import torch

BUFFERS = ("position_ids", "attn_mask")  # computed, not learned; some checkpoints save them beside the weights
WORLD = "world"
PUBLISHED = "published"
WORLD_FOLDER = files.ROOT / "infra" / "world" / "scorers"

# These commits were read in the table "Pinned checkpoints" of the README of Precise-SDE (arXiv 2605.23522), and each of
# them again in at least three other public repositories; none was downloaded when this was written.
PICKSCORE = ("yuvalkirstain/PickScore_v1", "a4e4367c6dfa7288a00c550414478f865b875800")
CLIP_H = ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "1c2b8495b28150b8a4922ee1c8edee224c284c0c")
HPS = ("xswu/HPSv2", "697403c78157020a1ae59d23f111aa58ced35b0a")
CLIP_L = ("openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41")


def world_folder(scorer: str) -> Path:
    """Return where a scorer's embedded-world weights lie, if it has any; ways of one model share its folder."""
    return WORLD_FOLDER / scorer.removesuffix("-antialiased")


def local_path(scorer: str, wanted: str) -> Path:
    """Return where a scorer's weights lie: its folder in the embedded world, or the path that --weights gives it.

    Raises:
        UserError: if nothing is there.
    """
    if wanted == WORLD:
        return world_folder(scorer)
    path = Path(files.resolve(wanted))
    if not path.exists():
        raise UserError(
            f"--weights {scorer}={wanted}: no such local file or folder; give another, {WORLD} or {PUBLISHED}"
        )
    return path


def only_file(folder: Path, pattern: str) -> Path:
    """Return the one file of a folder that matches.

    Raises:
        UserError: if there is none, or more than one.
    """
    matches = sorted(folder.glob(pattern))
    if len(matches) != 1:
        names = ", ".join(path.name for path in matches) or "none"
        raise UserError(f"{folder}: needs exactly one file {pattern}, and has {names}")
    return matches[0]


def hub_folder(model: tuple[str, str | None], patterns: list[str], flag: str = "--weights") -> Path:
    """Return the local folder of a Hub model at its revision, with the files that match fetched.

    Args:
        flag: the flag that takes a local path instead, for the message.

    Raises:
        UserError: if it is neither in the local cache nor reachable on the Hub.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, revision = model
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{repository}: not in the local cache and not reachable on the Hub ({type(error).__name__}); "
            f"fetch it beforehand or give a local path with {flag}"
        ) from error


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of a checkpoint's tensors, not their values.

    Raises:
        UserError: as read_state does.
    """
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return {name: tuple(value.shape) for name, value in _load(path, device="meta").items()}


def read_scale(path: Path) -> float:
    """Read exp(logit_scale) of a CLIP checkpoint.

    Raises:
        UserError: as read_state does, and if there is none.
    """
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as opened:
            scale = opened.get_tensor("logit_scale") if "logit_scale" in opened.keys() else None  # noqa: SIM118
    else:
        scale = _load(path, device="cpu").get("logit_scale")
    if scale is None:
        raise UserError(f"{path}: has no tensor logit_scale, so it is no CLIP checkpoint; give another")
    return math.exp(scale.item())


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint's tensors: safetensors, or a state dict, alone or under 'state_dict', that torch.save wrote.

    Raises:
        UserError: if the file cannot be read, holds objects or code beside tensors, or no state dict.
    """
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return _load(path, device="cpu")


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        pointers.refuse(path)
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error


def _load(path: Path, device: str) -> dict[str, torch.Tensor]:
    import torch  # a scorer is known by its files, and loaded only to score

    try:
        # Mapped, not read: what is not asked for stays on disk. Files older than torch's zip format can't be mapped.
        loaded = torch.load(path, map_location=device, mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception as error:  # what a broken or hostile file makes torch raise has many types
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named or "TorchScript" in str(error):
            what = named[1] if named else "TorchScript"
            raise UserError(f"{path}: holds code or objects ({what}), not only tensors; it was not loaded") from error
        raise UserError(f"{path}: not a readable checkpoint of tensors ({type(error).__name__})") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: no state dict in it, neither alone nor under 'state_dict'")
    return {name.removeprefix("module."): value for name, value in state.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration.

    Raises:
        UserError: if it is not a JSON object.
    """
    try:
        value = json_text.parse(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object")
    return value


def require_shapes(
    shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, torch.Tensor], where: Path, model: str
) -> None:
    """Compare a checkpoint's tensors with a model's; buffers that older versions saved are ignored.

    Args:
        shapes: the checkpoint's, by name.
        wanted: the model's tensors, by name.
        where: the checkpoint's file or folder, for the message.
        model: what the weights should belong to, for the message.

    Raises:
        UserError: naming the first tensor that is missing, has another shape, or is unknown to the model.
    """
    for name, tensor in wanted.items():
        if name not in shapes:
            raise UserError(f"{where}: not the weights of {model}: no tensor {name}")
        if shapes[name] != tuple(tensor.shape):
            sizes = ["x".join(map(str, shape)) or "a scalar" for shape in (shapes[name], tuple(tensor.shape))]
            raise UserError(f"{where}: not the weights of {model}: {name} is {sizes[0]}, not {sizes[1]}")
    unknown = [name for name in shapes if name not in wanted and not name.endswith(BUFFERS)]
    if unknown:
        raise UserError(f"{where}: not the weights of {model}: it has no {unknown[0]}")


def identity(paths: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Return each file's real path, size and time of change; files with equal identities have equal content."""
    real = [path.resolve() for path in paths]
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in real)


def fingerprint(paths: Iterable[Path], *settings: object) -> str:
    """Hash the content of files and the settings of preprocessing and formula, SHA-256 in hex."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in paths:
        digest.update(bytes.fromhex(files.sha256(str(path))))
    return digest.hexdigest()
