"""Models of two places: a base, and what takes the place of some of its parts.

BASE+ADDED names both. ADDED is a checkpoint in one file, a folder with some parts (a UNet alone, as the authors of
Diffusion-DPO published theirs), or a folder that is one part. Where the base is not named, the kind of what is added
names it. The result is a folder of links, which opens like any other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.base import files, model_sources, node_cache, single_files, weight_names
from infra.base.errors import UserError

INDEX = model_sources.INDEX
SIGN = "+"
NETWORKS = ("unet", "transformer")
VAE = "vae"
SCALE = "scaling_factor"
SCALE_DEFAULT = 0.18215  # of diffusers' AutoencoderKL, for files from before there was a setting


def split(model: str) -> tuple[str | None, str]:
    """Return the base, if a name has one, and what is added to it; a path that exists is no such name."""
    if SIGN not in model or files.local(model).exists():
        return None, model
    if model.startswith(files.S3) and files.exists(model):
        return None, model
    base, _, added = model.rpartition(SIGN)
    return base, added


def is_whole(path: Path) -> bool:
    """Say whether a path is a diffusers folder with an index of its parts."""
    return (path / INDEX).is_file()


def base_of(path: Path, where: str) -> str:
    """Return the Hub name of the base of a single file, or of a network alone, by its kind.

    Raises:
        UserError: if it is nothing of a model, or its kind does not name a base.
    """
    if path.is_file():
        headers = single_files.read_headers(path)
        single_files.refuse_adapters(headers, where)
        base = single_files.base_of(headers)
        if base is None:
            raise UserError(
                f"{where}: does not say which model it is of; name a folder or Hub name of its kind as BASE+FILE"
            )
        return base
    if is_whole(path / "result") or (path / "result" / model_sources.ADAPTERS).is_file():
        raise UserError(f"{where}: is the folder of a training run; give its result, {path / 'result'}")
    if is_whole(path.parent):
        raise UserError(f"{where}: is one part of the model {path.parent}; give that, or BASE{SIGN}{path.name}")
    network = next((path / part for part in NETWORKS if (path / part / "config.json").is_file()), path)
    if not (network / "config.json").is_file():
        file = next(iter(sorted(path.glob(f"*{model_sources.SINGLE}"))), None)
        hint = f"; if {file.name} is the whole model, give that file" if file else ""
        raise UserError(f"{where}: {path} has no {INDEX}, so it is no diffusers folder{hint}")
    base = base_of_network(files.read_json(str(network / "config.json")))
    if base is None:
        raise UserError(
            f"{where}: {path} has no {INDEX}, and its config.json does not say which model it belongs to; name that "
            f"model before it, as BASE{SIGN}{path.name}"
        )
    return base


def base_of_network(settings: dict[str, Any]) -> str | None:
    """Return the Hub name of the base that a network of these settings belongs to; None where that is not sure.

    SD2's networks predict noise or velocity and do not say which, so theirs is not.
    """
    from diffusers.loaders import single_file_utils

    kind = None
    match settings.get("_class_name"):
        case "UNet2DConditionModel" if settings.get("in_channels", 4) == 4:
            kind = {768: "v1", 2048: "xl_base"}.get(settings.get("cross_attention_dim", 0))
        case "SD3Transformer2DModel":
            layers = settings.get("num_layers", 0)
            medium = "sd35_medium" if settings.get("dual_attention_layers") else "sd3"
            kind = {24: medium, 38: "sd35_large"}.get(layers)
        case "FluxTransformer2DModel" if settings.get("in_channels", 64) == 64:
            kind = "flux-dev" if settings.get("guidance_embeds") else "flux-schnell"
    if kind is None:
        return None
    return str(single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"])


def parts_added(path: Path, base: Path, where: str) -> list[str]:
    """Name the parts of the base whose place is taken.

    Raises:
        UserError: if what is added has no part of the base's pipeline.
    """
    index = files.read_json(str(base / INDEX))
    if path.is_file():
        return list(single_files.parts_in(single_files.read_headers(path), index, where))
    named = [part for part, value in index.items() if isinstance(value, list)]
    inside = [part for part in named if (path / part).is_dir()]
    if inside:
        return inside
    own = files.read_json(str(path / "config.json")) if (path / "config.json").is_file() else {}
    kind = own.get("_class_name") or next(iter(own.get("architectures") or []), None)
    fitting = [part for part in named if index[part][1] == kind]
    if len(fitting) != 1:
        several = "several parts" if fitting else "no part"
        raise UserError(f"{where}: holds {kind or 'no part'}, and {base} has {several} of this class")
    return fitting


def left_out(path: Path) -> str:
    """Say that a single file's average of its network is not taken; nothing where it has none."""
    if path.is_file() and single_files.has_average(single_files.read_headers(path)):
        return f"; its average of the network ({single_files.AVERAGE}) is not taken, as in other programs"
    return ""


def compose(path: Path, parts: Sequence[str], base: Path, where: str) -> Path:
    """Return a folder of links to a base's parts and to those that take their place.

    Raises:
        UserError: if a single file cannot be converted.
    """
    index = files.read_json(str(base / INDEX))
    added = _converted(path, base, index, where) if path.is_file() else path
    if VAE in parts:
        _refuse_vae_of_another_kind(_folder_of(VAE, added), base / VAE, where)
    contents: dict[str, Path | bytes] = {INDEX: base / INDEX}
    for part in (name for name, value in index.items() if isinstance(value, list)):
        folder = _folder_of(part, added if part in parts else base)
        if folder.is_dir():
            contents |= {f"{part}/{name}": target for name, target in part_contents(folder).items()}
    return node_cache.linked_once(contents)


def _refuse_vae_of_another_kind(added: Path, own: Path, where: str) -> None:
    """Refuse a VAE whose latents are scaled otherwise than the base's: SD1.5's fits into SDXL by its shapes alone.

    Raises:
        UserError: naming both factors.
    """
    scales = [files.read_json(str(folder / "config.json")).get(SCALE, SCALE_DEFAULT) for folder in (added, own)]
    if scales[0] != scales[1]:
        raise UserError(
            f"{where}: this VAE's {SCALE} is {scales[0]}, and that of the base's VAE {scales[1]}, so its latents are "
            "not those that the base's network knows; give a VAE of the base's kind"
        )


def _folder_of(part: str, place: Path) -> Path:
    """Return a part's folder: below a model's, or that which is the part itself."""
    is_itself = not is_whole(place) and not (place / part).is_dir() and (place / "config.json").is_file()
    return place if is_itself else place / part


def part_contents(part: Path) -> dict[str, Path | bytes]:
    """Return a part's files by name, with a variant of its weights in the place of default ones that it lacks."""
    names = os.listdir(part)
    kind = weight_names.only_variant(part, names)
    if kind:
        return weight_names.default_contents(part, kind)
    return {name: part / name for name in sorted(names) if (part / name).is_file()}


def _converted(path: Path, base: Path, index: dict[str, Any], where: str) -> Path:
    """Convert a single file once on this node, for what it and the base's settings are now."""
    import diffusers

    headers = single_files.read_headers(path)
    parts = single_files.parts_in(headers, index, where)
    predicts = single_files.read_prediction(path)
    scheduler = base / "scheduler" / "scheduler_config.json"
    single_files.check_prediction(
        headers, files.read_json(str(scheduler)) if scheduler.is_file() else {}, where, predicts
    )
    settings = [(part, (base / part / "config.json").read_bytes()) for part in parts]
    status = path.stat()
    identity = (str(path), status.st_size, status.st_mtime_ns, settings, diffusers.__version__)
    name = f"parts-{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}"
    return node_cache.staged_once(
        None,
        name,
        status.st_size,
        str(path),
        lambda folder: single_files.write_parts(path, parts, base, folder, where),
        setting="TMPDIR",
    )
