#!/usr/bin/env bash
# What happens: a transform of torchvision v2 takes several inputs, and flips images of one call alike. Of two plain
#   tensors it transforms the first only: the second comes back unresized, unflipped and unnormalised. A tensor beside
#   a PIL picture is left alone as well.
# Versions: torchvision 0.28.0, torch 2.13.0.
# Where: `_needs_transform_list` in torchvision/transforms/v2/_transform.py: a plain tensor may be a label.
# Who meets it: the winner and the loser of a pair, given to one call so that both get the same crop and flip. Where
#   the transform keeps the size, as flips and normalising do, both still stack, and one side of every pair is of
#   another kind. The policy learns that.
# Guess that was wrong: all inputs of a call get the same transform, as two `tv_tensors.Image` do.
# Instead: `tv_tensors.Image(tensor)` for each, or one tensor of [2, C, H, W].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchvision==0.28.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch

if torch.version.cuda is None:  # a torchvision built for CUDA asks for these operators, which nothing here calls
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import torchvision
from torchvision import tv_tensors
from torchvision.transforms import v2

torch.manual_seed(0)
winner, loser = torch.rand(3, 32, 32), torch.rand(3, 32, 32)
transform = v2.Compose([v2.RandomHorizontalFlip(p=1.0), v2.Normalize([0.5] * 3, [0.5] * 3)])


def right(pair):
    """Return for each of the two whether it is flipped and in [-1, 1]."""
    wanted = [(image.flip(-1) - 0.5) / 0.5 for image in (winner, loser)]
    return [torch.allclose(torch.as_tensor(got), want) for got, want in zip(pair, wanted, strict=True)]


plain = transform(winner, loser)
named = transform({"winner": winner, "loser": loser})
wrapped = transform(tv_tensors.Image(winner), tv_tensors.Image(loser))
print(f"torchvision {torchvision.__version__}; flip and normalise a pair: is each of the two as it should be?")
print("guess: two tensors [True, True]; a dict of two tensors [True, True]; two tv_tensors.Image [True, True]")
print(f"seen:  two tensors {right(plain)}; a dict of two tensors {right(named.values())}; "
      f"two tv_tensors.Image {right(wrapped)}")
if right(plain) != [True, False] or not torch.equal(plain[1], loser) or right(wrapped) != [True, True]:
    raise SystemExit("the behaviour has changed")
PYTHON
