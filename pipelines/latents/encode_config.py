"""The encoder's flags and presets, and which of them a store must be gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from infra.base import begun
from infra.base.errors import UserError, check_least
from infra.base.places import PathOrName, PathText
from pipelines.latents.models_known import MODELS
from pipelines.latents.safety_config import HASHED, SafetyConfig

if TYPE_CHECKING:
    from pipelines.latents.safety import Filter

WORLD = "infra/world"
Posterior = Literal["sample", "mean", "moments"]
Dtype = Literal["float32", "bfloat16", "float16"]
StoreDtype = Literal["float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Settings of the encoder. The fields before the blank line decide what the store holds, the others only how."""

    GROUPS: ClassVar = {
        "basic": ("source", "store", "model"),
        "what is stored": (
            "resolution",
            "fit",
            "buckets",
            "bucket_tolerance",
            "posterior",
            "flip",
            "seed",
            "dtype",
            "store_dtype",
            "max_tokens",
            "revision",
        ),
        "which pairs": ("split", "strict_labels", "max_bad_fraction"),
        "content filter": ("prompt_blocklist", "safety_checker", "safety_revision"),
        "speed and size": (
            "encoders",
            "min_encoders",
            "gpus_per_encoder",
            "accelerator_type",
            "decode_tasks",
            "cpus_per_decode_task",
            "batch_size",
            "rows_per_file",
        ),
        "repair": ("repair",),
        "hand on": ("push_to_hub", "hub_license"),
    }

    source: PathOrName = f"{WORLD}/pairs"
    """Pairs to encode: a Parquet file or folder (local, s3:// or hf://), or the name of a Hugging Face dataset."""
    split: str = "train"
    """Split of a named dataset, or of a folder whose files' names tell several."""
    model: PathOrName = f"{WORLD}/model"
    """Model to encode for: a diffusers folder, a Hub name, a single .safetensors file, or BASE+FILE. Its VAE and text
    encoders are used."""
    revision: str | None = None
    """Revision of the model on the Hub, for example a commit; by default the newest."""
    store: PathText = "runs/store"
    """Folder to write the latent store to, local or s3://."""
    resolution: int | None = None
    """Width and height of the images in pixels, with --buckets those of the square among them; by default what the
    model was made for."""
    fit: Literal["crop", "pad"] = "crop"
    """How an image gets the shape that is stored: crop cuts out its centre, pad fills it up with white."""
    buckets: bool = False
    """Store each pair in the one of several shapes, from 1:2 to 2:1, that is nearest to slot 0's image, instead of in
    squares. All have about as many pixels as the square."""
    bucket_tolerance: float = 0.15
    """Greatest share of an image, from 0 to 1, that its pair's bucket may cut off (with --fit pad: leave white). A pair
    with an image that would lose more is quarantined."""
    posterior: Posterior = "sample"
    """What is kept of the distribution that the VAE gives for an image: one sample, its mean, or moments. Moments
    are mean and standard deviation, take twice the space, and let training draw a new sample at each visit."""
    flip: bool = False
    """Also store each image mirrored, for training to choose from."""
    strict_labels: bool = False
    """Refuse pairs whose label_1 contradicts label_0; by default they are only counted."""
    seed: int = 0
    """Seed of the samples that --posterior sample draws."""
    dtype: Dtype = "float32"
    """Number format that the encoders compute in. In float16 the VAE of SDXL and the T5 text encoder overflow."""
    store_dtype: StoreDtype = "float16"
    """Number format of the latents and embeddings in the store. float32 takes twice the space and rounds nothing."""
    max_tokens: Literal[0, 77, 128, 256, 512] | None = None
    """Number of tokens that captions are cut or padded to for the T5 or the language model (not for Stable Diffusion
    1, 2 and XL); by default 256 for SD3, 300 for Sana and 512 for the others. Padding influences the images of SD3 and
    FLUX, so draw with the same number. 0 leaves T5 out, which only SD3 allows."""
    safety: SafetyConfig = field(default_factory=SafetyConfig)

    encoders: int = 0
    """Number of copies of the VAE that encode at once; 0 takes one for each GPU, or one where there is none."""
    min_encoders: int = 0
    """Number of copies of the VAE to start with; others are added, up to --encoders, as the cluster has room. 0
    starts with all."""
    gpus_per_encoder: float | None = None
    """GPUs that each copy of the VAE holds; by default 1 where the cluster has GPUs, else 0."""
    accelerator_type: str | None = None
    """Kind of GPU to encode on, by Ray's name for it, for example L4, A10G or H100; by default any."""
    decode_tasks: int = 0
    """Number of tasks that decode images at once; 0 takes as many as there are free cores."""
    cpus_per_decode_task: float | None = None
    """Cores that each decoding task holds; by default 1 where the cluster has GPUs, else a share of a core."""
    batch_size: int = 32
    """Pairs that the VAE encodes at once, with --buckets at most so many of one shape. It changes the last bits of the
    result, so a store must be finished with the same number."""
    rows_per_file: int = 256
    """Pairs per file. When a run is killed, each copy of the VAE loses at most so many."""
    max_bad_fraction: float = 0.1
    """Greatest share of unusable rows, from 0 to 1; with a greater share the job stops and says why."""
    repair: bool = False
    """Encode only the rows of lost or damaged files of a finished store again."""
    push_to_hub: str | None = None
    """Repository on the Hub, OWNER/NAME, that gets the store when it is finished. A new one is private. The
    login is HF_TOKEN of the environment. The same command also sends what is finished, and nothing twice."""
    hub_license: str = "unknown"
    """For --push-to-hub: licence that the card names, by the Hub's word for it, for example cc-by-4.0."""


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
    *("rows_per_file", "store", "max_bad_fraction", "repair", "push_to_hub", "hub_license"),
)


def check_numbers(config: EncodeConfig) -> None:
    """Refuse numbers that no encoding can have.

    Raises:
        UserError: naming the flag.
    """
    if not 0 <= config.max_bad_fraction <= 1:
        raise UserError(f"--max-bad-fraction {config.max_bad_fraction:g}: must be from 0 to 1")
    _check_tolerance(config)
    none = dict.fromkeys(("encoders", "min_encoders", "decode_tasks", "gpus_per_encoder"), 0)
    check_least(config, none | dict.fromkeys(("resolution", "batch_size", "rows_per_file"), 1))
    if config.encoders and config.min_encoders > config.encoders:
        raise UserError(f"--min-encoders {config.min_encoders}: more than --encoders {config.encoders}")
    if config.cpus_per_decode_task is not None and not config.cpus_per_decode_task > 0:
        raise UserError(f"--cpus-per-decode-task {config.cpus_per_decode_task:g}: must be above 0")


def _check_tolerance(config: EncodeConfig) -> None:
    """Refuse a tolerance that no image can keep, or that nothing asks for."""
    given = f"--bucket-tolerance {config.bucket_tolerance:g}"
    if not 0 <= config.bucket_tolerance < 1:
        raise UserError(f"{given}: must be from 0 to below 1")
    if not config.buckets and config.bucket_tolerance != EncodeConfig().bucket_tolerance:
        raise UserError(f"{given}: has no meaning without --buckets")


def store_identity(config: EncodeConfig, chosen: Filter) -> dict[str, Any]:
    """Return a store's settings by flag; those of the filter as hashes of what they name, or None."""
    settings = asdict(config)
    del settings["safety"]
    return settings | {name: chosen.identity.get(name) for name in HASHED}


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
    earlier = {
        "fit": "crop",
        "store_dtype": "float16",
        "buckets": False,
        "bucket_tolerance": EncodeConfig().bucket_tolerance,
    }
    before = earlier | dict(before)  # what stores of before had
    begun.refuse_other_settings(destination, before, now, "give another --store", FREE)
