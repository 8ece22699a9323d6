"""Tiny random weights of ImageReward, CycleReward and HPSv3, of their packages' own classes, and what these score.

    VENV/bin/python tiny_judges.py weights NAME FOLDER            writes weights into FOLDER
    VENV/bin/python tiny_judges.py lack NAME FILE                 takes a tensor out of a file of weights
    VENV/bin/python tiny_judges.py scores NAME FOLDER JSON        prints the package's own scores of images and captions

This file runs under the Python of a judge, beside its package and nothing of this project. The packages know the names
of their models' parts on the Hub: these are found as folders of the current directory.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "star", "big", "##s", ",", "!")
TEXT = {  # of BLIP's text encoder; the packages' heads take its 768 features
    "architectures": ["BertModel"], "hidden_act": "gelu", "hidden_size": 768, "initializer_range": 0.02,
    "intermediate_size": 64, "layer_norm_eps": 1e-12, "max_position_embeddings": 160, "model_type": "bert",
    "num_attention_heads": 12, "num_hidden_layers": 1, "pad_token_id": 0, "type_vocab_size": 2, "vocab_size": 15,
    "encoder_width": 768, "add_cross_attention": True, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
}  # fmt: skip
BLOCKS = 2  # of the 24 of a vision tower whose size the packages fix
OPERATORS: list[Any] = []  # of torchvision, as long as they are needed
QWEN = "Qwen/Qwen2-VL-7B-Instruct"


class Shrink(importlib.abc.MetaPathFinder):
    """Lets the packages build small towers, and HPSv3 run without a GPU."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Find a module as usual, and change it once it is executed."""
        if name == "torchvision":
            _declare_operators()
        changes: dict[str, Callable[[Any], None]] = {
            "vit": _fewer_blocks,
            "transformers.training_args": _any_device,
            "hpsv3.model.qwen2vl_trainer": _head_in_float32,
        }
        last = name.rpartition(".")[2]
        change = changes.get(name) or (changes.get(last) if ".blip." in name.lower() else None)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if change else None
        if spec is None or spec.loader is None or change is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: Any) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def _declare_operators() -> None:
    """Let a torchvision built for CUDA be imported beside a CPU's torch; nothing here calls these operators."""
    import torch

    if torch.version.cuda is None and not OPERATORS:
        OPERATORS.append(torch.library.Library("torchvision", "FRAGMENT"))
        for operator in ("nms", "qnms"):
            OPERATORS[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _fewer_blocks(module: Any) -> None:
    build = module.VisionTransformer.__init__
    module.VisionTransformer.__init__ = lambda self, *args, **named: build(self, *args, **{**named, "depth": BLOCKS})


def _any_device(module: Any) -> None:
    module.is_torch_bf16_gpu_available = lambda: True


def write_words() -> None:
    """Write the tokenizer of BERT with a few words."""
    folder = Path("bert-base-uncased")
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def randomise(model: Any, spread: float = 0.08) -> None:
    """Give every weight a value that a score depends on."""
    import torch

    torch.manual_seed(0)
    for weight in model.parameters():
        weight.data.normal_(0, spread if weight.ndim > 1 else 0.3)


def _head_in_float32(module: Any) -> None:
    """Give HPSv3's head float32, as the package's autocast does on a GPU; on a CPU it does not, and the head fails."""
    build = module.Qwen2VLRewardModelBT.__init__

    def build_and_cast(self: Any, *args: Any, **named: Any) -> None:
        build(self, *args, **named)
        self.rm_head.register_forward_pre_hook(lambda _, seen: (seen[0].float(),))

    module.Qwen2VLRewardModelBT.__init__ = build_and_cast


def without_clip() -> None:
    """Let ImageReward be imported, whose other scores ask for OpenAI's clip; PyPI has none of that name."""
    sys.modules.setdefault("clip", types.ModuleType("clip"))


def imagereward_weights(folder: Path) -> None:
    """Write what THUDM/ImageReward holds."""
    without_clip()
    import torch
    from ImageReward.ImageReward import ImageReward

    write_words()
    (folder / "med_config.json").write_text(json.dumps(TEXT))
    model = ImageReward(med_config=str(folder / "med_config.json"), device="cpu")
    randomise(model)
    torch.save(model.state_dict(), folder / "ImageReward.pt")


def imagereward_scores(folder: Path, images: Sequence[Any], captions: Sequence[str]) -> list[float]:
    """Score by the package's own loader."""
    without_clip()
    import ImageReward

    weights = str(folder / "ImageReward.pt")
    model = ImageReward.load(weights, device="cpu", med_config=str(folder / "med_config.json"))
    return [model.score(caption, image) for image, caption in zip(images, captions, strict=True)]


def cyclereward_weights(folder: Path) -> None:
    """Write what CycleReward's release holds."""
    import torch
    from cyclereward import CycleReward, config

    config.cyclereward_args["blip_path"] = ""
    write_words()
    (folder / "med_config.json").write_text(json.dumps(TEXT))
    model = CycleReward(device="cpu", med_config=str(folder / "med_config.json"))
    randomise(model)
    torch.save(model.state_dict(), folder / "CycleReward-Combo.pth")


def cyclereward_scores(folder: Path, images: Sequence[Any], captions: Sequence[str]) -> list[float]:
    """Score by the package's own loader, which is kept from fetching BLIP's weights first."""
    import torch
    from cyclereward import config, cyclereward

    config.cyclereward_args["blip_path"] = ""
    model, preprocess = cyclereward(device="cpu", model_type="CycleReward-Combo", cache_dir=str(folder))
    with torch.no_grad():
        return [
            float(model.score(preprocess(image).unsqueeze(0), caption))
            for image, caption in zip(images, captions, strict=True)
        ]


def hpsv3_weights(folder: Path) -> None:
    """Write a tiny Qwen2-VL with its processor, and HPSv3's weights over it."""
    import safetensors.torch
    from hpsv3.model.qwen2vl_trainer import Qwen2VLRewardModelBT
    from transformers import Qwen2VLConfig

    home = Path(QWEN)
    home.mkdir(parents=True, exist_ok=True)
    tokens = write_qwen_processor(home)
    config = Qwen2VLConfig(
        vocab_size=len(tokens) + 1, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]},
        vision_config={"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2},
        image_token_id=tokens["<|image_pad|>"], video_token_id=tokens["<|video_pad|>"],
        vision_start_token_id=tokens["<|vision_start|>"], vision_end_token_id=tokens["<|vision_end|>"],
    )  # fmt: skip
    model = Qwen2VLRewardModelBT(config, output_dim=2, special_token_ids=[len(tokens)], rm_head_type="ranknet")
    randomise(model, 0.5)  # so that one token among a thousand of an image moves the score
    model.config.save_pretrained(home)
    state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, home / "model.safetensors", metadata={"format": "pt"})
    state = {name: tensor if name.startswith("rm_head") else tensor.bfloat16() for name, tensor in state.items()}
    safetensors.torch.save_file(state, folder / "HPSv3.safetensors")


def write_qwen_processor(home: Path) -> dict[str, int]:
    """Write Qwen2-VL's tokenizer, with bytes alone, and its image processor; returns the tokens."""
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    names = [*bytes_to_unicode().values(), *special, "<|video_pad|>"]
    tokens = {name: place for place, name in enumerate(names)}
    own = {name: place for name, place in tokens.items() if place < 256}
    (home / "vocab.json").write_text(json.dumps(own))
    (home / "merges.txt").write_text("#version: 0.2\n")
    added = {
        str(tokens[name]): {"content": name, "lstrip": False, "normalized": False, "rstrip": False,
                            "single_word": False, "special": True}
        for name in [*special, "<|video_pad|>"]
    }  # fmt: skip
    turn = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    settings = {
        "tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>", "model_max_length": 4096, "chat_template": turn,
    }  # fmt: skip
    (home / "tokenizer_config.json").write_text(json.dumps(settings))
    (home / "chat_template.json").write_text(json.dumps({"chat_template": turn}))
    eyes = {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor", "patch_size": 14,
        "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12845056,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (home / "preprocessor_config.json").write_text(json.dumps(eyes))
    return tokens


def hpsv3_scores(folder: Path, images: Sequence[Any], captions: Sequence[str]) -> list[float]:
    """Score by the package's inferencer, one image at a time."""
    import torch
    from hpsv3 import HPSv3RewardInferencer

    inferencer = HPSv3RewardInferencer(checkpoint_path=str(folder / "HPSv3.safetensors"), device="cpu")
    with torch.no_grad():
        return [
            float(inferencer.reward([image], [caption])[0][0]) for image, caption in zip(images, captions, strict=True)
        ]


def take_one_out(file: Path) -> None:
    """Write a file of weights again without its last tensor."""
    import torch

    state = torch.load(file, weights_only=True)
    state.pop(list(state)[-1])
    torch.save(state, file)


def main(action: str, name: str, folder: str, asked: str = "{}") -> None:
    """Write weights, spoil them, or print scores as JSON."""
    if action == "lack":
        take_one_out(Path(folder))
        return
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # packages print, too
    act = globals()[f"{name}_{action}"]
    if action == "weights":
        act(Path(folder))
        return
    from PIL import Image

    known = json.loads(asked)
    images = [Image.open(path).convert("RGB") for path in known["images"]]
    print(json.dumps(act(Path(folder), images, known["captions"])), file=said)


if __name__ == "__main__":
    main(*sys.argv[1:])
