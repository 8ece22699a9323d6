"""Where models lie: a folder or a single file on this machine, on S3 or on the Hub, as a local path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from infra.base import disk_errors, files, node_cache, weight_names
from infra.base.errors import UserError

INDEX = "model_index.json"  # diffusers' name for what a pipeline is made of
ADAPTERS = "pytorch_lora_weights.safetensors"  # and for LoRA weights
SINGLE = ".safetensors"  # the end of a checkpoint in one file
# From S3: no pickle and no code; a result's facts vouch for its card and the grid of images beside it.
COPIED = (".json", ".txt", ".model", ".safetensors", ".jinja", ".md", ".png")
OTHER_FILES = dict.fromkeys(
    weight_names.PICKLES, "a pickle, which is not loaded; give the same checkpoint as .safetensors"
) | {".gguf": "quantised (GGUF); give the same checkpoint in float16, bfloat16 or float32, as .safetensors"}


def fetch(model: str, revision: str | None, weights_of: Sequence[str], flag: str) -> Path:
    """Return the local path of a model's folder, or of its single file, as whoever made it named its files.

    Args:
        weights_of: the parts whose weights are needed; from S3 all come.

    Raises:
        UserError: if there is neither such a folder or file nor such a model.
    """
    if files.carries_secrets(model):
        raise UserError(files.NO_SECRETS)  # which does not repeat it
    is_a_path = model.startswith(files.S3) or files.local(model).exists()
    name, commit = (model, "") if is_a_path else _at_commit(model)
    end = os.path.splitext(name)[1]
    if end in OTHER_FILES:
        raise UserError(f"{flag} {model}: is {OTHER_FILES[end]}")
    if model.startswith(files.S3):
        return file_from_s3(model, flag) if end == SINGLE else folder_from_s3(model, flag)
    if "://" in model:
        raise UserError(f"{flag} {model}: give a local folder, an s3:// path or a Hub name")
    path = files.local(model)
    if path.exists():
        is_peft = (path / weight_names.PEFT).is_file() and not (path / "config.json").is_file()
        if (is_peft or (path / ADAPTERS).is_file()) and not (path / INDEX).is_file():
            raise UserError(f"{flag} {model}: {path} {weight_names.NO_MODEL}")
        return path
    depth = model.count("/")
    if os.path.isabs(model) or depth != (2 if end == SINGLE else 1):
        raise UserError(
            f"{flag} {model}: there is no {path}, and a name on the Hub is OWNER/NAME; presets are named by --preset"
        )
    return _from_hub(name, revision or commit or None, weights_of, f"{flag} {model}")


def _at_commit(name: str) -> tuple[str, str]:
    """Part a name on the Hub from the commit behind its @; empty where it names none."""
    before, _, commit = name.partition("@")
    return before, commit


def _from_hub(model: str, revision: str | None, weights_of: Sequence[str], where: str) -> Path:
    """Fetch a model from the Hub: its default weights, and another variant of parts that have no default ones."""
    from huggingface_hub import constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    settings = [INDEX, "config.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.jinja"]
    weights = [f"{part}/*.safetensors" for part in weights_of]
    variants = [f"*.{kind}{end}*" for kind in (*weight_names.PRECISIONS, "non_ema") for end in ".-"]
    try:
        if model.endswith(SINGLE):
            owner, name, file = model.split("/")
            return Path(hf_hub_download(f"{owner}/{name}", file, revision=revision))
        fetched = snapshot_download(
            model, revision=revision, allow_patterns=settings + weights, ignore_patterns=variants
        )
        folder = Path(fetched)
        others = [f"{part}/*.safetensors" for part in without_weights(folder) if {part, "*"} & {*weights_of}]
        if (folder / "config.json").is_file() and not (folder / INDEX).is_file():
            others.append("diffusion_pytorch_model*.safetensors")  # the folder itself is one part
        if others:
            snapshot_download(model, revision=revision, allow_patterns=settings + others)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        is_offline = constants.HF_HUB_OFFLINE
        offline = "; HF_HUB_OFFLINE=1 is set, so the Hub was not asked" if is_offline else ""
        remedy = "unset it to download the model" if is_offline else "check the name and the network"
        raise UserError(
            f"{where}: neither a local folder nor a reachable Hub name ({type(error).__name__}{offline}); {remedy}, or "
            "give a folder"
        ) from error
    return folder


def without_weights(folder: Path) -> list[str]:
    """Name the parts that are networks, by their config.json, and have no default weights."""
    parts = sorted(path.parent for path in folder.glob("*/config.json"))
    return [part.name for part in parts if not opened_weights(part)]


def opened_weights(part: Path) -> list[Path]:
    """List the safetensors files of a component's folder that its class opens by default; none may be there."""
    return sorted(path for path in part.glob("*.safetensors") if weight_names.variant(path.name) == "")


def folder_from_s3(model: str, flag: str, wanted: str = "") -> Path:
    """Copy a folder on S3 to this node's disk, once for what its files are now, and return the copy.

    Args:
        wanted: the file that adapters are known by; none for a model.

    Raises:
        UserError: in one line, if it is none, or could not be copied.
    """
    source = files.resolve(model)
    stamps = [stamp for stamp in files.stamps(source) if stamp[0].endswith(COPIED)]
    if any(name == INDEX for name, _, _ in stamps):  # whole checkpoints beside the parts are no part of the model
        stamps = [stamp for stamp in stamps if "/" in stamp[0] or not stamp[0].endswith(SINGLE)]
    names = [name for name, _, _ in stamps]
    if wanted and wanted not in names:
        raise UserError(f"{flag} {model}: holds no {wanted}: no LoRA result")
    if not wanted and INDEX not in names:
        if ADAPTERS in names:
            raise UserError(f"{flag} {model}: {weight_names.NO_MODEL}")
        if not any(name.rsplit("/", 1)[-1] == "config.json" for name in names):
            raise UserError(f"{flag} {model}: holds no diffusers model")
    return _copied(source, stamps, lambda name: files.inside(source, name), f"{flag} {model}")


def file_from_s3(model: str, flag: str) -> Path:
    """Copy a single file on S3 to this node's disk, once for what it is now, and return the copy.

    Raises:
        UserError: in one line, if there is none, or it could not be copied.
    """
    source = files.resolve(model)
    name = source.rsplit("/", 1)[1]
    stamps = [stamp for stamp in files.stamps(source.rsplit("/", 1)[0]) if stamp[0] == name]
    if not stamps:
        raise UserError(f"{flag} {model}: there is no such file")
    return _copied(source, stamps, lambda _: source, f"{flag} {model}") / name


def _copied(source: str, stamps: list[Any], place_of: Callable[[str], str], where: str) -> Path:
    """Copy files of S3 to this node's disk; a name that leads out of the folder is refused before that."""
    places = {name: place_of(name) for name, _, _ in stamps}

    def fill(folder: Path) -> None:
        try:
            for name, place in places.items():
                files.copy(place, str(folder / name))
        except OSError as error:
            raise UserError(f"{where}: could not be copied to this node ({disk_errors.reason(error)})") from error

    content = hashlib.sha256(repr((source, stamps)).encode()).hexdigest()
    size = sum(size for _, size, _ in stamps)
    return node_cache.staged_once(None, f"model-{content[:32]}", size, source, fill, setting="TMPDIR")
