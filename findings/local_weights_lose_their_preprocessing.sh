#!/usr/bin/env bash
# What happens: open_clip's create_model_and_transforms("MobileCLIP-S1", pretrained="weights.safetensors") prepares images
#   by OpenAI's mean and spread and bicubic; the same weights by their tag ask for mean 0, spread 1 and bilinear. Of
#   SigLIP a file gets OpenAI's mean and a crop, where its tag has 0.5 and squeezes the whole picture into the square; of
#   OpenAI's own weights a file gets no QuickGELU. Nothing is said.
# Versions: open_clip_torch 3.3.0, torch 2.13.0, torchvision 0.28.0.
# Where: `create_model` in open_clip/factory.py: preprocessing and activation stand in the table of tags, and a path is no
#   tag, so `PreprocessCfg`'s defaults hold.
# Who meets it: scorers without a network, with weights fetched once and named by their path.
# Guess that was wrong: preprocessing belongs to the architecture that is named, and is that of its tags.
# Instead: pass image_mean, image_std, image_interpolation and image_resize_mode of `get_pretrained_cfg(model, tag)`, or
#   open the folder with its open_clip_config.json as "local-dir:FOLDER".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 \
  open_clip_torch==3.3.0
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import torch

if torch.version.cuda is None:  # a torchvision built for CUDA asks for these operators, which nothing here calls
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import open_clip
from open_clip.pretrained import get_pretrained_cfg
from safetensors.torch import save_file

NAMES = ("mean", "std", "interpolation", "resize_mode")
MODEL = "MobileCLIP-S1"


def short(settings):
    """Return what decides the pixels, shortly."""
    return {name: settings[name] if isinstance(settings[name], str) else round(settings[name][0], 2) for name in NAMES}


save_file(open_clip.create_model(MODEL).state_dict(), "weights.safetensors")  # the true ones lie on a hub
model, _, transform = open_clip.create_model_and_transforms(MODEL, pretrained="weights.safetensors")
by_path = short(model.visual.preprocess_cfg)
by_tag = short(get_pretrained_cfg(MODEL, "datacompdr"))
siglip = short(get_pretrained_cfg("ViT-B-16-SigLIP", "webli"))
quick = get_pretrained_cfg("ViT-L-14", "openai").get("quick_gelu"), open_clip.get_model_config("ViT-L-14").get("quick_gelu")
print(f"open_clip {open_clip.__version__}; {MODEL} with weights from a file")
print(f"guess: {by_tag}, as its tag says")
print(f"seen:  {by_path}")
print(f"       SigLIP's tag says {siglip}; QuickGELU of OpenAI's ViT-L-14: {quick[0]} by tag, {quick[1]} by its name")
if by_path == by_tag or (by_path["mean"], by_path["interpolation"]) != (0.48, "bicubic") or by_tag["mean"] != 0:
    raise SystemExit("the behaviour has changed")
if (siglip["mean"], siglip["resize_mode"]) != (0.5, "squash") or quick != (True, None):
    raise SystemExit("the behaviour has changed")
PYTHON
