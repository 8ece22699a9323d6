"""Align a diffusion model with preferences: `ray job submit -- python training/train_dpo.py`.

Diffusion-DPO (Wallace et al. 2023) over a latent store. The same command again resumes from the last complete
checkpoint, exactly; a finished run is left as it is. `--dry-run` prints what a run would take and cost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.base import begun, cli, files, hub, named_files, next_step, object_storage, records, result_files
from infra.base.config_files import CONFIG
from infra.base.errors import UserError
from infra.base.models import Model
from infra.base.one_writer import writer_lock
from infra.base.result_files import FACTS
from pipelines.engine import choose
from pipelines.latents.kinds import kind_of
from pipelines.latents.models_known import model_flags
from pipelines.latents.store import MANIFEST, read_manifest
from training.checkpoints import checkpoint, run_check
from training.checkpoints.run_folder import (
    ASSESSMENTS,
    IDENTITY,
    PAGE,
    RESULT,
    STEPS,
    STORES,
    is_finished,
    read_notes,
    settle_run_id,
)
from training.run import finished_export, result_hub, watchdog
from training.run.preflight import check_config, fit_batch
from training.settings.config import TrainConfig

# Settings that do not change what is computed, but for rounding, so a resumed run may have others.
FREE = (
    *("workers", "min_workers", "cpus_per_worker", "max_failures", "max_preemptions", "resume_from"),
    *("sharding", "activation_checkpointing", "offload", "compile", "channels_last"),
    *("sample_prompts", "sample_every"),
    *("keep_checkpoints", "output", "export", "steps", "cache", "micro_batch", "reference", "source"),
    *("stop_when", "stop_checks", "report_to", "push_to_hub"),
)

REVISIONS = "revisions.json"
MODEL_REVISIONS = ("model", "revision", "reference_model", "reference_revision")
IDENTITIES = "identities.json"  # of the models that a run began with


def main(config: TrainConfig, launch: Callable[[TrainConfig, str], None] | None = None) -> None:
    """Align a diffusion model with the preferences in a latent store, in this process or on Ray Train workers.

    Args:
        launch: what runs the loop over the run folder, in their place.
    """
    output = files.resolve(config.output)
    object_storage.check("--output", output)
    if config.push_to_hub is not None:
        hub.check(config.push_to_hub)
    config = fit_batch(config)
    if config.resume_from is None and is_finished(output, config.steps):
        _refuse_other_settings(output, _with_the_batch_begun_with(output, config))
        _refuse_fewer_steps(output, config.steps)
        if not files.is_remote(output):
            finished_export.finish(Path(output) / RESULT, output.rsplit("/", 1)[-1])
        named_files.refuse(result_files.problems(files.join(output, RESULT), contents=False))
        _export_finished(output, config)
        _hand_on(output, config)
        print(f"{output}: already finished, nothing to do\n{_result(output, config)}", flush=True)
        return
    is_new = not files.exists(files.join(output, CONFIG)) and not _has_steps(output)
    if not is_new:
        # The order of pairs of several shapes goes by whole micro-batches.
        _refuse_other_settings(output, config, set(FREE) - {"micro_batch"} if _has_buckets(config) else FREE)
    if config.data.source is not None:
        from training.run import encode_source

        encode_source.encode(config)
        config = fit_batch(config)
    pinned = check_config(_as_begun(output, config))
    noted = _refuse_other_models(output, pinned)
    with writer_lock(output) as still_held:
        if config.resume_from is None:
            checkpoint.forget_request(output)  # of a command that was refused
        else:
            _refuse_met_stop(output, config, config.resume_from)
            checkpoint.ask_to_rewind(output, config.resume_from)
        _note_settings(output, config, pinned, noted)
        try:
            (launch or _chosen_launch(config))(pinned, output)
        except UserError:
            if is_new and not _has_steps(output):
                _forget_settings(output)
            raise
        still_held()
        if checkpoint.is_asked_to_rewind(output) or not is_finished(output, config.steps):
            raise UserError(f"{output}: the training ended before step {config.steps}; run the same command again")
    page = files.join(output, PAGE)
    if files.exists(page):
        print(f"look at {page}", flush=True)
    _hand_on(output, config)
    print(_result(output, config), flush=True)


def _hand_on(output: str, config: TrainConfig) -> None:
    """Send the result to the Hub, where --push-to-hub asks for it, and say where it is."""
    if config.push_to_hub is not None:
        print(result_hub.push(files.join(output, RESULT), config), flush=True)


def _result(output: str, config: TrainConfig) -> str:
    """Say in one line where the result is, its size, and the command that draws with it."""
    folder = files.join(output, RESULT)
    flag, model = model_flags(config.model)
    if config.policy.lora_rank:
        named = [flag, model, "--lora", folder]
    else:
        named = [*(("--preset", model) if flag == "--preset" else ()), "--model", folder]
    prompts = () if config.model == TrainConfig().model else ("--prompts", "FILE")
    then = next_step.command("pipelines/generate.py", *named, *prompts)
    return next_step.last_line(folder, "the result", then)


def _note_settings(output: str, config: TrainConfig, pinned: TrainConfig, identities: Mapping[str, Any]) -> None:
    """Note what a resumed command must share with this one."""
    cli.save_config(output, config)
    settle_run_id(output)
    files.write_json(files.join(output, REVISIONS), {name: getattr(pinned, name) for name in MODEL_REVISIONS})
    files.write_json(files.join(output, IDENTITIES), identities)
    files.write_json(files.join(output, STORES), _store_hashes(config))


def _forget_settings(output: str) -> None:
    """Forget what was noted of a run that was refused before its first step: the corrected command begins anew."""
    for name in (REVISIONS, IDENTITIES, STORES, IDENTITY, CONFIG):
        files.remove(files.join(output, name))


def _has_steps(output: str) -> bool:
    """Say whether a run has taken a step, by its notes or a checkpoint."""
    return files.is_file(files.join(output, STEPS)) or bool(checkpoint.complete_steps(output))


def _with_the_batch_begun_with(output: str, config: TrainConfig) -> TrainConfig:
    """Take the global batch that once followed a small set, where the store is gone and can't say so again."""
    before = cli.begun_with(files.join(output, CONFIG), TrainConfig())["data"]["global_batch"]
    is_there = files.exists(files.join(files.resolve(config.data.store), MANIFEST))
    return config if is_there else replace(config, data=replace(config.data, global_batch=before))


def _has_buckets(config: TrainConfig) -> bool:
    """Say whether a run's store is there and has buckets."""
    path = files.resolve(config.data.store)
    return files.exists(files.join(path, MANIFEST)) and bool(read_manifest(path).buckets)


def _refuse_fewer_steps(output: str, steps: int) -> None:
    """Refuse to call a run finished that took more steps than it is asked for."""
    taken = int(result_files.read_facts(files.join(output, RESULT)).get("train", {}).get("steps", 0))
    if steps < taken:
        raise UserError(f"--steps {steps}: this run has already taken {taken}; give another --output")


def _refuse_met_stop(output: str, config: TrainConfig, step: int) -> None:
    """Refuse to go on from a checkpoint at which --stop-when ends the run: the result would go, and nothing come."""
    if config.stop_when is None:
        return
    judged = [row for row in read_notes(output, ASSESSMENTS) if row["step"] <= step]
    reason = watchdog.reason_to_stop(judged, config.stop_when, config.stop_checks)
    if reason is not None:
        raise UserError(
            f"--resume-from {step}: --stop-when ends the run there, as {reason}; give an earlier step, or another "
            "--stop-when, or leave that out"
        )


def verify(config: TrainConfig) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with the run folder and with the copies in this node's cache."""
    yield from run_check.problems(files.resolve(config.output))
    yield from run_check.cache_problems(config.data.cache)


def _export_finished(output: str, config: TrainConfig) -> None:
    """Write the single file of a finished run that was trained without --export.

    Raises:
        UserError: if the result lies on S3, or its model has no such layout.
    """
    name = output.rsplit("/", 1)[-1]
    if config.export == "folder" or files.is_file(files.join(output, RESULT, f"{name}.safetensors")):
        return
    if files.is_remote(output):
        raise UserError(f"--export single-file: {output} is finished; copy it to a disk, and name it there as --output")
    folder = Path(output) / RESULT
    lora = bool(config.policy.lora_rank)
    base = _as_begun(output, config).start.folder(()) if lora else folder
    finished_export.add(folder, base, name, lora)


def _chosen_launch(config: TrainConfig) -> Callable[[TrainConfig, str], None]:
    """Choose what runs the loop: this process as the only worker, or Ray Train's workers."""
    if choose.choose_and_say("--workers", config.workers) == "local":
        from training.run import alone

        return alone.launch
    from training.run import workers

    return workers.launch


def _as_begun(output: str, config: TrainConfig) -> TrainConfig:
    """Take the models at the commits that a run began with: a resumed run keeps its start and its reference."""
    path = files.join(output, REVISIONS)
    return replace(config, **records.read_record(path, MODEL_REVISIONS)) if files.exists(path) else config


def _refuse_other_models(output: str, config: TrainConfig) -> dict[str, dict[str, str]]:
    """Refuse a model that has changed in its folder since the run began; return what its models are now.

    Raises:
        UserError: naming flag, folder and part.
    """
    now = {"--model": model_identities(config.start)}
    if config.reference_model is not None:
        now["--reference-model"] = model_identities(config.reference)
    path = files.join(output, IDENTITIES)
    before = records.read_record(path, ("--model",)) if files.exists(path) else {}
    for flag, parts in now.items():
        changed = [part for part, value in parts.items() if before.get(flag, parts).get(part) != value]
        if changed:
            name = config.model if flag == "--model" else config.reference_model
            raise UserError(
                f"{flag} {name}: its {', '.join(changed)} changed since {output} was begun; put it back as it was, or "
                "give another --output"
            )
    return now


def model_identities(model: Model) -> dict[str, str]:
    """Return the fingerprints of a model's network, scheduler and those frozen parts that are on this machine."""
    from pipelines.latents import identity  # which loads the libraries of networks

    folder = model.folder()
    kind = kind_of(folder)
    there = [part for part in kind.frozen() if (folder / part).is_dir()]
    return identity.fingerprints(folder, (kind.network, identity.SCHEDULER, *there))


def _store_hashes(config: TrainConfig) -> dict[str, str]:
    """Return the content hashes of a run's stores, by the names of their settings."""
    named = {"store": config.data.store, "held_out_store": config.data.held_out_store}
    return {name: read_manifest(files.resolve(path)).content_hash for name, path in named.items() if path}


def _begun_store_hashes(output: str) -> dict[str, str]:
    """Read the content hashes of the stores that a run began with; an older run knows only that of its pairs."""
    noted = files.join(output, STORES)
    if files.is_file(noted):
        return records.read_record(noted, ("store",))
    result = files.join(output, RESULT)
    if files.is_file(files.join(result, FACTS)):
        return {"store": records.read_record(files.join(result, FACTS), ("store_hash",))["store_hash"]}
    steps = checkpoint.complete_steps(output)
    if not steps:
        return {}
    folder = files.join(output, checkpoint.name_of(steps[-1]))
    state, _ = checkpoint.read_marker(folder, files.read_bytes(files.join(folder, checkpoint.COMPLETE)))
    return {"store": state.store_hash}


def _spelled_as_begun(output: str, before: Mapping[str, Any], config: TrainConfig) -> TrainConfig:
    """Name the stores as a run did when it began, where they are the same: at the same place, or of equal content."""
    spelled = {}
    for name in ("store", "held_out_store"):
        was = before["data"][name]
        now = getattr(config.data, name)
        if was and now and was != now and _is_same_store(output, name, was, now):
            spelled[name] = was
    return replace(config, data=replace(config.data, **spelled))


def _is_same_store(output: str, name: str, was: str, now: str) -> bool:
    place = files.resolve(now)
    if files.resolve(was) == place:
        return True
    content = _begun_store_hashes(output).get(name)
    return content is not None and read_manifest(place).content_hash == content


def _refuse_other_settings(output: str | Path, config: TrainConfig, free: Collection[str] = FREE) -> None:
    before = cli.begun_with(files.join(str(output), CONFIG), TrainConfig())
    now = cli.as_saved(_spelled_as_begun(str(output), before, config))
    begun.refuse_other_settings(str(output), before, now, "give another --output", free)
