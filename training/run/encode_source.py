"""The encoding that --source asks the trainer for: of raw pairs into its store, in the same process."""

from __future__ import annotations

from dataclasses import replace

from infra.base import files, next_step
from infra.base.errors import UserError
from infra.base.node_cache import check_cache
from pipelines.drawing.prompts import read_prompts
from pipelines.latents import encode_config, encode_latents, store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.kinds import kind_of
from pipelines.raw import raw_table, source
from pipelines.raw.pairs import PROBABILITY
from training.run import trackers
from training.settings.config import TrainConfig
from training.settings.flags import check_flags


@next_step.of_another_command()
def encode(config: TrainConfig) -> None:
    """Encode the source into the store, once all else is found good; a finished store is left as it is.

    Raises:
        UserError: as check and encode_latents.main do, or if the network's weights do not do.
    """
    check(config)
    from pipelines.latents import weight_files  # which loads the libraries of networks: what needs none is refused

    folder = config.start.folder()
    weight_files.check_weights(folder, (kind_of(folder).network,))
    encode_latents.main(encoding(config))


def check(config: TrainConfig) -> None:
    """Refuse what no store that is only now encoded would make good.

    Raises:
        UserError: naming the flag.
    """
    check_flags(config)
    trackers.check(config.tracking.report_to)
    check_cache(config.data.cache)
    data = config.data
    if data.held_out_store:
        store.read_manifest(files.resolve(data.held_out_store))
    for prompts in (config.validation.validation_prompts, config.validation.sample_prompts):
        if prompts:
            read_prompts(files.resolve(prompts))
    if files.exists(files.join(files.resolve(data.store), store.MANIFEST)):
        return
    fresh = f"--source {data.source} is encoded into a new store, which"
    if data.labels != "human":
        raise UserError(
            f"--labels {data.labels}: {fresh} has the label set human alone; leave --labels out, or run "
            "encode_latents.py, then relabel.py"
        )
    if data.reference is not None:
        raise UserError(f"--reference {data.reference}: {fresh} has no reference errors; leave --reference out")
    if config.objective.objective == "soft" and not _has_votes(str(data.source)):
        raise UserError(
            f"--objective soft: {fresh} has people's labels, without probabilities; run encode_latents.py, then "
            "relabel.py --label soft"
        )


def _has_votes(pairs: str) -> bool:
    """Say whether raw pairs have the share of people who preferred slot 0, which is a soft label."""
    return PROBABILITY in raw_table.open_source(source.parquet_files(pairs, EncodeConfig().split)).names


def encoding(config: TrainConfig) -> EncodeConfig:
    """Return the encoder's settings for a run with a source: those of the model's preset, where it has one."""
    assert config.data.source is not None
    presets = encode_config.PRESETS.values()
    known = next((preset for preset in presets if preset.model == config.model), EncodeConfig())
    return replace(
        known, source=config.data.source, store=config.data.store, model=config.model, revision=config.revision
    )
