"""The settings of networks and VAEs that their pipelines do not feed, or training does not: one check each.

A check reads settings by a function that it is given: as a class fills in its defaults (components.py), or as the file
states them (stated.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infra.base.errors import UserError
from pipelines.latents.kinds_known import KINDS, VAE

Read = Callable[[Path, str], Mapping[str, Any]]  # a folder and a part: the part's settings


def _check_channels(folder: Path, name: str, flag: str, read: Read) -> None:
    """Refuse a network that asks for inputs beside the VAE's latents."""
    kind = KINDS[name]
    network = read(folder, kind.network)
    vae = read(folder, VAE)
    channels = vae["z_dim" if "z_dim" in vae else "latent_channels"] * kind.packed
    if network["in_channels"] != channels:
        raise UserError(
            f"{flag} {_network_file(folder, name)}: in_channels is {network['in_channels']}, and the VAE's latents "
            f"give {channels}; networks for inpainting, depth or other extra inputs are not trained here"
        )


def _network_file(folder: Path, name: str) -> Path:
    return folder / KINDS[name].network / "config.json"


def _check_guidance(folder: Path, name: str, flag: str, read: Read) -> None:
    """Refuse a UNet that is told its guidance, which its pipeline feeds and training does not."""
    if KINDS[name].network != "unet":
        return
    width = read(folder, "unet")["time_cond_proj_dim"]
    if width is not None:
        raise UserError(
            f"{flag} {_network_file(folder, name)}: time_cond_proj_dim is {width}, so this UNet2DConditionModel is "
            "distilled to be told its guidance (LCM), which training does not do; give the model that it was made of"
        )


def _check_conditions(folder: Path, name: str, flag: str, read: Read) -> None:
    """Refuse a UNet that asks for more than its pipeline gives it."""
    if KINDS[name].network != "unet":
        return
    network = read(folder, "unet")
    wanted: dict[str, str | None] = {"class_embed_type": None, "num_class_embeds": None, "encoder_hid_dim": None}
    wanted["addition_embed_type"] = "text_time" if name == "StableDiffusionXLPipeline" else None
    for setting, value in wanted.items():
        if network[setting] != value:
            raise UserError(
                f"{flag} {_network_file(folder, name)}: {setting} is {network[setting]!r}, and a {name} gives a "
                f"network {value!r}"
            )


def _check_sizes(folder: Path, name: str, flag: str, read: Read) -> None:
    """Refuse an SDXL whose UNet takes another number of sizes and pooled values than its pipeline gives."""
    if name != "StableDiffusionXLPipeline":
        return
    network = read(folder, "unet")
    given = 6 * network["addition_time_embed_dim"] + read(folder, "text_encoder_2")["projection_dim"]
    if network["projection_class_embeddings_input_dim"] != given:
        raise UserError(
            f"{flag} {_network_file(folder, name)}: projection_class_embeddings_input_dim is "
            f"{network['projection_class_embeddings_input_dim']}, and six sizes and the pooled caption are {given}"
        )


def _check_variant(folder: Path, name: str, flag: str, read: Read) -> None:
    """Refuse a variant of a kind's network."""
    kind = KINDS[name]
    for setting, wanted, what in kind.variants:
        here = read(folder, kind.network)[setting]
        if here != wanted:
            raise UserError(
                f"{flag} {_network_file(folder, name)}: {setting} is {here!r}, as in {what}; this trainer takes a "
                f"{name} whose {setting} is {wanted!r}"
            )


def _check_latents(folder: Path, name: str, flag: str, read: Read) -> None:
    """Refuse a VAE whose latents are normalised otherwise than its pipeline does."""
    vae = read(folder, VAE)
    file = f"{flag} {folder}/vae/config.json"
    scale = vae.get("scaling_factor", 1.0)
    if not isinstance(scale, int | float) or scale <= 0:
        raise UserError(f"{file}: scaling_factor is {scale!r}, which must be above 0")
    if KINDS[name].network == "unet" and vae.get("shift_factor"):
        raise UserError(
            f"{file}: shift_factor is {vae['shift_factor']}, and a {name} shifts no latents; give a VAE of this kind"
        )
    if vae.get("latents_mean") is not None and "AutoencoderKL" in KINDS[name].parts[VAE]:
        raise UserError(f"{file}: latents_mean is set, and a {name} does not normalise each channel apart")


NETWORK_CHECKS = (_check_channels, _check_guidance, _check_conditions, _check_sizes, _check_variant, _check_latents)
