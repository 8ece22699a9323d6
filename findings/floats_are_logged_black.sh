#!/usr/bin/env bash
# What happens: wandb.Image of floats from 0 to 1 is black, and so is swanlab.Image of such an array: the numbers become
#   bytes as they are. SwanLab's of a torch tensor stretches each picture to its own darkest and brightest pixel, so that a
#   tensor of plain grey is black as well. Nothing is said.
# Versions: wandb 0.31.0, swanlab 0.10.3, torch 2.13.0, torchvision 0.28.0, pillow 13.0.0, numpy 2.4.6.
# Where: `_convert_to_uint8` in wandb/sdk/data_types/image.py; swanlab/sdk/internal/run/transforms/image/__init__.py, with
#   torchvision's `make_grid(normalize=True)` for tensors.
# Who meets it: samples that a run draws and logs. A black or a stretched picture is taken for what the policy draws.
# Guess that was wrong: floats in [0, 1] are scaled by 255, as TensorBoard, MLflow and aim do.
# Instead: `(images.clamp(0, 1) * 255).byte()`, or a Pillow image.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check wandb==0.31.0 swanlab==0.10.3 \
  torch==2.13.0 torchvision==0.28.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
export WANDB_MODE=offline WANDB_SILENT=true HOME="$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import numpy as np
import torch
from PIL import Image

if torch.version.cuda is None:  # a torchvision built for CUDA asks for these operators, which nothing here calls
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import swanlab
import wandb

torch.manual_seed(0)
pale = 0.4 + 0.2 * torch.rand(3, 16, 16)
grey = torch.full((3, 16, 16), 0.5)


def span(image):
    """Return the least and greatest byte of a logged image."""
    pixels = np.asarray(image.convert("RGB"))
    return int(pixels.min()), int(pixels.max())


def by_wandb(data):
    return span(Image.open(wandb.Image(data)._path))


def by_swanlab(data):
    return span(Image.open(swanlab.Image(data).buffer))


array = pale.permute(1, 2, 0).numpy()
found = {
    "wandb, tensor": by_wandb(pale),
    "wandb, array": by_wandb(array),
    "SwanLab, array": by_swanlab(array),
    "SwanLab, tensor": by_swanlab(pale),
    "SwanLab, tensor of grey": by_swanlab(grey),
    "wandb, bytes": by_wandb((pale * 255).byte()),
}
print(f"wandb {wandb.__version__}, swanlab {swanlab.__version__}; pixels from 0.4 to 0.6")
print("guess: bytes from 102 to 153 of each")
for name, (least, most) in found.items():
    print(f"seen:  {least} to {most} ({name})")
black = [found[name] for name in ("wandb, tensor", "wandb, array", "SwanLab, array", "SwanLab, tensor of grey")]
if any(values != (0, 0) for values in black) or found["SwanLab, tensor"] != (0, 255) or found["wandb, bytes"][0] < 100:
    raise SystemExit("the behaviour has changed")
PYTHON
