"""What a run's models must be, compared with the store, the flags and each other, before any network is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from infra.base import counting, files, models
from infra.base.errors import UserError
from infra.base.logs import LOGGER
from pipelines.drawing.prompts import read_prompts
from pipelines.latents import components, identity, store, weight_files
from pipelines.latents.kinds import kind_of, pipeline_class
from pipelines.latents.models_known import DISTILLED
from training.backbones.backbone import check_fingerprints, open_backbone
from training.layout import base_precision
from training.method.policy import lora_targets
from training.run import exports
from training.run.reference_check import check_reference_errors
from training.settings.config import TrainConfig


def check_models(config: TrainConfig, manifest: store.Manifest) -> TrainConfig:
    """Check the models of a run, and return its settings with these at the commits that every worker shall load.

    Raises:
        UserError: naming the flag that does not fit.
    """
    base_precision.check_package(config.policy.base_precision)
    path = files.resolve(config.data.store)
    # First the settings alone, then the frozen parts: what does not fit is refused before the network is fetched.
    weight_files.check_folder(config.start.folder(()), ())
    backbone = open_backbone(config.start.folder(()), config.schedule)
    _warn_of_distilled(config, backbone.folder)
    if config.export == "single-file":
        exports.check(backbone.folder, lora=bool(config.policy.lora_rank))
    if config.policy.lora_rank:
        network = counting.empty(backbone.folder, backbone.network_folder)
        lora_targets(network, config.policy.lora_targets, kind_of(backbone.folder).lora)
    check_fingerprints(manifest.fingerprints, _frozen_folder(config.start, manifest), path)
    if config.data.held_out_store:
        other = files.resolve(config.data.held_out_store)
        apart = store.read_manifest(other)
        check_fingerprints(apart.fingerprints, _frozen_folder(config.start, apart), other)
    if config.validation.draws:
        _check_drawing(config)
    _check_reference(config, manifest)
    check_reference_errors(config)
    start = config.start.pinned()
    pinned = replace(config, model=start.name, revision=start.revision)
    weight_files.check_weights(config.start.folder(), (backbone.network_folder,))
    if config.reference_model is None:
        return pinned
    weight_files.check_weights(config.reference.folder(), (backbone.network_folder,), "--reference-model")
    reference = config.reference.pinned()
    return replace(pinned, reference_model=reference.name, reference_revision=reference.revision)


def _warn_of_distilled(config: TrainConfig, folder: Path) -> None:
    """Warn of a model that was distilled to a few sampling steps, where it would be trained at all timesteps."""
    base = DISTILLED.get(config.model)
    if config.schedule.timesteps or not (base or components.read_index(folder).get("is_distilled")):
        return
    LOGGER.warning(
        f"--model {config.model}: was distilled to a few sampling steps, which training at all timesteps undoes; train "
        f"{base or 'the model that it was made of'}, or give --timesteps, those of its steps"
    )


def _check_drawing(config: TrainConfig) -> None:
    """Refuse captions, scorer or sampling steps that no image of the run could be drawn or judged with."""
    from labelers.scoring import scorers
    from pipelines.drawing.steps import check_steps

    validation = config.validation
    if validation.validation_prompts:
        captions = read_prompts(files.resolve(validation.validation_prompts))
        scorers.check(validation.validation_scorer, validation.validation_weights, captions)
    if validation.sample_prompts:
        read_prompts(files.resolve(validation.sample_prompts))
    check_steps(config.start.folder(()), validation.sampling_steps)


def _frozen_folder(model: models.Model, manifest: store.Manifest, flag: str = "--model") -> Path:
    """Fetch a model's settings and the frozen parts that a store depends on; flag: the one that names the model."""
    return model.folder(kind_of(model.folder((), flag)).frozen_in(manifest.fingerprints), flag)


def _check_reference(config: TrainConfig, manifest: store.Manifest) -> None:
    """Refuse a reference that would see other latents, captions or noise than the policy, or has another shape."""
    if config.reference_model is None:
        return
    start = _frozen_folder(config.start, manifest)
    reference = _frozen_folder(config.reference, manifest, "--reference-model")
    named = f"--reference-model {config.reference_model}"
    weight_files.check_folder(reference, (), "--reference-model")
    if pipeline_class(start) != pipeline_class(reference):
        raise UserError(f"{named}: a {pipeline_class(reference)}, but --model is a {pipeline_class(start)}")
    backbones = open_backbone(start, config.schedule), open_backbone(reference, config.schedule)
    for name in kind_of(start).frozen_in(manifest.fingerprints):
        if identity.fingerprint(start, name) != identity.fingerprint(reference, name):
            raise UserError(f"{named}: its {name} is not that of --model {config.model}, so it would see other inputs")
    if backbones[0].schedule() != backbones[1].schedule():
        raise UserError(f"{named}: its noise schedule is not that of --model {config.model}")
    shapes = [backbone.network_settings() for backbone in backbones]
    names = shapes[0].keys() | shapes[1].keys()
    differing = sorted(name for name in names if shapes[0].get(name) != shapes[1].get(name))
    if differing:
        raise UserError(f"{named}: its network differs from --model {config.model} in {', '.join(differing)}")
