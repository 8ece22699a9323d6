"""LoRA files: read in whatever names diffusers converts, and loaded only if every tensor finds its layer."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import accelerate
import torch
from safetensors.torch import load_file

from infra.base import (
    models,
    named_files,
    result_files,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from pipelines.latents import adapter_names, adapter_scales, components, lost_layers, peft_files

import diffusers  # isort: skip
import transformers  # isort: skip
from diffusers.models.modeling_utils import no_init_weights  # isort: skip

# diffusers names a text encoder's layers so for kohya's names, and recognises these only where out_proj is among them.
OLD_TEXT = re.compile(r"\.to_(q|k|v|out)_lora\.(up|down)\.")
ALPHA_WANTED = "lora_transformer_"  # OneTrainer's names of FLUX, which diffusers converts only beside an alpha
DOWN = ".lora_down.weight"
SHOWN = 3  # names in a refusal


def check_adapters(flag: str, adapters: Path, folder: Path) -> None:
    """Refuse adapters that the folder's pipeline would not load whole, by loading them into networks without contents.

    Raises:
        UserError: naming the flag and the layers that do not fit.
    """
    named_files.refuse(result_files.problems(str(adapters)))
    names = read_tensors(flag, adapters)
    load_adapters(_empty_pipeline(folder, names), adapters, folder, flag)


def read_tensors(flag: str, adapters: Path) -> dict[str, torch.Tensor]:
    """Read a LoRA file's tensors by name.

    Raises:
        UserError: if the file holds another kind of adapters than LoRA.
    """
    adapter_names.refuse_other_kinds(flag, adapters)
    path = adapters / models.ADAPTERS
    tensors = load_file(path)
    broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if broken:
        raise UserError(f"{flag} {path}: its tensor {broken} is not finite; train or convert these adapters again")
    return tensors


def _networks(pipeline: Any) -> dict[str, torch.nn.Module]:
    parts = pipeline.components.items()
    return {name: part for name, part in parts if isinstance(part, torch.nn.Module) and name in _lora_parts(pipeline)}


def _lora_parts(pipeline: Any) -> list[str]:
    return list(getattr(pipeline, "_lora_loadable_modules", ()))


def load_adapters(pipeline: Any, adapters: Path, folder: Path, flag: str = "--lora") -> None:
    """Load a LoRA file as diffusers does; names without a part's prefix (save_attn_procs) are the network's.

    Args:
        folder: of the pipeline's model, for a refusal.

    Raises:
        UserError: if a tensor finds no layer, or a layer only one of its two.
    """
    where = f"{flag} {adapters}"
    if not _lora_parts(pipeline):
        raise UserError(f"{where}: a {type(pipeline).__name__} takes no adapters")
    parts = _lora_parts(pipeline)
    network = next(part for part in parts if part in ("unet", "transformer"))
    layers = dict(getattr(pipeline, network).named_modules())
    tensors = peft_files.opened(adapters, read_tensors(flag, adapters), layers, where)
    scaled = adapter_scales.in_weights(tensors, where)
    noted = adapter_scales.metadata_of(adapters / models.ADAPTERS)
    if len(scaled) == len(tensors) and adapter_scales.NOTED not in noted:
        adapter_scales.refuse_unread(tensors, noted, where)
    converted = _converted(pipeline, scaled, where)
    given: Any = str(adapters)  # its metadata may have a scale
    if scaled.keys() != tensors.keys() or converted.keys() != tensors.keys():
        given = converted
    if not any(name.startswith(f"{part}.") for name in converted for part in parts):
        scale = adapter_scales.of_network(noted, where)
        ups = [name for name in converted if adapter_scales.UP.search(name)]
        converted |= {name: scale * converted[name] for name in ups}
        converted = {f"{network}.{name}": tensor for name, tensor in converted.items()}
        given = converted
    if isinstance(given, dict):
        adapter_scales.refuse_lost(noted, where)
    named = {} if isinstance(given, dict) else {"weight_name": models.ADAPTERS, "local_files_only": True}
    before = {part: _adapted(module) for part, module in _networks(pipeline).items()}
    channels = getattr(getattr(pipeline, network).config, "in_channels", None)
    logger = diffusers.utils.logging
    verbosity = logger.get_verbosity()
    logger.set_verbosity(logger.CRITICAL)  # it warns of each part that has none; what counts is refused below
    try:
        pipeline.load_lora_weights(given, use_safetensors=True, **named)
    except Exception as error:  # peft and diffusers raise several types
        reason = next((line.strip() for line in str(error).splitlines() if "mismatch" in line), "")
        reason = reason or next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{where}: belongs to another model than {folder} ({reason}); give the one that it was trained on"
        ) from error
    finally:
        logger.set_verbosity(verbosity)
    widened = getattr(getattr(pipeline, network).config, "in_channels", None)  # an attribute alone is changed
    if widened != channels:
        raise UserError(
            f"{where}: makes the {network} take {widened} channels in place of {channels}, as adapters for control "
            "images do; no such image is given here"
        )
    _refuse_unfound(pipeline, converted, before, f"{where}: belongs to another model than {folder}")


def _converted(pipeline: Any, tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Return the tensors in diffusers' names.

    Raises:
        UserError: if diffusers cannot convert the names, or leaves out a layer that has an effect.
    """
    state = _state(pipeline, tensors, where)
    left_out = lost_layers.lost(tensors, lambda numbered: _state(pipeline, numbered, where))
    if left_out:
        raise UserError(f"{where}: diffusers leaves out {_some(left_out)}; take these layers out of the file")
    return {_text_name(name): tensor for name, tensor in state.items()}


def _state(pipeline: Any, tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Convert names as the pipeline's loader does."""
    given = dict(tensors)
    if any(name.startswith(ALPHA_WANTED) for name in given):
        ranks = {name: down.shape[0] for name, down in given.items() if name.endswith(DOWN)}
        given |= {f"{name.removesuffix(DOWN)}.alpha": torch.tensor(float(rank)) for name, rank in ranks.items()}
    try:
        converted = type(pipeline).lora_state_dict(given, unet_config=_unet_config(pipeline))
    except Exception as error:  # its converters raise what an unknown name makes them raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{where}: diffusers cannot convert its names ({reason})") from error
    return dict(converted[0] if isinstance(converted, tuple) else converted)


def _text_name(name: str) -> str:
    """Name a tensor of a text encoder's attention as peft does; other names stay."""
    if not name.startswith("text_encoder"):
        return name
    return OLD_TEXT.sub(lambda old: f".{old[1]}_proj.lora_{'B' if old[2] == 'up' else 'A'}.", name)


def _unet_config(pipeline: Any) -> Any:
    network = getattr(pipeline, "unet", None)
    is_xl = "XL" in type(pipeline).__name__
    return network.config if network is not None and is_xl else None


def _adapted(module: torch.nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters() if "lora_" in name}


def _refuse_unfound(
    pipeline: Any, tensors: Mapping[str, torch.Tensor], before: Mapping[str, set[str]], refusal: str
) -> None:
    """Refuse adapters of which a tensor found no layer, or a layer that found only one of its two tensors."""
    from diffusers.utils import convert_unet_state_dict_to_peft

    parts = _networks(pipeline)
    homeless = [name for name in tensors if not any(name.startswith(f"{part}.") for part in parts)]
    if homeless:
        raise UserError(f"{refusal}, which has no {_some(homeless)}")
    for part, module in parts.items():
        own = {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}
        loaded = dict(module.named_parameters())
        added = {name: loaded[name] for name in _adapted(module) - before.get(part, set())}
        if part in ("unet", "transformer") and own:
            if "lora_A" not in next(iter(own)):
                own = convert_unet_state_dict_to_peft(own)
            names = {re.sub(r"(lora_\w+)\.[^.]+\.", r"\1.", f"{name}.").removesuffix(".") for name in added}
            wrong = sorted(own.keys() ^ names)
            if wrong:
                raise UserError(f"{refusal}, whose {part} has no layer for {_some(wrong)}")
        shapes = [Counter(tuple(tensor.shape) for tensor in found.values()) for found in (own, added)]
        if shapes[0] != shapes[1]:
            raise UserError(f"{refusal}, whose {part} takes {len(added)} of {len(own)} tensors")


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _empty_pipeline(folder: Path, names: Mapping[str, Any]) -> Any:
    """Build a folder's pipeline of the networks that adapters may belong to, without contents."""
    opened_by = getattr(diffusers, components.read_index(folder)["_class_name"])
    parameters = inspect.signature(opened_by.__init__).parameters.values()
    given: dict[str, Any] = {
        one.name: None for one in parameters if one.name != "self" and one.default is inspect.Parameter.empty
    }
    has_text = any("text_encoder" in name or name.startswith("lora_te") for name in names)
    for part in getattr(opened_by, "_lora_loadable_modules", ()):
        if part in components.parts_of(folder) and (has_text or not part.startswith("text_encoder")):
            given[part] = _empty_network(folder, part)
    if any(one.name == "requires_safety_checker" for one in parameters):
        given["requires_safety_checker"] = False
    return opened_by(**given)


def _empty_network(folder: Path, part: str) -> Any:
    kind = components.class_of(folder, part)
    with accelerate.init_empty_weights(), no_init_weights():
        if issubclass(kind, transformers.PreTrainedModel):
            return kind(kind.config_class.from_pretrained(folder / part))
        return kind.from_config(kind.load_config(folder, subfolder=part))
