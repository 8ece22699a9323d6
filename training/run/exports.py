"""Results as drawing tools read them: one file of a whole SD1.5 or SDXL, and adapters in kohya's names.

ComfyUI, A1111 and Forge open both, and so does diffusers. Values and precision stay as the result has them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from infra.base import (
    files,
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from pipelines.latents import components, weight_files
from training.run import original_names

PARTIAL = ".partial"  # ends the name of a file that is not whole, or not yet named by the facts
KINDS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def check(folder: Path, lora: bool) -> None:
    """Refuse a model whose result has no layout in one file that readers know.

    Args:
        folder: of the model that is trained.
        lora: adapters are trained, not the network itself.

    Raises:
        UserError: naming the flag and what the model is.
    """
    name = components.read_index(folder)["_class_name"]
    if name not in KINDS:
        raise UserError(
            f"--export single-file: is for SD1.5's and SDXL's kind, and {folder} is a {name}; leave the flag out, and "
            "open the result with diffusers"
        )
    if lora or name == KINDS[1]:
        return
    if components.settings(folder, "text_encoder")["hidden_act"] != "quick_gelu":
        raise UserError(
            f"--export single-file: {folder} has SD2's text encoder, and only SD1.5's and SDXL's are written"
        )
    predicts = components.settings(folder, "scheduler").get("prediction_type", "epsilon")
    if predicts != "epsilon":
        raise UserError(
            f"--export single-file: {folder} predicts {predicts}, which a file of SD1.5's kind cannot say; leave the "
            "flag out"
        )


def write_checkpoint(folder: Path, path: Path) -> None:
    """Write a diffusers folder of SD1.5's or SDXL's kind as one file.

    SDXL's file says by the names v_pred and ztsnr what its scheduler says, as ComfyUI and Forge read them.
    """
    parts = {part: _part(folder, part) for part in PARTS if part in components.parts_of(folder)}
    settings = {part: components.settings(folder, part) for part in ("unet", "vae")}
    tensors = original_names.original(parts, settings)
    scheduler = components.settings(folder, "scheduler")
    if scheduler.get("prediction_type") == "v_prediction":
        tensors["v_pred"] = torch.zeros(1)
        if scheduler.get("rescale_betas_zero_snr"):
            tensors["ztsnr"] = torch.zeros(1)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def _part(folder: Path, part: str) -> original_names.Tensors:
    """Read a part's tensors under the names of its class."""
    opened = weight_files.open_headers(folder, part)
    loaded = {path: load_file(path) for path in sorted({path for path, _ in opened.tensors.values()})}
    return {name: loaded[path][inside] for name, (path, inside) in opened.tensors.items() if "position_ids" not in name}


def write_kohya(adapters: Path, folder: Path, path: Path) -> None:
    """Write a LoRA result of a UNet in kohya's names, with the scale of each layer as the tensor alpha.

    SD1.5's layers have diffusers' names there, SDXL's those of the original code.

    Args:
        adapters: folder of the result, whose weights are scaled already: alpha is the rank.
        folder: of the base.
    """
    is_xl = components.read_index(folder)["_class_name"] == KINDS[1]
    modules = original_names.unet_modules(components.settings(folder, "unet")) if is_xl else {}
    named: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(adapters / models.ADAPTERS).items():
        layer, end = name.removeprefix("unet.").rsplit(".lora_", 1)
        original = original_names.unet_name(f"{layer}.weight", modules).removesuffix(".weight") if is_xl else layer
        key = f"lora_unet_{original.replace('.', '_')}"
        is_down = end.startswith(("A", "down"))
        named[f"{key}.lora_{'down' if is_down else 'up'}.weight"] = tensor
        if is_down:
            named[f"{key}.alpha"] = torch.tensor(float(tensor.shape[0]))
    save_file(named, path, metadata={"format": "pt"})


def lines(file: str, pipeline: str, lora: bool) -> dict[str, str]:
    """Return how each reader opens a result's single file, by the reader; diffusers in the result's folder.

    Args:
        pipeline: the class of its pipeline in diffusers.
    """
    if lora:
        return {
            "diffusers": f'`pipeline.load_lora_weights(".", weight_name="{file}")` in place of the line above',
            "ComfyUI": "put it in `models/loras`, and add the node Load LoRA with strength_model 1",
            "A1111, Forge": f"put it in `models/Lora`, and write `<lora:{Path(file).stem}:1>` in the prompt",
        }
    return {
        "diffusers": f'`diffusers.{pipeline}.from_single_file("{file}", config=".")`',
        "ComfyUI": "put it in `models/checkpoints`, and choose it in the node Load Checkpoint",
        "A1111, Forge": "put it in `models/Stable-diffusion`, and choose it as the checkpoint",
    }


def say(file: str, base: Path, lora: bool) -> str:
    """Say on a card how each reader opens the single file beside it."""
    what = "the same adapters in kohya's names, their scale in the tensors" if lora else "the same model in one file"
    readers = lines(file, components.read_index(base)["_class_name"], lora).items()
    return f"\n`{file}` holds {what}:\n\n" + "".join(f"- {reader}: {line}\n" for reader, line in readers)


def write(folder: Path, base: Path, name: str, lora: bool) -> Path:
    """Write the file beside a result's card, absent or complete, and return it."""
    return take_name(write_partial(folder, base, name, lora))


def write_partial(folder: Path, base: Path, name: str, lora: bool) -> Path:
    """Write the file under the name of an unfinished one, and return it."""
    partial = folder / f"{name}{PARTIAL}"
    if lora:
        write_kohya(folder, base, partial)
    else:
        write_checkpoint(folder, partial)
    files.flush(str(partial))
    return partial


def take_name(partial: Path) -> Path:
    """Give a whole file its own name, and return it."""
    path = partial.with_name(f"{partial.name.removesuffix(PARTIAL)}.safetensors")
    partial.replace(path)
    files.flush(str(path.parent))
    return path
