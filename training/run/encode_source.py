"""The encoding that --source asks the trainer for: of raw pairs into its store, in the same process."""

from __future__ import annotations

from dataclasses import replace

from pipelines.latents import encode_config, encode_latents
from pipelines.latents.encode_config import EncodeConfig
from training.settings.config import TrainConfig
from training.settings.flags import check_flags


def encode(config: TrainConfig) -> None:
    """Encode the source into the store, once the flags alone are found good; a finished store is left as it is.

    Raises:
        UserError: if the flags make no run, or as encode_latents.main does.
    """
    check_flags(config)
    encode_latents.main(encoding(config))


def encoding(config: TrainConfig) -> EncodeConfig:
    """Return the encoder's settings for a run with a source: those of the model's preset, where it has one."""
    assert config.data.source is not None
    presets = encode_config.PRESETS.values()
    known = next((preset for preset in presets if preset.model == config.model), EncodeConfig())
    return replace(
        known, source=config.data.source, store=config.data.store, model=config.model, revision=config.revision
    )
