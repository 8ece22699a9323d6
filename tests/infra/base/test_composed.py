"""Single files and networks alone are completed by a base: the same model as the folder, or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.material import MODEL
from support.single_files import original_tensors, write_single

from infra.base import (
    composed,
    files,
    model_sources,
    models,
    single_files,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from pipelines.latents import identity, weight_files

from diffusers.loaders import single_file_utils  # isort: skip

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


@pytest.mark.parametrize("kind", ["sd-v", "sdxl"])
def test_a_single_file_is_the_same_model_as_its_folder(
    kind: str, tiny_pipeline: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_pipeline(kind)
    settings = tmp_path / "settings"  # the base gives settings and tokenizers alone
    shutil.copytree(folder, settings, ignore=shutil.ignore_patterns("*.safetensors"))
    file = write_single(tmp_path / "model.safetensors", original_tensors(folder))
    opened = models.local_folder(f"{settings}+{file}")
    assert identity.of_whole_model(opened) == identity.of_whole_model(folder)
    weight_files.check_folder(opened, weight_files.opened_parts(opened))
    assert f"{file}: gives " in capsys.readouterr().err
    assert models.local_folder(f"{settings}+{file}") == opened


def test_a_file_keeps_its_precision_and_takes_its_base_s_other_parts(tmp_path: Path) -> None:
    half = {name: value.half() for name, value in original_tensors(MODEL).items() if name.startswith("model.")}
    bare = {name.removeprefix(single_files.NETWORK): value for name, value in half.items()}  # as ComfyUI keeps UNets
    opened = [models.local_folder(f"{MODEL}+{write_single(tmp_path / 'x.safetensors', one)}") for one in (half, bare)]
    for folder in opened:
        tensors = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        assert {value.dtype for value in tensors.values()} == {torch.float16}
        assert identity.fingerprint(folder, "vae") == identity.fingerprint(MODEL, "vae")
        assert identity.fingerprint(folder, "unet") != identity.fingerprint(MODEL, "unet")  # rounded
    assert identity.of_whole_model(opened[0]) == identity.of_whole_model(opened[1])


def test_a_network_alone_takes_its_place_in_a_base(tmp_path: Path) -> None:
    other = tmp_path / "published" / "unet"
    shutil.copytree(MODEL / "unet", other)
    path = other / "diffusion_pytorch_model.safetensors"
    write_single(path, {name: 2 * value for name, value in load_file(path).items()})
    for added in (other.parent, other):  # a folder with a UNet, and the UNet's own
        opened = models.local_folder(f"{MODEL}+{added}")
        tensors = load_file(opened / "unet" / path.name)
        assert all(torch.equal(value, tensors[name]) for name, value in load_file(path).items())
        assert identity.fingerprint(opened, "text_encoder") == identity.fingerprint(MODEL, "text_encoder")


def test_a_vae_alone_takes_its_place_in_a_base(tmp_path: Path) -> None:
    """As people put an fp16-fix VAE into SDXL: a folder of it, or its file, in diffusers' or its authors' names."""
    other = Path(shutil.copytree(MODEL / "vae", tmp_path / "fixed"))
    path = other / "diffusion_pytorch_model.safetensors"
    fixed = {name: 2 * value for name, value in load_file(path).items()}
    write_single(path, fixed)
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    write_single(folder / "vae" / path.name, fixed)
    front = "first_stage_model."
    original = {
        name.removeprefix(front): value for name, value in original_tensors(folder).items() if name.startswith(front)
    }
    files_of_it = [
        write_single(tmp_path / "original.safetensors", original),
        write_single(tmp_path / "diffusers.safetensors", fixed),
    ]
    for added in (other, *files_of_it):
        opened = models.local_folder(f"{MODEL}+{added}")
        assert identity.fingerprint(opened, "vae") == identity.fingerprint(folder, "vae")
        assert identity.fingerprint(opened, "unet") == identity.fingerprint(MODEL, "unet")
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(settings | {"scaling_factor": 0.5}))
    with pytest.raises(UserError, match=r"this VAE's scaling_factor is 0\.5, and that of the base's VAE"):
        models.local_folder(f"{MODEL}+{other}")
    with pytest.raises(
        UserError, match=r"does not say which model it belongs to; name that model before it, as BASE\+f"
    ):
        models.local_folder(str(other))
    with pytest.raises(UserError, match=r"does not say which model it is of; name a folder or Hub name of its kind as"):
        models.local_folder(str(files_of_it[0]))


def test_the_networks_that_judged_a_vae_in_its_training_are_passed_over(tmp_path: Path) -> None:
    """As kl-f8's and Waifu Diffusion's files of a VAE hold them, and checkpoints that were trained with one."""
    loss = {"loss.logvar": torch.ones(()), "loss.discriminator.main.0.weight": torch.ones(2)}
    whole = original_tensors(MODEL)
    front = "first_stage_model."
    alone = {name.removeprefix(front): value for name, value in whole.items() if name.startswith(front)}
    inside = {f"{front}{name}": value for name, value in loss.items()}
    for number, tensors in enumerate((alone | loss, whole | inside)):
        opened = models.local_folder(f"{MODEL}+{write_single(tmp_path / f'{number}.safetensors', tensors)}")
        assert identity.fingerprint(opened, "vae") == identity.fingerprint(MODEL, "vae")


@pytest.mark.chaos
def test_an_average_of_the_network_is_not_taken_and_not_passed_over_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, a file with the average alone was drawn with the base's UNet."""
    whole = original_tensors(MODEL)
    network = {name: value for name, value in whole.items() if name.startswith(single_files.NETWORK)}
    average = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": value + 1 for name, value in network.items()
    }
    both = write_single(tmp_path / "both.safetensors", whole | average)
    assert identity.fingerprint(models.local_folder(f"{MODEL}+{both}"), "unet") == identity.fingerprint(MODEL, "unet")
    assert "; its average of the network (model_ema.) is not taken" in capsys.readouterr().err
    rest = {name: value for name, value in whole.items() if name not in network}
    alone = write_single(tmp_path / "alone.safetensors", rest | average)
    with pytest.raises(
        UserError, match=r"alone\.safetensors: holds an average of the unet \(model_ema\.\) and not the"
    ):
        models.local_folder(f"{MODEL}+{alone}")


def tensor_of_ones(name: str) -> dict[str, torch.Tensor]:
    return {name: torch.ones(1)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda t: t | tensor_of_ones("v_pred"),
            "holds v_pred, so it predicts velocity, and the scheduler of its base",
        ),
        (lambda t: t | tensor_of_ones("ztsnr"), "holds ztsnr, so its last timestep is pure noise"),
        (lambda t: t | tensor_of_ones("edm_mean"), "holds edm_mean, so it was trained with EDM's noise levels"),
        (lambda t: t | tensor_of_ones("lora_unet_x"), r"holds tensors of no part of a .* \(lora_unet_x\)"),
        (
            lambda t: t | tensor_of_ones("model.diffusion_model.extra.weight"),
            r"its unet has [\d,]+ values, and a UNet2D",
        ),
        (
            lambda t: {k: v for k, v in t.items() if "out.2.bias" not in k},
            "its unet lacks tensors that the unet of",
        ),
        (lambda t: {k: v[:-1] if "out.2.bias" in k else v for k, v in t.items()}, "its unet is not one of"),
        (
            lambda t: {k: v.to(torch.float8_e4m3fn) if k.startswith("model.") else v for k, v in t.items()},
            "its unet is stored as F8_E4M3; give the checkpoint in float16",
        ),
    ],
)
def test_a_file_that_its_base_does_not_fit_is_refused(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], told: str, tmp_path: Path
) -> None:
    file = write_single(tmp_path / "model.safetensors", change(original_tensors(MODEL)))
    with pytest.raises(UserError, match=rf"^--base {file}: {told}"):
        models.local_folder(f"{MODEL}+{file}", flag="--base")


@pytest.mark.parametrize("bare", [False, True])
def test_a_file_that_says_what_its_base_says_is_taken(
    bare: bool, tiny_pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_pipeline("sd-v")
    tensors = original_tensors(folder)
    if bare:  # a network alone
        network = single_files.NETWORK
        tensors = {name.removeprefix(network): one for name, one in tensors.items() if name.startswith(network)}
    file = write_single(tmp_path / "model.safetensors", tensors | tensor_of_ones("v_pred"))
    assert identity.of_whole_model(models.local_folder(f"{folder}+{file}")) == identity.of_whole_model(folder)


def test_metadata_tell_what_a_file_predicts(tmp_path: Path) -> None:
    """sd-scripts writes modelspec.prediction_type, and no tensor v_pred."""
    path = tmp_path / "v.safetensors"
    save_file(original_tensors(MODEL), path, metadata={"modelspec.prediction_type": "v"})
    with pytest.raises(UserError, match=r"holds modelspec\.prediction_type v, so it predicts velocity, and the sched"):
        models.local_folder(f"{MODEL}+{path}")
    save_file(original_tensors(MODEL), path, metadata={"modelspec.prediction_type": "epsilon"})
    assert identity.of_whole_model(models.local_folder(f"{MODEL}+{path}")) == identity.of_whole_model(MODEL)


@pytest.mark.parametrize(
    ("names", "base"),
    [
        ({"v1": (320, 640, 1, 1)}, SD15),
        ({"v1": (320, 640, 1, 1), "v2": (320, 1024)}, None),  # SD2 does not say whether it predicts noise or velocity
        ({"xl_base": (1280,)}, SDXL),
        ({"v1": (320, 640, 1, 1), "inpainting": (320, 9, 3, 3)}, None),
        ({}, None),
    ],
)
def test_the_base_of_a_file_is_that_of_its_kind_where_this_is_sure(
    names: dict[str, tuple[int, ...]], base: str | None
) -> None:
    headers = {
        single_file_utils.CHECKPOINT_KEY_NAMES[key]: single_files.Tensor(shape, "F16") for key, shape in names.items()
    }
    headers["of_something_else"] = single_files.Tensor((1,), "F16")
    assert single_files.base_of(headers) == base


@pytest.mark.parametrize(
    ("settings", "base"),
    [
        ({"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768}, SD15),
        ({"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768, "in_channels": 9}, None),
        ({"_class_name": "UNet2DConditionModel", "cross_attention_dim": 1024}, None),
        ({"_class_name": "UNet2DConditionModel", "cross_attention_dim": 2048}, SDXL),
        ({"_class_name": "SD3Transformer2DModel", "num_layers": 24}, "stabilityai/stable-diffusion-3-medium-diffusers"),
        (
            {"_class_name": "SD3Transformer2DModel", "num_layers": 24, "dual_attention_layers": [0]},
            "stabilityai/stable-diffusion-3.5-medium",
        ),
        ({"_class_name": "FluxTransformer2DModel", "guidance_embeds": True}, "black-forest-labs/FLUX.1-dev"),
        ({"_class_name": "FluxTransformer2DModel"}, "black-forest-labs/FLUX.1-schnell"),
        ({"_class_name": "AutoencoderKL"}, None),
    ],
)
def test_the_base_of_a_network_alone(settings: dict[str, object], base: str | None) -> None:
    assert composed.base_of_network(settings) == base


def test_without_a_base_one_sentence_says_what_to_name(tmp_path: Path) -> None:
    network = tmp_path / "unet"
    network.mkdir()
    (network / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768}')
    with pytest.raises(
        UserError, match=rf"^--model {tmp_path}: is completed by {SD15}, which is neither .* as BASE\+FILE$"
    ):
        models.local_folder(str(tmp_path))
    (network / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "cross_attention_dim": 1024}')
    with pytest.raises(
        UserError, match=r"does not say which model it belongs to; name that model before it, as BASE\+"
    ):
        models.local_folder(str(tmp_path))
    file = write_single(tmp_path / "x.safetensors", tensor_of_ones("x"))
    with pytest.raises(UserError, match=r"does not say which model it is of; name .* as BASE\+FILE$"):
        models.local_folder(str(file))


def test_the_wrong_folder_is_told_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"^--model .*/unet: is one part of the model {MODEL}; give that, or BASE\+unet$"
    ):
        models.local_folder(str(MODEL / "unet"))
    write_single(tmp_path / "style.safetensors", tensor_of_ones("x"))
    with pytest.raises(
        UserError, match=r"so it is no diffusers folder; if style\.safetensors is the whole model, give"
    ):
        models.local_folder(str(tmp_path))
    (tmp_path / "run" / "result").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    for name in (models.ADAPTERS, models.INDEX):
        (tmp_path / "run" / "result" / name).write_text("{}")
        with pytest.raises(UserError, match=r"is the folder of a training run; give its result, .*/run/result$"):
            models.local_folder(str(tmp_path / "run"))
        with pytest.raises(UserError, match=r"^--lora .*is the folder of a training run; give its result, .*/run/res"):
            models.adapters_folder("--lora", str(tmp_path / "run"))


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_mid_block_x.lora_down.weight",
        "base_model.model.mid_block.x.lora_A.weight",
        "unet.x.lora.up.weight",
        "down_blocks.0.x.processor.to_q_lora.down.weight",
        "double_blocks.0.processor.qkv_lora1.down.weight",
        "down_blocks.0.x.to_q.lora_A.weight",
    ],
)
def test_adapters_as_a_model_are_told_with_the_flag_that_takes_them(name: str, tmp_path: Path) -> None:
    """As kohya, PEFT, older diffusers and XLabs name them: a file, PEFT's folder, and either behind a base."""
    told = r"holds adapters \(LoRA\), not a model; name their base here, and give the adapters as --lora to draw with"
    scale = name.replace(".weight", ".alpha")
    file = write_single(tmp_path / "style.safetensors", tensor_of_ones(name) | tensor_of_ones(scale))
    (tmp_path / "peft").mkdir()
    write_single(tmp_path / "peft" / "adapter_model.safetensors", tensor_of_ones(name))
    for given in (file, tmp_path / "peft", f"{MODEL}+{file}", f"{MODEL}+{tmp_path}/peft"):
        with pytest.raises(UserError, match=rf"^--model {tmp_path}/.*{told}"):
            models.local_folder(str(given))


def test_a_model_with_a_few_tensors_of_adapters_is_not_called_adapters(tmp_path: Path) -> None:
    stray = tensor_of_ones("lora_te_text_model_x.lora_down.weight")
    file = write_single(tmp_path / "merged.safetensors", original_tensors(MODEL) | stray)
    with pytest.raises(UserError, match=r"merged\.safetensors: does not say which model it is of; name a folder"):
        models.local_folder(str(file))
    with pytest.raises(UserError, match=r"holds tensors of no part of a .* \(lora_te_text_model_x\.lora_down"):
        models.local_folder(f"{MODEL}+{file}")


@pytest.mark.parametrize(
    ("name", "told"),
    [("model.ckpt", "is a pickle, which is not loaded; give the same"), ("flux.gguf", r"is quantised \(GGUF\); give")],
)
def test_files_of_other_formats_are_refused(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"^--model {tmp_path}/{name}: {told}"):
        models.local_folder(str(tmp_path / name))


def test_a_network_on_the_hub_is_pinned_with_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The authors' own weights are a UNet alone; every node has to take it and its base at the same commits."""
    places = {"owner/dpo": tmp_path / "dpo" / "snapshots" / "abc", SD15: tmp_path / "sd15" / "snapshots" / "def"}
    shutil.copytree(MODEL, places[SD15])
    shutil.copytree(MODEL / "unet", places["owner/dpo"] / "unet")
    config = places["owner/dpo"] / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attention_dim": 768}))
    fetched = Mock(side_effect=lambda model, **_: str(places[model]))
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    models.local_folder("owner/dpo")
    assert f"all else comes from {SD15}, which predicts epsilon; where the unet" in capsys.readouterr().err
    pinned = models.Model("owner/dpo").pinned()
    assert pinned == models.Model(f"{SD15}+owner/dpo@abc", "def")
    folder = pinned.folder()
    assert json.loads((folder / "unet" / "config.json").read_text())["cross_attention_dim"] == 768
    asked = {(call.args[0], call.kwargs["revision"]) for call in fetched.call_args_list[-3:]}
    assert asked == {("owner/dpo", "abc"), (SD15, "def")}


def test_a_single_file_on_the_hub_is_pinned_to_its_own_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--revision names the file's commit, and every node fetches that one."""
    snapshot = tmp_path / "one" / "snapshots" / "abc"
    base = tmp_path / "sd15" / "snapshots" / "def"
    shutil.copytree(MODEL, base)
    snapshot.mkdir(parents=True)
    file = snapshot / "style.safetensors"
    file.write_bytes(b"")
    fetched = Mock(side_effect=lambda *_, **__: str(file))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetched)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(base))
    monkeypatch.setattr(composed, "base_of", lambda *_: SD15)
    pinned = models.Model("owner/one/style.safetensors", "v1").pinned()
    assert pinned == models.Model(f"{SD15}+owner/one/style.safetensors@abc", "def")
    assert fetched.call_args.kwargs["revision"] == "v1"
    assert model_sources.fetch("owner/one/style.safetensors@abc", None, (), "--model") == file
    assert fetched.call_args.args == ("owner/one", "style.safetensors")
    assert fetched.call_args.kwargs["revision"] == "abc"


def test_an_at_sign_in_the_path_of_a_file_on_s3_is_a_part_of_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = Mock(return_value=tmp_path)
    monkeypatch.setattr(model_sources, "file_from_s3", asked)
    assert model_sources.fetch("s3://bucket/me@home/style.safetensors", None, (), "--model") == tmp_path
    asked.assert_called_once_with("s3://bucket/me@home/style.safetensors", "--model")


def test_a_plus_in_the_path_of_a_model_on_s3_is_a_part_of_its_name(bucket: str, tmp_path: Path) -> None:
    place = f"{bucket}/{tmp_path.name}/lr+beta/result"
    files.write_bytes(f"{place}/model_index.json", b"{}")
    assert composed.split(place) == (None, place)
