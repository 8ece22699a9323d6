"""Let a CUDA-built torchvision import beside a CPU-built torch.

Such a torchvision registers meta kernels for operators that its missing C++ library would have defined, and the
import dies with `operator torchvision::nms does not exist`. Declaring the two operators first cures it; nothing
here calls them. Import this module before torchvision, diffusers or open_clip, in Ray's workers too.
"""

from __future__ import annotations

import importlib.util

import torch


def _library_missing() -> bool:
    if importlib.util.find_spec("torchvision") is None:
        return False
    return torch.version.cuda is None and torch.version.hip is None


if _library_missing():
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for _schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        if not hasattr(torch.ops.torchvision, _schema.split("(")[0]):
            _library.define(_schema)
