"""Each backbone from raw pairs to images, on tiny random pipelines of the real classes: encode, train, resume, sample,
score, without a cluster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.material import notes, rendered_pairs, write_pairs
from support.tiny_pipelines import KINDS, NEW, RESOLUTIONS, TOKENS
from support.trained_models import train_until_killed

from infra.base import engines
from infra.base.errors import UserError
from infra.base.models import Model
from labelers.scoring.implicit import Implicit
from pipelines.drawing import sampling
from pipelines.latents import encode_latents, store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.kinds import tokenizer_of
from pipelines.raw.decode import open_image
from training.backbones.schedule_config import ScheduleConfig
from training.method import forward
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.method.policy import trained
from training.method.policy_config import PolicyConfig
from training.reference.visit_pairs import VisitPairs
from training.run import assembly, loop, preflight
from training.run.result import result_folder
from training.settings.config import DataConfig, TrainConfig, ValidationConfig

Pipelines = Callable[[str], Path]
FLUX_2 = ("flux2-klein", "flux2-dev")
SHAPES = dict.fromkeys(("sd-v", "sdxl", "sdxl-turbo"), (4, 8, 8)) | dict.fromkeys(FLUX_2, (16, 4, 4))
TURBO = ScheduleConfig((249, 499, 749), zero_terminal_snr=True)


@pytest.fixture(scope="session")
def encode(tiny_pipeline: Pipelines, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    """Return a function that encodes 16 pairs, two of them ties, with a tiny pipeline, and gives the store."""
    raw, stores = write_pairs(tmp_path_factory.mktemp("raw"), rendered_pairs(16)), dict[str, Path]()

    def store_of(kind: str) -> Path:
        if kind not in stores:
            config = EncodeConfig(
                source=str(raw),
                model=str(tiny_pipeline(kind)),
                store=str(tmp_path_factory.mktemp("store") / "store"),
                resolution=resolution_of(kind),
                batch_size=8,
                max_tokens=TOKENS.get(kind),  # type: ignore[arg-type]
            )
            with engines.asking("local"):
                encode_latents.main(config)
            stores[kind] = Path(config.store)
        return stores[kind]

    return store_of


def resolution_of(kind: str) -> int:
    """Return a side in pixels that gives latents of 8 x 8."""
    return RESOLUTIONS.get(kind, 16)


def settings(kind: str, model: Path, path: Path, folder: Path) -> TrainConfig:
    return TrainConfig(
        model=str(model),
        output=str(folder / "run"),
        steps=4,
        checkpoint_every=2,
        data=DataConfig(store=str(path), cache=str(folder / "cache"), global_batch=4, micro_batch=2),
        schedule=TURBO if kind == "sdxl-turbo" else ScheduleConfig(),
        objective=ObjectiveConfig(beta=500.0),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=1),
        validation=ValidationConfig(sampling_steps=2 if kind == "qwen-image" else 1),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_from_pairs_to_images(kind: str, tiny_pipeline: Pipelines, encode: Pipelines, tmp_path: Path) -> None:
    model, path = tiny_pipeline(kind), encode(kind)
    manifest = store.read_manifest(str(path))
    assert manifest.latent_shape == SHAPES.get(kind, (16, 8, 8))
    encoders = {name.removesuffix("_pooled").removesuffix("_length") for name in manifest.embeddings}
    assert set(manifest.fingerprints) == {"vae"} | encoders | {tokenizer_of(name) for name in encoders}

    config = preflight.check_config(settings(kind, model, path, tmp_path))
    straight = replace(config, output=str(tmp_path / "straight"))
    loop.train(straight, assembly.Rank())
    train_until_killed(config, 3)
    loop.train(config, assembly.Rank())
    expected, found = notes(straight.output), notes(config.output)
    assert found[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert found[3]["loss"] != pytest.approx(0.693147, abs=1e-6)  # it learns
    for name in ("loss", "stream", "gradient_norm"):
        assert [row[name] for row in found] == [row[name] for row in expected]

    result = result_folder(Path(config.output))
    tokens = json.loads((result / "facts.json").read_text())["max_tokens"]
    assert tokens == (TOKENS | {"sd3-without-t5": 0}).get(kind)
    pipeline = sampling.load_pipeline(result, torch.float32, "cpu", tokens)
    image = sampling.draw_images(pipeline, ["a red star"], [1], config.validation.sampling_steps, 2.0, tokens)[0]
    assert np.isfinite(np.asarray(image)).all()
    assert np.asarray(image).std() > 0

    rows = rendered_pairs(1)
    images = [open_image(rows[0][f"jpg_{slot}"]) for slot in (0, 1)]
    scorer = Implicit(str(result))
    scores = scorer.score(images, [rows[0]["caption"]] * 2)
    assert np.isfinite(scores).all()
    assert scores[0] != scores[1]
    assert scorer.folders.schedule == config.schedule
    assert scorer.folders.resolution == resolution_of(kind)  # the store's, which for FLUX is not the model's own


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_gets_a_gradient(kind: str, tiny_pipeline: Pipelines, encode: Pipelines, tmp_path: Path) -> None:
    config = settings(kind, tiny_pipeline(kind), encode(kind), tmp_path)
    trainer = assembly.build(config, assembly.Rank())
    batch = loop.step_share(trainer, 0)[0]
    whole = forward.pair_errors(trainer.backbone, trainer.policy, batch, torch.float32)
    whole.sum().backward()
    # Several workers would wait for one that never comes.
    assert [name for name, one in trained(trainer.policy).items() if one.grad is None] == []
    half = forward.pair_errors(trainer.backbone, trainer.policy, batch, torch.bfloat16)
    assert half.dtype == torch.float32
    assert torch.allclose(half, whole, rtol=0.05)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.slow
def test_adapters_reach_every_attention_and_open_in_diffusers(
    kind: str, tiny_pipeline: Pipelines, encode: Pipelines, tmp_path: Path
) -> None:
    plain = settings(kind, tiny_pipeline(kind), encode(kind), tmp_path)
    config = replace(plain, steps=1, checkpoint_every=1, policy=PolicyConfig(lora_rank=2, lora_alpha=6))
    loop.train(preflight.check_config(config), assembly.Rank())
    scorer = Implicit(str(result_folder(Path(config.output))))
    policy, reference = scorer.loaded.networks
    pipeline: Any = sampling.load_pipeline(
        tiny_pipeline(kind), torch.float32, "cpu", 77, lora=result_folder(Path(config.output))
    )
    trainer = assembly.build(config, assembly.Rank())
    batch = loop.step_share(trainer, 0)[0]
    theirs, ours, base = (
        forward.pair_errors(trainer.backbone, network, batch, torch.float32)
        for network in (pipeline.transformer, policy, reference)
    )
    assert torch.equal(theirs, ours)
    assert not torch.equal(ours, base)

    adapted = {name.split(".lora_A")[0] for name, _ in trainer.policy.named_parameters() if ".lora_A" in name}
    if kind in FLUX_2:
        for block in (0, 1):
            assert f"single_transformer_blocks.{block}.attn.to_qkv_mlp_proj" in adapted
            assert f"single_transformer_blocks.{block}.attn.to_out" in adapted
    forward.pair_errors(trainer.backbone, trainer.policy, batch, torch.float32).sum().backward()
    assert [name for name, one in trained(trainer.policy).items() if one.grad is None] == []
    frozen = sorted(
        name for name, one in trainer.policy.named_parameters() if ".lora_" in name and not one.requires_grad
    )
    idle = "transformer_blocks.1.attn.to_add_out"
    expected = [f"{idle}.lora_A.default.weight", f"{idle}.lora_B.default.weight"] if kind == "qwen-image" else []
    assert frozen == expected


@pytest.mark.parametrize("kind", NEW)
def test_errors_computed_ahead_are_those_of_the_step(
    kind: str, tiny_pipeline: Pipelines, encode: Pipelines, tmp_path: Path
) -> None:
    config = settings(kind, tiny_pipeline(kind), encode(kind), tmp_path)
    trainer = assembly.build(config, assembly.Rank())
    batch = loop.step_share(trainer, 0)[0]
    ahead = VisitPairs(
        model=Model(config.model),
        schedule=config.schedule,
        path=config.data.store,
        cache=config.data.cache,
        seed=config.seed,
        caption_dropout=config.data.caption_dropout,
        batch_size=2,
        precision="float32",
    )
    found = ahead(pa.table({"visit": [0, 1], "pair_id": batch.pair_ids, "draw": pa.array([0, 0], pa.int32())}))
    stored = torch.tensor([found[f"error_{slot}"].to_pylist() for slot in (0, 1)])
    # Slots are in the order of the store there, the winner's first here.
    assert torch.allclose(stored.sort(0).values, trainer.reference.errors(batch).sort(0).values, rtol=1e-5)


def test_a_turbo_run_draws_its_three_timesteps(tiny_pipeline: Pipelines, encode: Pipelines, tmp_path: Path) -> None:
    config = settings("sdxl-turbo", tiny_pipeline("sdxl-turbo"), encode("sdxl-turbo"), tmp_path)
    trainer = assembly.build(config, assembly.Rank())
    drawn = [batch.timesteps.tolist() for step in range(12) for batch in loop.step_share(trainer, step)]
    assert {t for batch in drawn for t in batch} == {249, 499, 749}
    with pytest.raises(UserError, match="--timesteps 999: is pure noise"):
        preflight.check_config(replace(config, schedule=replace(TURBO, timesteps=(249, 999))))


def test_a_store_of_another_kind_is_refused(tiny_pipeline: Pipelines, encode: Pipelines, tmp_path: Path) -> None:
    config = settings("sdxl", tiny_pipeline("sdxl"), encode("flux"), tmp_path)
    with pytest.raises(UserError, match=r"encoded with another vae than .* store 2:[0-9a-f]{14}, model 2:[0-9a-f]{14}"):
        preflight.check_config(config)
    config = settings("flux", tiny_pipeline("flux"), encode("flux"), tmp_path)
    with pytest.raises(UserError, match=r"--reference-model .*: a StableDiffusionXLPipeline, but --model is a Flux"):
        preflight.check_config(replace(config, reference_model=str(tiny_pipeline("sdxl"))))


def test_held_out_captions_of_another_length_are_refused(
    tiny_pipeline: Pipelines, encode: Pipelines, tmp_path: Path
) -> None:
    config = settings("sd3", tiny_pipeline("sd3"), encode("sd3"), tmp_path)
    other = tmp_path / "other"
    manifest = store.read_manifest(config.data.store)
    short = {**manifest.embeddings, "text_encoder_3": (128, 24)}
    shutil.copytree(config.data.store, other)
    store.publish(str(other), replace(manifest, embeddings=short))
    with pytest.raises(UserError, match=r"--held-out-store .* another --max-tokens"):
        preflight.check_config(replace(config, data=replace(config.data, held_out_store=str(other))))


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("flux", {"resolution": 18}, "--resolution 18: not a multiple of 4"),  # two pixels a latent, patches of two
        ("sdxl", {"max_tokens": 128}, "--max-tokens 128: .* has no T5 or language model"),
        ("flux", {"max_tokens": 0}, "--max-tokens 0: a FluxPipeline can't do without"),
        ("sana", {"posterior": "moments"}, "--posterior moments: the AutoencoderDC of .* gives one latent of an image"),
    ],
)
def test_impossible_encodings_are_refused(
    kind: str, changes: dict[str, object], told: str, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    raw = write_pairs(tmp_path / "raw", rendered_pairs(2))
    config = EncodeConfig(source=str(raw), model=str(tiny_pipeline(kind)), store=str(tmp_path / "store"))
    with pytest.raises(UserError, match=told):
        encode_latents.main(replace(config, **changes))  # type: ignore[arg-type]


def test_sd3_encoded_without_its_t5(encode: Pipelines) -> None:
    with_t5, without = (store.read_manifest(str(encode(kind))) for kind in ("sd3", "sd3-without-t5"))
    assert with_t5.embeddings["text_encoder_3"] == (77, 24)
    assert with_t5.config["max_tokens"] == 77
    assert "text_encoder_3" not in {*without.embeddings, *without.fingerprints}
    assert with_t5.shift_factor == 0.06
    columns = pa.schema(pq.read_schema(next((encode("sd3") / "prompts").glob("*.parquet")))).names
    assert columns == ["prompt_id", "caption", *with_t5.embeddings]
