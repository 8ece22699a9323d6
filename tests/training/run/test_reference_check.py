"""Training on cached reference errors: the inline losses bit for bit without a reference, and what is refused."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.material import notes
from support.short_runs import look_twice, short_run
from support.trained_models import train_until_killed

from infra.base import (
    files,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from pipelines.latents import label_files, store
from training.checkpoints.run_folder import STEPS
from training.method import forward
from training.method.batch import Batch
from training.method.policy_config import PolicyConfig
from training.reference import encode_reference, reference_errors
from training.reference.visit_pairs import VisitPairs
from training.run import assembly, draws_check, loop, preflight
from training.run.result import result_folder
from training.settings.config import TrainConfig

from diffusers import StableDiffusionPipeline  # isort: skip

DRAWS = 3
DECIDED = 20  # pairs that the label sets of these tests decide: two steps of 8 an epoch


def write_labels(path: Path, name: str, winner: float) -> None:
    """Write a label set whose first pairs human raters decided as they did (1) or the other way round (0)."""
    table, _ = label_files.read_labels(str(path), "human")
    label = table["label_0"].to_numpy().copy()
    label = label if winner else 1 - label
    label[DECIDED:] = 0.5
    place = table.schema.get_field_index("label_0")
    label_files.write_labels(str(path), name, table.set_column(place, "label_0", pa.array(label, pa.float32())), {})


def compute_errors(settings: encode_reference.ReferenceConfig, cache: Path) -> encode_reference.ReferenceConfig:
    """Add a reference's errors to a store without an engine, and return their settings."""
    plan = encode_reference.make_plan(settings)
    ids = store.kept_pairs(settings.store)["pair_id"].to_numpy()
    wanted = encode_reference.wanted_visits(ids, settings.seed, settings.draws)
    how = (settings.seed, settings.caption_dropout, settings.batch_size, settings.precision, settings.base_precision)
    visit = VisitPairs(plan.model, settings.schedule, settings.store, str(cache), *how)
    files.write_table(files.join(plan.work, "errors", "part-0.parquet"), visit(wanted))
    encode_reference.publish(plan, encode_reference.read_visits(plan, wanted))
    return settings


@pytest.fixture(scope="module")
def cached_store(small_world: str, encoded_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with two label sets of few pairs and three draws of reference errors, made without an engine."""
    path = tmp_path_factory.mktemp("cached") / "store"
    shutil.copytree(encoded_store, path, ignore=shutil.ignore_patterns(".lock"))
    for name, winner in (("few", 1.0), ("flipped", 0.0)):
        write_labels(path, name, winner)
    settings = encode_reference.ReferenceConfig(model=small_world, store=str(path), draws=DRAWS, batch_size=4)
    compute_errors(settings, tmp_path_factory.mktemp("cache"))
    return path


PACKED = PolicyConfig(lora_rank=2, base_precision="fp8")


@pytest.fixture(scope="module")
def packed_errors(
    small_world: str, cached_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> encode_reference.ReferenceConfig:
    """Add one draw of errors of a reference with fp8 weights to the store; return their settings."""
    settings = encode_reference.ReferenceConfig(
        model=small_world,
        store=str(cached_store),
        name="packed",
        draws=1,
        batch_size=4,
        precision="bfloat16",
        base_precision="fp8",
    )
    return compute_errors(settings, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def trained_errors(cached_store: Path, tmp_path_factory: pytest.TempPathFactory) -> encode_reference.ReferenceConfig:
    """Add one draw of errors of the embedded world's own network to the store; return their settings.

    A network of random weights errs by several times as much, and its errors' rounding is beyond what is let pass.
    """
    settings = encode_reference.ReferenceConfig(store=str(cached_store), name="trained", draws=1, batch_size=4)
    return compute_errors(settings, tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
def test_cached_errors_of_packed_weights_are_the_inline_ones(
    inline: TrainConfig,
    packed_errors: encode_reference.ReferenceConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "captions.txt").write_text("a big red star on a teal background\n")
    drawn = replace(inline.validation, sample_prompts=str(tmp_path / "captions.txt"), sampling_steps=1)
    inline = replace(inline, steps=2, validation=drawn, precision="bfloat16", policy=PACKED)
    cached = replace(inline, output=f"{inline.output}-cached", data=replace(inline.data, reference=packed_errors.name))
    for run in (inline, cached):
        loop.train(preflight.check_config(run), assembly.Rank())
    assert "differ by 0.0e+00 logits in the mean, 0.0e+00 at the most" in capsys.readouterr().out
    losses = [[row["loss"] for row in notes(run.output)] for run in (inline, cached)]
    assert losses[0] == losses[1]
    result = result_folder(Path(cached.output))
    assert "beside the base's weights in fp8" in (result / "README.md").read_text()
    adapters = load_file(result / "pytorch_lora_weights.safetensors")
    assert {tensor.dtype for tensor in adapters.values()} == {torch.float32}
    pipeline = StableDiffusionPipeline.from_pretrained(inline.model, dtype=torch.float32)
    pipeline.load_lora_weights(result)  # on the base in full precision
    loaded = dict(pipeline.unet.named_parameters())
    for name, tensor in adapters.items():
        layer, end = name.removeprefix("unet.").rsplit(".lora_", 1)
        assert torch.equal(loaded[f"{layer}.lora_{end.replace('.', '.default_0.', 1)}"], tensor)


@pytest.mark.slow
def test_errors_of_another_base_precision_are_refused_with_both_sides(
    inline: TrainConfig, packed_errors: encode_reference.ReferenceConfig
) -> None:
    narrow = replace(inline, steps=2, precision="bfloat16", policy=PolicyConfig(lora_rank=2, base_precision="bfloat16"))
    narrow = replace(narrow, data=replace(narrow.data, reference="packed"))
    with pytest.raises(UserError, match=r"another --base-precision \(fp8, here bfloat16\); run encode_ref"):
        preflight.check_config(narrow)
    with pytest.raises(UserError, match="base_precision was 'fp8', now 'float32'"):
        encode_reference.make_plan(replace(packed_errors, base_precision="float32"))
    with pytest.raises(UserError, match="--base-precision fp8: its products are computed in bfloat16"):
        encode_reference.make_plan(replace(packed_errors, precision="float32"))


@pytest.fixture
def inline(config: TrainConfig, cached_store: Path) -> TrainConfig:
    """Return settings of six steps, two an epoch."""
    return replace(config, data=replace(config.data, store=str(cached_store), labels="few"))


@pytest.fixture(scope="module")
def finished(
    small_world: str, cached_store: Path, held_out_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainConfig:
    """Return the settings of a run of inline errors, which is finished."""
    settings = short_run(small_world, cached_store, held_out_store, tmp_path_factory.mktemp("inline"))
    settings = replace(settings, data=replace(settings.data, labels="few"))
    with pytest.MonkeyPatch.context() as patched:
        look_twice(patched)
        loop.train(settings, assembly.Rank())
    return settings


@pytest.fixture
def cached(inline: TrainConfig, tmp_path: Path) -> TrainConfig:
    return replace(inline, output=str(tmp_path / "cached"), data=replace(inline.data, reference="base"))


def same_steps(one: TrainConfig, other: TrainConfig) -> bool:
    """Say whether two runs noted the same losses, streams, margins and gradients, to the last bit."""
    names = ("step", "loss", "stream", "margin", "accuracy", "gradient_norm", "reference_error_q1", "policy_error_q4")
    rows = [[[row[name] for name in names] for row in notes(run.output)] for run in (one, other)]
    assert len(rows[0]) == 6
    return rows[0] == rows[1]


@pytest.mark.slow
def test_cached_losses_are_the_inline_ones_and_no_reference_is_held(
    finished: TrainConfig, cached: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[torch.nn.Module]] = []
    make = assembly.make_reference

    def watched(*arguments: Any) -> forward.Reference:
        made = make(*arguments)
        assert isinstance(made, forward.NetworkReference)
        held.append(weakref.ref(made.network))
        return made

    def nothing_held(metrics: dict[str, Any]) -> None:
        gc.collect()
        assert held[-1]() is None, metrics

    monkeypatch.setattr(assembly, "make_reference", watched)
    loop.train(preflight.check_config(cached), assembly.Rank(on_step=nothing_held))
    assert len(held) == 2  # at the start, and for the final figure
    assert same_steps(finished, cached)
    assert notes(cached.output, "assessments.jsonl") == notes(finished.output, "assessments.jsonl")
    facts = [json.loads((result_folder(Path(run.output)) / "facts.json").read_text()) for run in (finished, cached)]
    assert facts[0]["implicit_reward"] == facts[1]["implicit_reward"]
    assert facts[0]["implicit_reward"]["n"] == 14


@pytest.mark.slow
def test_an_interrupted_cached_run_repeats_the_inline_losses(finished: TrainConfig, cached: TrainConfig) -> None:
    train_until_killed(cached, 5)
    loop.train(cached, assembly.Rank())
    assert same_steps(finished, cached)


@pytest.mark.slow
def test_flipped_labels_take_the_same_errors(
    inline: TrainConfig, cached: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    flipped = [replace(run, data=replace(run.data, labels="flipped", held_out_store=None)) for run in (inline, cached)]
    loop.train(flipped[0], assembly.Rank())
    calls: list[int] = []
    asked = forward.NetworkReference.errors

    def count(self: forward.NetworkReference, batch: Batch) -> torch.Tensor:
        calls.append(len(batch.pair_ids))
        return asked(self, batch)

    monkeypatch.setattr(forward.NetworkReference, "errors", count)
    loop.train(preflight.check_config(flipped[1]), assembly.Rank())
    assert calls == [4, 4]  # the first step's comparison alone
    assert same_steps(*flipped)
    human = assembly.build(replace(cached, output=cached.output + "-human"), assembly.Rank())
    turned = assembly.build(flipped[1], assembly.Rank())
    batches = [loop.step_share(trainer, 0)[0] for trainer in (human, turned)]
    assert batches[0].reference_errors is not None
    assert batches[1].reference_errors is not None
    assert torch.equal(batches[0].reference_errors, batches[1].reference_errors.flip(0))


def test_draws_are_counted_by_the_last_steps_epoch() -> None:
    assert draws_check.draws_needed(2000, 851_293 // 2048) == 5  # 415 steps an epoch: 4.8 epochs
    assert [draws_check.draws_needed(steps, 20 // 8) for steps in (1, 2, 3, 6, 7)] == [1, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, r"computed with another --seed \(0, here 1\); run encode_reference.py"),
        ({"data.caption_dropout": 0.1}, r"another --caption-dropout \(0\.2, here 0\.1\)"),
        (
            {"steps": 7},
            "7 steps visit the 20 pairs 4 times, and it has 3 draws, enough for --steps 6; .* --draws 4",
        ),
        ({"data.reference": "other"}, "--reference other: .* has the reference errors base"),
        ({"objective.objective": "sft"}, "--objective sft needs no reference"),
    ],
)
def test_what_was_computed_otherwise_is_refused(cached: TrainConfig, changes: dict[str, Any], told: str) -> None:
    for name, value in changes.items():
        group, _, field = name.rpartition(".")
        inner = {group: replace(getattr(cached, group), **{field: value})} if group else {name: value}
        cached = replace(cached, **inner)
    with pytest.raises(UserError, match=told):
        preflight.check_config(cached)


def rewrite_manifest(path: Path, **settings: Any) -> None:
    told = path / "reference" / "base" / "manifest.json"
    value = json.loads(told.read_text())
    value["settings"] |= settings
    told.write_text(json.dumps(value))


@pytest.fixture
def spoilt(cached: TrainConfig, cached_store: Path, tmp_path: Path) -> tuple[TrainConfig, Path]:
    """Return a run on a copy of the store that a test may spoil."""
    path = shutil.copytree(cached_store, tmp_path / "spoilt")
    return replace(cached, data=replace(cached.data, store=str(path))), path


def test_another_stores_schedules_or_references_errors_are_refused(
    spoilt: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, path = spoilt
    other = shutil.copytree(config.model, tmp_path / "other")
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({name: 1.01 * value for name, value in tensors.items()}, weights)
    with pytest.raises(UserError, match="computed with another reference network"):
        preflight.check_config(replace(config, reference_model=str(other)))
    for name, told in (("store_hash", "another store's pairs"), ("schedule", "another schedule of noise or timesteps")):
        before = json.loads((path / "reference" / "base" / "manifest.json").read_text())["settings"][name]
        rewrite_manifest(path, **{name: "0" * 32})
        with pytest.raises(UserError, match=rf"{told} \(0000000000000000, here {before[:16]}\)"):
            preflight.check_config(config)
        rewrite_manifest(path, **{name: before})
    preflight.check_config(config)


def change_errors(path: Path, by: float) -> None:
    """Move the errors of slot 0 in every draw, and leave the hashes as they are."""
    for file in (path / "reference" / "base").glob("*.parquet"):
        table = pq.read_table(file)
        moved = pa.array(table["error_0"].to_numpy() + np.float32(by))
        files.write_table(str(file), table.set_column(table.schema.get_field_index("error_0"), "error_0", moved))


def test_an_altered_file_is_refused_by_its_hash(spoilt: tuple[TrainConfig, Path]) -> None:
    config, path = spoilt
    victim = path / "reference" / "base" / "draw-0001.parquet"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    errors = assembly.build(config, assembly.Rank()).data.pairs.reference_errors
    assert errors is not None
    assert errors.of(np.array([0, 1]), 0).shape == (2, 2)  # a draw is read, and checked, when its epoch begins
    with pytest.raises(UserError, match=r"draw-0001\.parquet: its contents differ from its manifest"):
        errors.of(np.array([0]), 1)
    victim.unlink()
    with pytest.raises(UserError, match=r"draw-0001\.parquet: missing"):
        preflight.check_config(config)


def test_errors_that_are_not_the_references_are_refused_at_the_first_step(spoilt: tuple[TrainConfig, Path]) -> None:
    config, path = spoilt
    change_errors(path, 1e-5)  # 0.025 logits at beta 5000, 0.0025 at this run's 500
    told = path / "reference" / "base" / "manifest.json"
    value = json.loads(told.read_text())
    for name, about in value["files"].items():
        file = told.parent / name
        about |= {"bytes": file.stat().st_size, "sha256": files.sha256(str(file))}
    told.write_text(json.dumps(value))
    preflight.check_config(config)
    with pytest.raises(UserError, match=r"differ by 2\.5e-03 logits in the mean.*step 1; 1\.0e-05 in the mean is let"):
        loop.train(config, assembly.Rank())
    assert not (Path(config.output) / STEPS).exists()


@pytest.mark.slow
def test_another_micro_batch_is_let_pass_and_told(
    cached: TrainConfig,
    trained_errors: encode_reference.ReferenceConfig,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = replace(cached.data, reference=trained_errors.name)
    cached = replace(cached, model=trained_errors.model, steps=2, data=data)
    loop.train(cached, assembly.Rank())
    told = capsys.readouterr().out
    assert "differ by 0.0e+00 logits in the mean, 0.0e+00 at the most, over the pairs of step 1" in told
    assert "bit for bit" not in told
    other = replace(cached, output=cached.output + "-8", data=replace(data, micro_batch=8))
    monkeypatch.setattr(reference_errors, "hardware", lambda _: "another card, torch 9")
    loop.train(preflight.check_config(other), assembly.Rank())
    told = capsys.readouterr().out
    assert "computed with 4 pairs in a pass (here --micro-batch 8), CPU with " in told
    assert "(here another card, torch 9), so losses equal an inline run's within rounding, not bit for bit" in told
