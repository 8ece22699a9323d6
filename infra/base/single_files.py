"""Checkpoints in one file, as sites share them: what a file holds, and its parts as a diffusers folder's.

diffusers' own loaders convert the names, with settings from a folder, so nothing is asked of the Hub. Where they pass
over what they do not know, the file is refused here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from infra.base import files, pointers, weight_names
from infra.base.errors import UserError

NETWORK = "model.diffusion_model."
# Prefixes of the parts, as Stability's, ComfyUI's and older files have them.
PREFIXES = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}
T5 = "text_encoders.t5xxl."
AVERAGE = "model_ema."  # of the network's weights over its training
# Of a network that stands alone in its file, in the original names of UNets, SD3 and FLUX, or in diffusers'.
BARE = ("input_blocks.", "joint_blocks.", "double_blocks.", "down_blocks.", "transformer_blocks.")
UNET = "input_blocks."
VAE_ALONE = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")  # in its file, without a prefix
LOSS = ("loss.", "first_stage_model.loss.")  # of a VAE's training: the networks that judged it
VAE_MARK = "decoder.conv_in.weight"
# What training keeps beside the weights: noise schedules, an average of the network, names of the kind of prediction.
BESIDE = (
    *(AVERAGE, "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_", "logvar", "lvlb_weights"),
    *("denoiser.", "edm_", "v_pred", "ztsnr", "model.alphas_cumprod", "model.betas", "state_dict", "global_step"),
)
COMPUTED = ("position_ids", "logit_scale", "text_projection", "text_projection.weight", "embed_tokens.weight")
# diffusers' names of the kinds that this project trains. A file of SD2 does not say whether it predicts noise or
# velocity, so its base has to be named.
KNOWN_TYPES = ("v1", "xl_base", "sd3", "sd35_medium", "sd35_large", "flux-dev", "flux-schnell")
# In names of a LoRA's tensors: lora_A, .lora.up, and to_q_lora.down of older diffusers, with qkv_lora1.down of XLabs.
LORA = re.compile(r"lora_|[._]lora\d?\.", re.IGNORECASE)
ALPHA = ".alpha"  # ends the names of a LoRA's scales
SPEC = "modelspec.prediction_type"
SHOWN = 3


@dataclass(frozen=True)
class Tensor:
    """A tensor's header, as diffusers' guesses look at it."""

    shape: tuple[int, ...]
    dtype: str  # safetensors' name of it: F16, BF16, F32, F8_E4M3


def read_headers(path: Path) -> dict[str, Tensor]:
    """Read the names, shapes and types of a file's tensors; no values.

    Raises:
        UserError: if it is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {name: Tensor(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        pointers.refuse(path)
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error


def refuse_adapters(headers: Mapping[str, Tensor], where: str) -> None:
    """Refuse a file that holds adapters and nothing else, in whoever's names.

    Raises:
        UserError: if all tensors have the name of one of a LoRA's.
    """
    weights = [name for name in headers if not name.endswith(ALPHA)]
    if weights and all(LORA.search(name) for name in weights):
        raise UserError(f"{where}: {weight_names.NO_MODEL}")


def base_of(headers: Mapping[str, Tensor]) -> str | None:
    """Return the Hub name of the model that a file is of the kind of, by diffusers' own list; None where it says none.

    Its list takes whatever it does not know for SD1.5, so that is looked at again.
    """
    from diffusers.loaders import single_file_utils

    try:
        kind = single_file_utils.infer_diffusers_model_type(dict(headers))
    except (KeyError, UnboundLocalError, IndexError):  # it guesses by shapes that a file may not have
        return None
    known = kind in KNOWN_TYPES and (kind != "v1" or single_file_utils.CHECKPOINT_KEY_NAMES["v1"] in headers)
    return (
        str(single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"])
        if known
        else None
    )


def parts_in(headers: Mapping[str, Tensor], index: Mapping[str, Any], where: str) -> dict[str, list[str]]:
    """Return the names of a file's tensors by the part of a pipeline that they belong to.

    Args:
        index: of the pipeline's folder.

    Raises:
        UserError: if it holds adapters, tensors of no part, or those of a part that the pipeline does not have.
    """
    refuse_adapters(headers, where)
    network = "unet" if "unet" in index else "transformer"
    t5 = next((part for part, value in index.items() if isinstance(value, list) and value[1] == "T5EncoderModel"), "")
    vae = VAE_ALONE if VAE_MARK in headers else ()
    bare = not vae and any(name.startswith(BARE) for name in headers)  # a network alone, without its prefix
    parts: dict[str, list[str]] = {}
    homeless = []
    for name in headers:
        if name.startswith(T5):
            part = t5
        elif name.startswith(LOSS):
            continue
        elif vae and name.startswith(vae):
            part = "vae"
        elif name.startswith(NETWORK) or (bare and not name.startswith(BESIDE)):
            part = network
        else:
            part = next((part for part, prefixes in PREFIXES.items() if name.startswith(prefixes)), "")
        if part in index:
            parts.setdefault(part, []).append(name)
        elif not name.startswith(BESIDE):
            homeless.append(name)
    if homeless:
        raise UserError(f"{where}: holds tensors of no part of a {index['_class_name']} ({_some(homeless)})")
    if network not in parts and not vae and has_average(headers):
        raise UserError(
            f"{where}: holds an average of the {network} ({AVERAGE}) and not the {network} itself; convert the average "
            f"to the names of a {network} ({NETWORK}), or leave it out"
        )
    return {part: parts[part] for part in index if part in parts}


def has_average(headers: Mapping[str, Tensor]) -> bool:
    """Say whether a file holds an average of its network's weights, which is not taken."""
    return any(name.startswith(AVERAGE) for name in headers)


def read_prediction(path: Path) -> str:
    """Return what a file predicts by its metadata, as modelspec has it: "epsilon", "v", or "" for nothing."""
    with safe_open(path, framework="pt") as opened:
        return (opened.metadata() or {}).get(SPEC, "")


def check_prediction(
    headers: Mapping[str, Tensor], scheduler: Mapping[str, Any], where: str, predicts: str = ""
) -> None:
    """Refuse a file that says it predicts something else than the base's scheduler says.

    Args:
        predicts: what the file's metadata says (read_prediction).

    Raises:
        UserError: naming the tensor or the metadata that says so.
    """
    marks = {"v_pred": "v_pred" in headers, f"{SPEC} {predicts}": predicts in ("v", "v_prediction")}
    velocity = next((mark for mark, holds in marks.items() if holds), None)
    edm = [name for name in headers if name.startswith("edm_")]
    if edm:
        raise UserError(
            f"{where}: holds {edm[0]}, so it was trained with EDM's noise levels, which are not trained here"
        )
    if velocity and scheduler.get("prediction_type") != "v_prediction":
        raise UserError(
            f"{where}: holds {velocity}, so it predicts velocity, and the scheduler of its base says "
            f"{scheduler.get('prediction_type', 'epsilon')}; name a base with prediction_type v_prediction as BASE+FILE"
        )
    if "ztsnr" in headers and not scheduler.get("rescale_betas_zero_snr"):
        raise UserError(
            f"{where}: holds ztsnr, so its last timestep is pure noise, and the scheduler of its base says otherwise; "
            "name a base with rescale_betas_zero_snr as BASE+FILE"
        )


def write_parts(path: Path, parts: Mapping[str, list[str]], base: Path, folder: Path, where: str) -> None:
    """Write the parts of a single file as folders in diffusers' and transformers' format.

    Args:
        parts: names of the file's tensors by part.
        base: a folder with the settings of all parts.
        folder: to write to.

    Raises:
        UserError: if a tensor finds no place in the part's class, or a place stays empty.
    """
    from diffusers.utils import logging

    headers = read_headers(path)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # it warns of what it leaves out; what counts is refused below
    try:
        for part, names in parts.items():
            of_part = f"{where}: its {part}"
            dtype = _dtype({headers[name].dtype for name in names}, of_part)
            try:
                opened = _open(path, names, part, base, dtype)
            except NotImplementedError as error:  # diffusers moves what the file left without contents
                raise UserError(f"{of_part} lacks tensors that the {part} of {base} has") from error
            except Exception as error:  # the converters raise what a name or a shape makes them raise
                reason = next(iter(str(error).splitlines()), "")
                raise UserError(f"{of_part} is not one of {base} ({type(error).__name__}: {reason})") from error
            _refuse_unplaced(opened, {name: headers[name] for name in names}, of_part)
            opened.save_pretrained(folder / part)
    finally:
        logging.set_verbosity(verbosity)


def _open(path: Path, names: list[str], part: str, base: Path, dtype: Any) -> Any:
    """Open one part: a network or VAE by its class, a text encoder by the pipeline without its other parts."""
    import diffusers

    index = files.read_json(str(base / "model_index.json"))
    settings: dict[str, Any] = {"config": str(base), "local_files_only": True, "torch_dtype": dtype}
    opened_by = getattr(diffusers, index[part][1], None)
    if opened_by is not None:
        return opened_by.from_single_file(_tensors(path, names), subfolder=part, **settings)
    others = {name: None for name, value in index.items() if isinstance(value, list) and name != part}
    pipeline = getattr(diffusers, index["_class_name"]).from_single_file(str(path), **settings, **others)
    return getattr(pipeline, part)


def _tensors(path: Path, names: list[str]) -> dict[str, Any]:
    """Read tensors; a UNet alone in its original names gets the prefix by which diffusers knows these."""
    bare_unet = any(name.startswith(UNET) for name in names)
    with safe_open(path, framework="pt") as opened:
        return {f"{NETWORK}{name}" if bare_unet else name: opened.get_tensor(name) for name in names}


def _dtype(stored: set[str], where: str) -> Any:
    """Return the torch type that holds all values of a part: the file's own, or float32 where it mixes several."""
    import torch

    types = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    floats = {name for name in stored if name[0] in "FB" and name != "BOOL"}
    unknown = sorted(floats - types.keys())
    if unknown:
        raise UserError(f"{where} is stored as {unknown[0]}; give the checkpoint in float16, bfloat16 or float32")
    return types[floats.pop()] if len(floats) == 1 else torch.float32


def _refuse_unplaced(opened: Any, given: Mapping[str, Tensor], where: str) -> None:
    """Refuse a part of which diffusers' loader left a tensor out, or filled a place with nothing."""
    if hasattr(opened, "tie_weights"):
        opened.tie_weights()  # T5's embedding has two names, and a file may have one of them
    state = opened.state_dict()
    empty = sorted(name for name, tensor in state.items() if tensor.is_meta)
    if empty:
        raise UserError(f"{where} lacks tensors ({_some(empty)})")
    counted = {name: header for name, header in given.items() if not name.endswith(COMPUTED)}
    inside = sum(tensor.numel() for name, tensor in state.items() if not name.endswith(COMPUTED))
    here = sum(math.prod(header.shape) for header in counted.values())
    text = any(name.startswith(PREFIXES["text_encoder"] + PREFIXES["text_encoder_2"]) for name in given)
    if here < inside or (here > inside and not text):  # SD2 leaves out its text encoder's last layer
        raise UserError(f"{where} has {here:,} values, and a {type(opened).__name__} of its settings {inside:,}")


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
