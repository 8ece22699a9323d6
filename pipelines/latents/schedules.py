"""A folder's noise schedule: opened by its own class, then remade by the one class that training computes with.

Schedulers differ in how they sample; training needs only the noise levels that the model was made for. Each class has
defaults of its own for what its file leaves out, and names of its own for a flow's shift, so the file is opened by the
class that the index names, and never read raw.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.base.errors import UserError
from pipelines.latents import components
from pipelines.latents.kinds_known import FLOW_MATCH_SCHEDULERS, FLOW_SCHEDULERS, KINDS

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

FLOW = "flow_prediction"  # what the solvers call a flow's prediction
FILE = "scheduler/scheduler_config.json"


def check_schedule(folder: Path, flag: str = "--model") -> None:
    """Refuse a schedule that training cannot remake, for the pipelines that are trained.

    Raises:
        UserError: as diffusion_scheduler and flow_scheduler do.
    """
    known = KINDS.get(components.read_index(folder, flag)["_class_name"])
    if known is None:
        return
    if known.parts["scheduler"] == FLOW_SCHEDULERS:
        flow_scheduler(folder, flag)
    else:
        diffusion_scheduler(folder, flag=flag)


def diffusion_scheduler(folder: Path, zero_terminal_snr: bool = False, flag: str = "--model") -> DDPMScheduler:
    """Open a diffusion model's schedule as a DDPMScheduler with the same betas.

    Args:
        zero_terminal_snr: rescale the betas so that the last timestep is pure noise.

    Raises:
        UserError: if the model's schedule is none of that kind.
    """
    own, where = open_scheduler(folder, flag)
    import torch
    from diffusers import DDPMScheduler

    settings = _settings(own)
    refuse_other_noise(settings, type(own).__name__, where)
    if len(own.alphas_cumprod) != settings["num_train_timesteps"]:
        raise UserError(
            f"{where}: trained_betas has {len(own.alphas_cumprod)} numbers, and num_train_timesteps is "
            f"{settings['num_train_timesteps']}"
        )
    remade = DDPMScheduler.from_config(settings)
    ours, theirs = remade.alphas_cumprod, own.alphas_cumprod
    # With a terminal SNR of zero, some classes put a tiny number in place of the last 0.
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs.to(ours.dtype), rtol=1e-5, atol=1e-6):
        raise UserError(f"{where}: the noise levels of this {type(own).__name__} are not those of its betas")
    return DDPMScheduler.from_config(settings, rescale_betas_zero_snr=True) if zero_terminal_snr else remade


def flow_scheduler(folder: Path, flag: str = "--model") -> FlowMatchEulerDiscreteScheduler:
    """Open a flow model's schedule as a FlowMatchEulerDiscreteScheduler with the same shift.

    Raises:
        UserError: if the model's schedule is none of a flow, or its shift has no such form.
    """
    own, where = open_scheduler(folder, flag)
    from diffusers import FlowMatchEulerDiscreteScheduler

    settings = _settings(own)
    kind = type(own).__name__
    refuse_other_flow(settings, kind, where)
    if kind in FLOW_MATCH_SCHEDULERS:
        return FlowMatchEulerDiscreteScheduler.from_config(settings)
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=settings["num_train_timesteps"], shift=settings["flow_shift"]
    )


def refuse_other_noise(settings: Mapping[str, Any], kind: str, where: str) -> None:
    """Refuse the settings of a schedule that is not one of betas, or predicts something else than noise or velocity.

    Raises:
        UserError: beginning with where, which names the file.
    """
    if settings.get("timestep_type", "discrete") != "discrete" or settings.get("use_flow_sigmas"):
        odd = "timestep_type" if settings.get("timestep_type", "discrete") != "discrete" else "use_flow_sigmas"
        raise UserError(
            f"{where}: {odd} is {settings[odd]}, so this {kind} does not sample the noise levels of betas, which "
            "training here needs"
        )
    prediction = settings.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(f"{where}: its prediction_type is {prediction}, not epsilon or v_prediction")


def refuse_other_flow(settings: Mapping[str, Any], kind: str, where: str) -> None:
    """Refuse the settings of a schedule that is none of a flow, or whose shift has another form.

    Raises:
        UserError: beginning with where, which names the file.
    """
    if kind in FLOW_MATCH_SCHEDULERS:
        if settings.get("invert_sigmas"):
            raise UserError(f"{where}: invert_sigmas is set, so this {kind} runs from images to noise")
        return
    if not settings.get("use_flow_sigmas") or settings.get("prediction_type") != FLOW:
        raise UserError(
            f"{where}: this {kind} samples a flow only with use_flow_sigmas true and prediction_type {FLOW}, and has "
            f"{settings.get('use_flow_sigmas')} and {settings.get('prediction_type')}"
        )
    if settings.get("use_dynamic_shifting"):
        raise UserError(
            f"{where}: use_dynamic_shifting of a {kind} is not read here; give a FlowMatchEulerDiscreteScheduler"
        )


def _settings(scheduler: Any) -> dict[str, Any]:
    """Return a scheduler's settings without diffusers' notes, which have defaults replaced by another class's."""
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


def open_scheduler(folder: Path, flag: str = "--model") -> tuple[Any, str]:
    """Open a folder's scheduler by the class that its index names; return it and its file, for a refusal.

    Raises:
        UserError: naming the file, if the class cannot read it.
    """
    opened_by = components.class_of(folder, "scheduler")
    where = f"{flag} {folder}/{FILE}"
    try:
        return opened_by.from_pretrained(folder, subfolder="scheduler"), where
    except Exception as error:  # diffusers raises several types
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{where}: cannot be opened as a {opened_by.__name__} ({reason})") from error
