"""Weights against the classes that open them, and parts' classes and settings, without Ray and without weights read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.base.errors import UserError
from pipelines.latents import components, kinds, kinds_known, planned, schedules, stated, weight_files
from pipelines.latents.models_known import MODELS
from pipelines.latents.weight_files import check_folder, opened_parts

Tensors = dict[str, torch.Tensor]
Pipelines = Callable[[str], Path]


def rewrite(folder: Path, part: str, change: Callable[[Tensors], Tensors]) -> None:
    """Change the tensors of a part's one file."""
    (path,) = (folder / part).glob("*.safetensors")
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def set_json(path: Path, **values: Any) -> None:
    """Set values in a file of settings; None takes one out."""
    settings = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


def put(old: str, new: str) -> Callable[[Tensors], Tensors]:
    """Rename tensors."""
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def front(prefix: str) -> Callable[[Tensors], Tensors]:
    """Put a prefix before every name."""
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def without(word: str) -> Callable[[Tensors], Tensors]:
    """Drop the tensors whose names hold a word."""
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if word not in name}


def old_attention(tensors: Tensors) -> Tensors:
    """Name the VAE's attention as diffusers did before 0.13."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in names.items():
        tensors = put(f"attentions.0.{new}.", f"attentions.0.{old}.")(tensors)
    return tensors


def first_narrower(tensors: Tensors) -> Tensors:
    """Cut the last number off the first tensor."""
    name = next(iter(tensors))
    return tensors | {name: tensors[name][..., :-1].contiguous()}


@pytest.fixture
def copied(tiny_pipeline: Pipelines, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies a tiny pipeline, to be spoilt."""
    return lambda kind: Path(shutil.copytree(tiny_pipeline(kind), tmp_path / "model"))


@pytest.mark.parametrize("kind", ["sd-v", "sdxl", "sd3", "sd3-without-t5", "flux", "sdxl-refiner"])
def test_whole_pipelines_of_every_kind_are_taken(kind: str, tiny_pipeline: Pipelines) -> None:
    folder = tiny_pipeline(kind)
    check_folder(folder, opened_parts(folder))
    for part in opened_parts(folder):
        opened = weight_files.open_headers(folder, part)
        assert opened.tensors.keys() == dict(components.class_of(folder, part).from_pretrained(
            folder / part).state_dict()).keys()  # fmt: skip


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("kind", "part", "change", "words"),
    [
        ("sd-v", "text_encoder", put("q_proj.", "q_proj.base_layer."), r"its own, 4 tensors .*unload_lora_weights"),
        ("sd-v", "text_encoder", front("module."), r"its own, 36 tensors \(module\..*network\.module"),
        ("sdxl", "text_encoder_2", without("text_projection"), r"lacks 1 tensor \(text_projection\.weight\)"),
        ("flux", "text_encoder_2", without("layer_norm"), r"T5EncoderModel .* lacks 3 tensors"),
        ("sd-v", "unet", front("_orig_mod."), r"UNet2DConditionModel .*compiled network"),
        ("sd3", "transformer", first_narrower, r"in another shape 1 tensor \(\S+ is \d+, not \d+\)"),
        ("sd-v", "vae", without("decoder.conv_in"), r"AutoencoderKL .* lacks 2 tensors \(decoder\.conv_in\.bias"),
        ("sd-v", "vae", lambda tensors: tensors | {"loss.logvar": torch.zeros(1)}, r"beside its own, 1 tensor \(loss"),
    ],
)
def test_weights_of_another_class_are_refused(
    kind: str, part: str, change: Callable[[Tensors], Tensors], words: str, copied: Pipelines
) -> None:
    folder = copied(kind)
    rewrite(folder, part, change)
    with pytest.raises(UserError, match=rf"--model .*/{part}/\w+\.safetensors: not the weights of the .*{words}"):
        check_folder(folder, opened_parts(folder))


@pytest.mark.chaos
@pytest.mark.parametrize(
    "file",
    ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"],
)
def test_a_byte_order_mark_is_told_as_that(file: str, copied: Pipelines) -> None:
    """Windows' editors write it; the libraries call such a file no JSON, once in a traceback."""
    path = copied("sd-v") / file
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(UserError, match=rf"{file}: begins with a byte order mark"):
        stated.refuse(path.parents[file.count("/")])


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"text_encoder": [None, None]}, "names no text_encoder, which a StableDiffusionPipeline needs here"),
        ({"vae": None}, "names no vae, which"),
        ({"feature_extractor": ["os", "system"]}, r"its feature_extractor is os\.system, of neither diffusers nor"),
        ({"_class_name": "DiffusionPipeline"}, "its _class_name is 'DiffusionPipeline', which diffusers does not have"),
        ({"_class_name": "ModelMixin"}, "its _class_name is 'ModelMixin', which diffusers does not have"),
    ],
)
def test_an_index_that_names_too_little_or_something_else_is_refused(
    values: dict[str, Any], told: str, copied: Pipelines
) -> None:
    """Once, drawing met each of these in a worker."""
    folder = copied("sd-v")
    set_json(folder / "model_index.json", **values)
    with pytest.raises(UserError, match=rf"--model .*model_index\.json: {told}"):
        stated.refuse(folder)


@pytest.mark.chaos
@pytest.mark.parametrize("check", [stated.refuse, lambda folder: check_folder(folder, opened_parts(folder))])
def test_adapters_beside_a_text_encoder_are_refused(check: Callable[[Path], None], copied: Pipelines) -> None:
    """transformers loads them by itself: once, another text encoder had the same fingerprint."""
    folder = copied("sd-v")
    (folder / "text_encoder" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UserError, match=r"text_encoder/adapter_config\.json: adapters \(PEFT\) lie beside the weights"):
        check(folder)


@pytest.mark.parametrize(
    ("kind", "part", "change"),
    [
        ("sd-v", "vae", old_attention),
        ("sd-v", "text_encoder", front("text_model.")),
        ("sd-v", "text_encoder", lambda tensors: tensors | {"embeddings.position_ids": torch.arange(16)[None]}),
        ("flux", "text_encoder_2", put("shared.", "encoder.embed_tokens.")),
        ("flux", "text_encoder_2", lambda tensors: tensors | {"decoder.final_layer_norm.weight": torch.ones(24)}),
    ],
)
def test_names_that_the_libraries_convert_are_taken(
    kind: str, part: str, change: Callable[[Tensors], Tensors], copied: Pipelines
) -> None:
    folder = copied(kind)
    before = weight_files.open_headers(folder, part).tensors.keys()
    rewrite(folder, part, change)
    check_folder(folder, opened_parts(folder))
    assert weight_files.open_headers(folder, part).tensors.keys() == before


@pytest.mark.chaos
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_in_8_bits_are_refused(dtype: torch.dtype, copied: Pipelines) -> None:
    folder = copied("sd-v")
    rewrite(folder, "unet", lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    with pytest.raises(UserError, match=r"is stored as (I8|F8_E4M3); give the weights in float16, bfloat16 or float32"):
        check_folder(folder, ("unet",))


@pytest.mark.chaos
def test_a_tokenizer_without_a_vocabulary_is_refused(copied: Pipelines) -> None:
    """transformers 5.23 opens one without a word."""
    folder = copied("sd-v")
    for path in (folder / "tokenizer").iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()
    with pytest.raises(UserError, match=r"/tokenizer: has none of tokenizer\.json, vocab\.json, .* so no words"):
        check_folder(folder, ("text_encoder",))


@pytest.mark.parametrize("name", [name for name in MODELS if (planned.SHAPES / name).is_dir()])
def test_settings_without_weights_and_words_can_be_counted(name: str) -> None:
    stated.refuse(planned.SHAPES / name)


@pytest.mark.chaos
def test_settings_that_are_no_object_are_refused(copied: Pipelines) -> None:
    folder = copied("sd-v")
    (folder / "unet" / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"unet/config\.json: is no JSON object"):
        check_folder(folder, ("unet",))


@pytest.mark.chaos
def test_parts_of_weights_are_compared_with_their_index(copied: Pipelines) -> None:
    folder = copied("sd-v")
    network = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    network.save_pretrained(folder / "unet", max_shard_size="20KB")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    check_folder(folder, ("unet",))
    lost, *_ = sorted((folder / "unet").glob("*-of-*.safetensors"))
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(UserError, match=rf"index\.json: names {lost.name}, which is not there"):
        check_folder(folder, ("unet",))
    lost.write_bytes(content)
    index.unlink()
    with pytest.raises(UserError, match=r"its weights are in parts, and .*index\.json, which names them, is not there"):
        check_folder(folder, ("unet",))


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("kind", "file", "values", "words"),
    [
        ("sd-v", "model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "its vae is of class AutoencoderTiny"),
        ("sd-v", "model_index.json", {"_class_name": ["mine", "Mine"]}, r"its pipeline is code of its own \(mine"),
        ("sd-v", "model_index.json", {"_class_name": "NoPipeline"}, "its _class_name is 'NoPipeline'"),
        (
            "sdxl",
            "model_index.json",
            {"scheduler": ["diffusers", "EDMEulerScheduler"]},
            "its scheduler is of class EDMEulerScheduler",
        ),
        (
            "sdxl",
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMEulerScheduler"},
            "it is that of a EDMEulerScheduler",
        ),
        ("sdxl", "scheduler/scheduler_config.json", {"timestep_type": "continuous"}, "timestep_type is continuous"),
        ("sd-v", "unet/config.json", {"time_cond_proj_dim": 8}, "time_cond_proj_dim is 8, so this UNet2DCondition"),
        ("sd-v", "scheduler/scheduler_config.json", {"trained_betas": [0.001] * 10}, "trained_betas has 10 numbers"),
        ("sd-v", "vae/config.json", {"scaling_factor": 0}, "scaling_factor is 0, which must be above 0"),
        (
            "sdxl",
            "vae/config.json",
            {"shift_factor": 0.1},
            "shift_factor is 0.1, and a StableDiffusionXLPipeline shifts",
        ),
        ("sd-v", "unet/config.json", {"in_channels": 9}, "in_channels is 9, and the VAE's latents give 4"),
        (
            "sd-v",
            "text_encoder/config.json",
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            r"this text_encoder is quantised \(bitsandbytes\)",
        ),
        ("sd-v", "tokenizer/tokenizer_config.json", {"model_max_length": None}, "model_max_length is not set, and"),
        ("sd-v", "text_encoder/config.json", {"vocab_size": 100}, r"has 594 tokens, and text_encoder has .* 100"),
        (
            "sd3",
            "scheduler/scheduler_config.json",
            {"_class_name": "DDIMScheduler"},
            "it is that of a DDIMScheduler",
        ),
    ],
)
def test_classes_and_settings_that_nobody_here_reads_are_refused(
    kind: str, file: str, values: dict[str, Any], words: str, copied: Pipelines
) -> None:
    folder = copied(kind)
    set_json(folder / file, **values)
    with pytest.raises(UserError, match=f"--model .*{words}"):
        check_folder(folder, ())


def test_what_is_named_and_not_needed_may_be_absent_and_other_folders_may_lie_beside(copied: Pipelines) -> None:
    folder = copied("sd-v")
    set_json(folder / "model_index.json", feature_extractor=["transformers", "CLIPImageProcessor"])
    (folder / "checkpoint-500").mkdir()
    save_file({"a": torch.zeros(1)}, folder / "checkpoint-500" / "optimizer.safetensors")
    check_folder(folder, opened_parts(folder))
    assert components.absent_optional(folder) == ["feature_extractor"]
    set_json(folder / "model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"])
    with pytest.raises(UserError, match="names a image_encoder, and there is no folder image_encoder"):
        check_folder(folder, ())  # diffusers would open it all the same
    set_json(folder / "model_index.json", image_encoder=[None, None])
    shutil.rmtree(folder / "vae")
    with pytest.raises(UserError, match="names a vae, and there is no folder vae"):
        check_folder(folder, ())


@pytest.mark.parametrize(
    ("version", "size", "side"),
    [
        ("0.8.0", 32, 64),  # diffusers corrects what was written before 0.9
        ("0.9.0", 32, 32),
        ("0.30.0", [8, 8], 8),
    ],
)
def test_the_side_is_what_the_pipeline_draws(version: str, size: Any, side: int, copied: Pipelines) -> None:
    folder = copied("sd-v")
    set_json(folder / "unet" / "config.json", sample_size=size, _diffusers_version=version)
    assert kinds.native_resolution(folder) == 2 * side  # the VAE halves once


def test_a_side_that_diffusers_cannot_draw_is_refused(copied: Pipelines) -> None:
    folder = copied("sdxl")
    set_json(folder / "unet" / "config.json", sample_size=[8, 8])
    with pytest.raises(UserError, match=r"unet/config\.json: sample_size is \[8, 8\]; give one number"):
        kinds.native_resolution(folder)


def test_a_setting_of_another_type_is_one_sentence(copied: Pipelines) -> None:
    folder = copied("sdxl")
    set_json(folder / "unet" / "config.json", addition_time_embed_dim=None)
    with pytest.raises(UserError, match=rf"^--model {folder}: a setting of its unet or vae is of another type than a "):
        check_folder(folder, ())


def write_scheduler(folder: Path, scheduler: Any) -> None:
    """Put a scheduler in place of a folder's."""
    scheduler.save_pretrained(folder / "scheduler")
    set_json(folder / "model_index.json", scheduler=["diffusers", type(scheduler).__name__])


@pytest.mark.parametrize("name", kinds_known.SOLVERS_OF_FLOWS)
def test_solvers_keep_a_flows_shift(name: str, copied: Pipelines) -> None:
    folder = copied("sd3")
    settings = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
    write_scheduler(folder, getattr(diffusers, name)(**settings))
    # At half of the schedule 3 x 0.5 / (1 + 2 x 0.5) = 0.75, and without the shift 0.5.
    assert schedules.flow_scheduler(folder).sigmas[500].item() == pytest.approx(0.75, abs=1e-6)
    set_json(folder / "scheduler" / "scheduler_config.json", use_flow_sigmas=False)
    with pytest.raises(UserError, match="samples a flow only with use_flow_sigmas true"):
        check_folder(folder, ())


@pytest.mark.parametrize("name", kinds_known.DIFFUSION_SCHEDULERS)
def test_each_scheduler_is_opened_with_its_own_defaults(name: str, copied: Pipelines) -> None:
    folder = copied("sdxl")
    own = getattr(diffusers, name)()
    write_scheduler(folder, own)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": name, "_diffusers_version": "0.42.1"}))  # all left to the defaults
    assert torch.allclose(schedules.diffusion_scheduler(folder).alphas_cumprod, own.alphas_cumprod)
