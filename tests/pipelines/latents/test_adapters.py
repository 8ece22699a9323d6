"""LoRA files in the names that others write: converted and loaded whole, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.base import (
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from pipelines.drawing.sampling import load_pipeline
from pipelines.latents import components, lost_layers
from pipelines.latents.adapters import check_adapters

import diffusers  # isort: skip
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict  # isort: skip

pytestmark = pytest.mark.slow

Tensors = dict[str, torch.Tensor]
Pipelines = Callable[[str], Path]
OLD = {"to_q": "to_q_lora", "to_k": "to_k_lora", "to_out.0": "to_out_lora"}


def write_lora(base: Path, folder: Path, text: bool = False) -> Path:
    """Write adapters of rank 2 for a network, and for its text encoder."""
    part = "unet" if (base / "unet").is_dir() else "transformer"
    network = components.class_of(base, part).from_pretrained(base / part)
    network.add_adapter(LoraConfig(r=2, target_modules=list(OLD), init_lora_weights=False))
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(network)}
    if text:
        encoder = components.class_of(base, "text_encoder").from_pretrained(base / "text_encoder")
        encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        layers["text_encoder_lora_layers"] = get_peft_model_state_dict(encoder)
    kind = getattr(diffusers, components.read_index(base)["_class_name"])
    kind.save_lora_weights(folder, **layers, safe_serialization=True)
    return folder


def change(folder: Path, to: Callable[[str], str | None]) -> None:
    """Rename the tensors of a LoRA file; those renamed to None go."""
    path = folder / models.ADAPTERS
    renamed = {to(name): tensor for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in renamed.items() if name}, path)


def attention_processors(name: str) -> str:
    """Name a tensor as save_attn_procs did before peft."""
    name = name.removeprefix("unet.").replace(".lora_A.", ".down.").replace(".lora_B.", ".up.")
    for new, old in OLD.items():
        name = name.replace(f".{new}.", f".processor.{old}.")
    return name


@pytest.mark.parametrize("kind", ["sd-v", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("text", [False, True])
def test_adapters_of_every_kind_fit_their_model(
    kind: str, text: bool, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    check_adapters("--lora", write_lora(tiny_pipeline(kind), tmp_path, text), tiny_pipeline(kind))


@pytest.mark.parametrize(
    "old", [attention_processors, lambda name: name.removeprefix("unet.")], ids=["save_attn_procs", "no prefix"]
)
def test_names_without_a_part_are_the_networks(
    old: Callable[[str], str], tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    base = tiny_pipeline("sd-v")
    lora = write_lora(base, tmp_path)
    named = dict(load_pipeline(base, torch.float32, "cpu", lora=lora).unet.named_parameters())
    change(lora, old)
    check_adapters("--lora", lora, base)
    loaded = dict(load_pipeline(base, torch.float32, "cpu", lora=lora).unet.named_parameters())
    assert loaded.keys() == named.keys()
    assert all(torch.equal(loaded[name], named[name]) for name in named)


def test_older_names_of_text_encoders_fit_newer_ones(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    lora = write_lora(tiny_pipeline("sd-v"), tmp_path, text=True)
    change(lora, lambda name: name.replace("text_encoder.", "text_encoder.text_model."))
    check_adapters("--lora", lora, tiny_pipeline("sd-v"))


def test_a_lora_file_is_taken_by_any_name(
    tiny_pipeline: Pipelines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other trainers and sites call theirs my_style.safetensors."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    lora = write_lora(tiny_pipeline("sd-v"), tmp_path / "lora")
    file = (lora / models.ADAPTERS).rename(tmp_path / "my_style.safetensors")
    folder = models.adapters_folder("--lora", str(file))
    assert folder == models.adapters_folder("--lora", str(file))
    check_adapters("--lora", folder, tiny_pipeline("sd-v"))
    with pytest.raises(UserError, match=r"^--lora .*/none\.safetensors: there is no such file$"):
        models.adapters_folder("--lora", str(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match=r"so it is no LoRA result; give that, or a LoRA's \.safetensors$"):
        models.adapters_folder("--lora", str(lora))


def kohya_lora(base: Path, folder: Path, part: str, ends: tuple[str, ...], front: str) -> dict[str, torch.Tensor]:
    """Write adapters in kohya's names, of other ranks and alphas from layer to layer; return what each adds.

    Layer i of them has rank 1 + i % 2 and alpha 3 + i, and every third has no alpha, which means its rank.
    """
    network = components.class_of(base, part).from_pretrained(base / part)
    layers = [(name, layer) for name, layer in network.named_modules() if name.endswith(ends)]
    generator = torch.Generator().manual_seed(0)
    tensors: Tensors = {}
    added: dict[str, torch.Tensor] = {}
    for number, (name, layer) in enumerate(layers):
        rank = 1 + number % 2
        down = torch.randn(rank, layer.in_features, generator=generator)
        up = torch.randn(layer.out_features, rank, generator=generator)
        key = f"{front}{name.replace('.', '_')}"
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if number % 3:
            tensors[f"{key}.alpha"] = torch.tensor(3.0 + number)
        added[name] = up @ down * ((3 + number) / rank if number % 3 else 1)
    path = folder / models.ADAPTERS
    folder.mkdir(exist_ok=True)
    before = load_file(path) if path.exists() else {}
    save_file(before | tensors, path)
    return added


def added_by(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return what the loaded adapters add to the weight of each layer."""
    modules: dict[str, Any] = dict(network.named_modules())
    adapted = {name: module for name, module in modules.items() if getattr(module, "lora_A", None)}
    return {name: module.get_delta_weight(next(iter(module.lora_A))) for name, module in adapted.items()}


def test_each_layer_keeps_its_own_scale_in_network_and_text_encoder(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    """As LoCon files have them; diffusers 0.42.1 gives all layers the scale of one."""
    base = tiny_pipeline("sd-v")
    lora = tmp_path / "lora"
    wanted = {"unet": kohya_lora(base, lora, "unet", ("to_q", "to_v"), "lora_unet_")}
    ends = ("q_proj", "k_proj", "fc1")
    wanted["text_encoder"] = kohya_lora(base, lora, "text_encoder", ends, "lora_te_text_model_")
    check_adapters("--lora", lora, base)
    pipeline = load_pipeline(base, torch.float32, "cpu", lora=lora)
    for part, layers in wanted.items():
        found = added_by(getattr(pipeline, part))
        assert found.keys() == layers.keys()
        assert all(torch.allclose(found[name], layers[name], rtol=1e-4, atol=1e-6) for name in layers)


def test_scales_beside_diffusers_names_count(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    base = tiny_pipeline("sd-v")
    lora = write_lora(base, tmp_path)
    plain = added_by(load_pipeline(base, torch.float32, "cpu", lora=lora).unet)
    path = lora / models.ADAPTERS
    alphas = {
        name.replace(".lora_A.weight", ".alpha"): torch.tensor(6.0) for name in load_file(path) if "lora_A" in name
    }
    save_file(load_file(path) | alphas, path)
    scaled = added_by(load_pipeline(base, torch.float32, "cpu", lora=lora).unet)
    tripled = {name: 3 * delta for name, delta in plain.items()}  # alpha 6 over rank 2
    assert all(torch.allclose(scaled[name], tripled[name], rtol=1e-4, atol=1e-6) for name in plain)
    save_file(load_file(path) | {"unet.elsewhere.alpha": torch.ones(())}, path)
    with pytest.raises(UserError, match=r"unet\.elsewhere\.alpha is the scale of no layer"):
        check_adapters("--lora", lora, base)


def test_the_scale_in_a_network_s_own_file_counts(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    """save_lora_adapter notes alpha and rank in the file's metadata, and no part in its names."""
    base = tiny_pipeline("sd-v")
    network = components.class_of(base, "unet").from_pretrained(base / "unet")
    network.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=["to_q"], init_lora_weights=False))
    network.save_lora_adapter(tmp_path, weight_name=models.ADAPTERS)
    found = added_by(load_pipeline(base, torch.float32, "cpu", lora=tmp_path).unet)
    wanted = added_by(network)
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6) for name in wanted)


@pytest.mark.parametrize("kind", ["sd-v", "sdxl", "sd3", "flux", "qwen-image", "z-image"])
@pytest.mark.parametrize("root", [False, True])
def test_adapters_of_peft_have_the_scale_of_their_settings(
    kind: str, root: bool, tiny_pipeline: Pipelines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save_pretrained of a PeftModel: once, Z-Image took the file at scale 1, 4 times too weak, and most refused it."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    base = tiny_pipeline(kind)
    part = "unet" if (base / "unet").is_dir() else "transformer"
    network = components.class_of(base, part).from_pretrained(base / part)
    first = next(name for name, _ in network.named_modules() if name.endswith("to_q"))
    settings = LoraConfig(r=2, lora_alpha=8, target_modules=["to_q"], alpha_pattern={first: 3}, use_rslora=root)
    settings.init_lora_weights = False
    adapted = get_peft_model(network, settings)
    adapted.save_pretrained(str(tmp_path / "peft"))
    wanted = {name.removeprefix("base_model.model."): delta for name, delta in added_by(adapted).items()}
    for given in (tmp_path / "peft", tmp_path / "peft" / "adapter_model.safetensors"):
        lora = models.adapters_folder("--lora", str(given))
        check_adapters("--lora", lora, base)
        found = added_by(getattr(load_pipeline(base, torch.float32, "cpu", lora=lora), part))
        assert found.keys() == wanted.keys()
        assert all(torch.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6) for name in wanted)


@pytest.mark.chaos
def test_adapters_of_peft_that_are_no_lora_are_refused(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    lora = write_lora(tiny_pipeline("sd-v"), tmp_path)
    change(lora, lambda name: name.replace("unet.", "base_model.model.", 1))
    for settings, told in (({"peft_type": "IA3"}, "IA3"), ({"peft_type": "LORA", "use_dora": True}, "DoRA")):
        (lora / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2} | settings))
        with pytest.raises(UserError, match=rf"its adapter_config\.json says {told}, and only LoRA is loaded"):
            check_adapters("--lora", lora, tiny_pipeline("sd-v"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peft_type": "LORA"}, "has no lora_alpha or alpha_pattern"),
        ({"peft_type": "LORA", "lora_alpha": 2, "alpha_pattern": {"(": 3}}, "has no lora_alpha or alpha_pattern"),
        (["LORA"], "is no JSON object"),
    ],
)
def test_settings_of_peft_without_a_scale_are_refused(
    settings: Any, told: str, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    lora = write_lora(tiny_pipeline("sd-v"), tmp_path)
    change(lora, lambda name: name.replace("unet.", "base_model.model.", 1))
    (lora / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=rf"its adapter_config\.json {told}"):
        check_adapters("--lora", lora, tiny_pipeline("sd-v"))


def test_adapters_of_peft_that_belong_to_changed_weights_are_refused(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    """PiSSA's base lacks what its adapters hold at the start; on the whole base that would count twice."""
    lora = write_lora(tiny_pipeline("sd-v"), tmp_path)
    change(lora, lambda name: name.replace("unet.", "base_model.model.", 1))
    conversion = (
        "save plain LoRA with save_pretrained's path_initial_model_for_weight_conversion, which takes the adapter as "
        "it was saved before training"
    )
    remedies = dict.fromkeys(("pissa", "pissa_niter_16", "olora"), conversion)
    remedies["loftq"] = "merge it into its own base, and give that as --model"
    for began, remedy in (remedies | {"gaussian": ""}).items():
        settings = {"peft_type": "LORA", "lora_alpha": 2, "init_lora_weights": began}
        (lora / "adapter_config.json").write_text(json.dumps(settings))
        if began == "gaussian":
            check_adapters("--lora", lora, tiny_pipeline("sd-v"))
            continue
        with pytest.raises(
            UserError,
            match=rf"adapter_config\.json says init_lora_weights {began}, which changes .* before training; {remedy}$",
        ):
            check_adapters("--lora", lora, tiny_pipeline("sd-v"))


def test_the_biases_of_peft_s_adapters_are_scaled_too(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    base = tiny_pipeline("sd-v")
    network = components.class_of(base, "unet").from_pretrained(base / "unet")
    settings = LoraConfig(r=2, lora_alpha=8, target_modules=["to_q"], lora_bias=True, init_lora_weights=False)
    adapted = get_peft_model(network, settings)
    adapted.save_pretrained(str(tmp_path / "peft"))
    wanted = {name: value for name, value in adapted.named_parameters() if name.endswith("lora_B.default.bias")}
    loaded = load_pipeline(base, torch.float32, "cpu", lora=models.adapters_folder("--lora", str(tmp_path / "peft")))
    found = [value for name, value in loaded.unet.named_parameters() if "lora_B" in name and name.endswith("bias")]
    assert len(found) == len(wanted) > 0
    for mine, its in zip(found, wanted.values(), strict=True):
        assert torch.allclose(mine, 4 * its)  # alpha 8 / rank 2


def test_a_scale_in_other_metadata_alone_is_refused_unless_it_is_1(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    base = tiny_pipeline("sd-v")
    lora = write_lora(base, tmp_path)
    path = lora / models.ADAPTERS
    tensors = load_file(path)
    save_file(tensors, path, metadata={"ss_network_alpha": "2.0"})  # the rank
    check_adapters("--lora", lora, base)
    save_file(tensors, path, metadata={"network_alpha": "8"})
    with pytest.raises(UserError, match=r"its metadata says network_alpha 8 at rank 2, and its tensors have no alpha"):
        check_adapters("--lora", lora, base)


def comfy_lora(base: Path, folder: Path, kind: str, ends: tuple[str, str]) -> dict[str, torch.Tensor]:
    """Write adapters of rank 2 and alpha 4 in ComfyUI's names; return what each layer of diffusers is to get."""
    network = components.class_of(base, "transformer").from_pretrained(base / "transformer")
    width = {name: layer for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear)}
    fused = {"q": "to_q", "k": "to_k", "v": "to_v"}
    layers = {  # by the names of their authors' code: diffusers' layers that are parts of each, in order
        "flux": {"double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.attn.{name}" for name in fused.values()]},
        "flux2-klein": {
            "double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.attn.{name}" for name in fused.values()],
            "single_blocks.0.linear2": ["single_transformer_blocks.0.attn.to_out"],
        },
        "qwen-image": {name: [name] for name in ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.img_mod.1")},
        "z-image": {name: [name] for name in ("layers.0.attention.to_q", "layers.0.feed_forward.w1")},
    }[kind]
    generator = torch.Generator().manual_seed(0)
    tensors: Tensors = {}
    added: dict[str, torch.Tensor] = {}
    for name, parts in layers.items():
        sizes = [width[part].out_features for part in parts]
        down = torch.randn(2, width[parts[0]].in_features, generator=generator)
        up = torch.randn(sum(sizes), 2, generator=generator)
        key = f"diffusion_model.{name}"
        tensors |= {f"{key}.{ends[0]}.weight": down, f"{key}.{ends[1]}.weight": up, f"{key}.alpha": torch.tensor(4.0)}
        added |= dict(zip(parts, (2 * up @ down).split(sizes), strict=True))
    folder.mkdir()
    save_file(tensors, folder / models.ADAPTERS)
    return added


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("qwen-image", ("lora_A", "lora_B")),
        ("qwen-image", ("lora_down", "lora_up")),
        ("z-image", ("lora_A", "lora_B")),
        ("flux2-klein", ("lora_A", "lora_B")),
        ("flux", ("lora_down", "lora_up")),
    ],
)
def test_comfyui_s_names_of_a_network_are_converted(
    kind: str, ends: tuple[str, str], tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    """diffusion_model.…, as ai-toolkit and others save for ComfyUI; alpha 4 over rank 2 doubles."""
    base = tiny_pipeline(kind)
    wanted = comfy_lora(base, tmp_path / "lora", kind, ends)
    check_adapters("--lora", tmp_path / "lora", base)
    found = added_by(load_pipeline(base, torch.float32, "cpu", lora=tmp_path / "lora").transformer)
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6) for name in wanted)


@pytest.mark.chaos
def test_layers_that_diffusers_leaves_out_are_told_unless_they_do_nothing(
    tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    """diffusers 0.42.1 drops FLUX's T5 layers, for example, and says so in its log at most."""
    base = tiny_pipeline("flux")
    comfy_lora(base, tmp_path / "lora", "flux", ("lora_down", "lora_up"))
    path = tmp_path / "lora" / models.ADAPTERS
    tensors = load_file(path)
    key = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"
    save_file(tensors | {f"{key}.lora_down.weight": torch.ones(2, 8), f"{key}.lora_up.weight": torch.zeros(8, 2)}, path)
    check_adapters("--lora", tmp_path / "lora", base)
    save_file(tensors | {f"{key}.lora_down.weight": torch.ones(2, 8), f"{key}.lora_up.weight": torch.ones(8, 2)}, path)
    with pytest.raises(UserError, match=rf"diffusers leaves out {key}\.lora_down\.weight, .*; take these layers out"):
        check_adapters("--lora", tmp_path / "lora", base)


def test_a_tensor_counts_as_handed_on_wherever_it_goes() -> None:
    """Renamed, split into rows, joined below each other or along the diagonal; the fourth is nowhere."""
    tensors = {f"{name}.lora_up.weight": torch.ones(4, 2) for name in "abcd"}

    def convert(given: lost_layers.Tensors) -> lost_layers.Tensors:
        first, second, third, _ = given.values()
        halves = dict(zip(("x", "y"), first.chunk(2), strict=True))
        return {**halves, "z": torch.block_diag(second, third)}

    assert lost_layers.lost(tensors, convert) == ["d.lora_up.weight"]


@pytest.mark.chaos
@pytest.mark.parametrize(("kind", "told"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8")])
def test_adapters_in_8_bits_are_refused(kind: torch.dtype, told: str, tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    lora = write_lora(tiny_pipeline("sd-v"), tmp_path)
    path = lora / models.ADAPTERS
    save_file({name: tensor.to(kind) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(UserError, match=rf"is stored as {told}; give the adapters in float16, bfloat16 or float32"):
        check_adapters("--lora", lora, tiny_pipeline("sd-v"))


@pytest.mark.chaos
def test_a_scale_in_metadata_that_a_conversion_would_lose_is_refused(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    base = tiny_pipeline("z-image")
    comfy_lora(base, tmp_path / "lora", "z-image", ("lora_A", "lora_B"))
    path = tmp_path / "lora" / models.ADAPTERS
    tensors = {name: tensor for name, tensor in load_file(path).items() if not name.endswith("alpha")}
    noted = {"transformer.lora_alpha": 2, "transformer.r": 2}
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(noted)})
    check_adapters("--lora", tmp_path / "lora", base)
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(noted | {"transformer.lora_alpha": 4})})
    with pytest.raises(UserError, match=r"says transformer\.lora_alpha 4 at rank 2, under names that diffusers has to"):
        check_adapters("--lora", tmp_path / "lora", base)


@pytest.mark.chaos
def test_adapters_that_are_not_finite_are_refused(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    lora = write_lora(tiny_pipeline("sd-v"), tmp_path)
    path = lora / models.ADAPTERS
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] * float("nan")}, path)
    with pytest.raises(UserError, match=rf"its tensor {name} is not finite"):
        check_adapters("--lora", lora, tiny_pipeline("sd-v"))


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("to", "words"),
    [
        (lambda name: name.replace("attn1", "attn9"), r"whose unet has no layer for \S+attn9"),
        (
            lambda name: None if "mid_block" in name and "lora_B" in name else name,
            r"has no layer for mid_block\S+lora_B",
        ),
        (
            lambda name: name.replace("unet.", "controlnet.", 1) if "mid_block" in name else name,
            "which has no controln",
        ),
        (lambda name: name.replace("lora_A", "lokr_w1").replace("lora_B", "lokr_w2"), "LyCORIS .* only LoRA is loaded"),
        (lambda name: name.replace("lora_A", "hada_w1_a").replace("lora_B", "hada_w1_b"), "LyCORIS"),
        (lambda name: name.replace("lora_A.weight", "dora_scale"), "holds DoRA adapters"),
        (lambda name: name.replace("lora_A.weight", "lora_magnitude_vector"), "holds DoRA adapters"),
        (lambda name: name.replace("lora_A", "lora_magnitude_vector"), "holds DoRA adapters"),
        (lambda name: name.replace("lora_A", "a").replace("lora_B", "b"), "holds no tensors of a LoRA"),
    ],
)
def test_tensors_that_find_no_layer_are_refused(
    to: Callable[[str], str | None], words: str, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    lora = write_lora(tiny_pipeline("sd-v"), tmp_path)
    change(lora, to)
    with pytest.raises(UserError, match=f"--lora .*{words}"):
        check_adapters("--lora", lora, tiny_pipeline("sd-v"))


@pytest.mark.chaos
def test_adapters_for_control_images_are_refused(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    """FLUX's of depth and edges: diffusers widens the network, whose pipeline has no such images. Once, they passed."""
    base = tiny_pipeline("flux")
    lora = write_lora(base, tmp_path)
    path = lora / models.ADAPTERS
    first = components.class_of(base, "transformer").from_pretrained(base / "transformer").x_embedder
    wide = {
        "transformer.x_embedder.lora_A.weight": torch.ones(2, 2 * first.in_features),
        "transformer.x_embedder.lora_B.weight": torch.ones(first.out_features, 2),
    }
    save_file(load_file(path) | wide, path)
    with pytest.raises(
        UserError, match=r"makes the transformer take 128 channels in place of 64, as adapters for control"
    ):
        check_adapters("--lora", lora, base)


@pytest.mark.chaos
def test_adapters_of_another_model_are_refused(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    lora = write_lora(tiny_pipeline("sd-v"), tmp_path)
    with pytest.raises(UserError, match=r"--lora .*belongs to another model than"):
        check_adapters("--lora", lora, tiny_pipeline("sdxl"))
