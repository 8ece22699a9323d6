"""The encoder's flags and presets, and which of them a store must be gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from infra.base.errors import UserError, check_least
from pipelines.latents import encoders, safety
from pipelines.latents.models_known import MODELS
from pipelines.latents.safety import Filter, SafetyConfig

WORLD = "infra/world"


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Flags of the encoder. The first group decides what the store holds; the second only how it comes about."""

    source: str = f"{WORLD}/pairs"
    """Raw pairs: a Parquet folder or file, local, s3:// or hf://, or a datasets name."""
    split: str = "train"
    """Split of a datasets name."""
    model: str = f"{WORLD}/model"
    """A diffusers folder or Hub name; its VAE and text encoders are used."""
    revision: str | None = None
    """Revision of a Hub name."""
    store: str = "runs/store"
    """Folder to write, local or s3://."""
    resolution: int | None = None
    """Side of the images in pixels; by default what the model was made for."""
    posterior: encoders.Posterior = "sample"
    """What is kept of the VAE's posterior: one sample, its mean, or mean and standard deviation (twice the size)."""
    flip: bool = False
    """Store each image mirrored as well."""
    strict_labels: bool = False
    """Quarantine rows whose label_1 contradicts label_0; by default they are only counted."""
    seed: int = 0
    """Of the posterior samples."""
    dtype: encoders.Dtype = "float32"
    """Of the encoders' arithmetic. In float16 SDXL's own VAE and T5 overflow."""
    max_tokens: Literal[0, 77, 128, 256, 512] | None = None
    """Length to which T5's captions are cut or padded; by default diffusers' own (SD3 256, FLUX 512). The network
    attends to the padding too, so sample with the same. 0 leaves T5 out, where the model can do without (SD3)."""
    safety: SafetyConfig = field(default_factory=SafetyConfig)

    encoders: int = 0
    """Copies of the VAE; 0: one per GPU, or one where there is none."""
    min_encoders: int = 0
    """Copies of the VAE to begin with; more, up to --encoders, as the cluster has room. 0: all of them."""
    gpus_per_encoder: float | None = None
    """By default 1 where the cluster has GPUs, else 0."""
    accelerator_type: str | None = None
    """Kind of GPU that the VAE and the text encoders want, as Ray names it (L4, A10G, H100); by default any."""
    decode_tasks: int = 0
    """Images are decoded by so many tasks at once, at most, beside the VAE; 0: as many as there are cores for."""
    cpus_per_decode_task: float | None = None
    """By default a core where the cluster has GPUs; else what lets Ray decode within the VAE's copies."""
    batch_size: int = 32
    """Pairs per VAE batch. It moves the latents' last bits, so a store is finished with the one it was begun with."""
    rows_per_file: int = 256
    """Rows per block and file: what a killed run may lose, per copy of the VAE."""
    max_bad_fraction: float = 0.1
    """Of the source's rows, that may be quarantined; with more the job ends and says why."""
    repair: bool = False
    """Compute the rows of a finished store's lost or damaged files again, and no others."""


PRESETS = {
    name: EncodeConfig(
        model=model.hub_name,
        resolution=model.resolution,
        batch_size=model.encode_batch,
        rows_per_file=model.rows_per_file,
    )
    for name, model in MODELS.items()
}
LINES = {name: model.line for name, model in MODELS.items()}
FREE = (  # settings that a store goes on with whatever they were
    *("encoders", "min_encoders", "gpus_per_encoder", "accelerator_type", "decode_tasks", "cpus_per_decode_task"),
    *("rows_per_file", "store", "max_bad_fraction", "repair"),
)


def check_numbers(config: EncodeConfig) -> None:
    """Refuse numbers that no encoding can have.

    Raises:
        UserError: naming the flag.
    """
    if not 0 <= config.max_bad_fraction <= 1:
        raise UserError(f"--max-bad-fraction {config.max_bad_fraction:g}: must be from 0 to 1")
    none = dict.fromkeys(("encoders", "min_encoders", "decode_tasks", "gpus_per_encoder"), 0)
    check_least(config, none | dict.fromkeys(("resolution", "batch_size", "rows_per_file"), 1))
    if config.encoders and config.min_encoders > config.encoders:
        raise UserError(f"--min-encoders {config.min_encoders}: more than --encoders {config.encoders}")
    if config.cpus_per_decode_task is not None and not config.cpus_per_decode_task > 0:
        raise UserError(f"--cpus-per-decode-task {config.cpus_per_decode_task:g}: must be above 0")


def store_identity(config: EncodeConfig, chosen: Filter) -> dict[str, Any]:
    """Return a store's settings by flag; those of the filter as hashes of what they name, or None."""
    settings = asdict(config)
    del settings["safety"]
    return settings | {name: chosen.identity.get(name) for name in safety.HASHED}


def refuse_other_settings(
    destination: str,
    before: Mapping[str, Any],
    config: EncodeConfig,
    chosen: Filter,
    fingerprints: Mapping[str, str] | None = None,
) -> None:
    """Refuse settings that a store was not begun with.

    Args:
        before: what the store holds of its settings, by flag.
        chosen: the filter that config names.
        fingerprints: of the model's frozen parts, by name, where they are known.

    Raises:
        UserError: naming each setting that differs, as it was and as it is now.
    """
    now = store_identity(config, chosen) | ({"fingerprints": fingerprints} if fingerprints else {})
    differing = [name for name in now if name not in FREE and before.get(name) != now[name]]
    if differing:
        told = "; ".join(f"{name} was {before.get(name)!r}, now {now[name]!r}" for name in differing)
        raise UserError(f"{destination} was begun with other settings ({told}); give another --store")
