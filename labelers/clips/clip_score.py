"""CLIP ViT-H-14 as LAION trained it on two billion captions: how well caption and image go together."""

from __future__ import annotations

from labelers.clips import weights
from labelers.clips.alignment import Alignment
from labelers.clips.open_clip_files import OpenClipFiles

CHECKPOINT = "open_clip_model.safetensors"


class ClipScore(Alignment):
    """Scores cos(image, caption), -1..1, through open_clip and with its own preprocessing."""

    name = "clip"
    preprocessing = "open_clip's"

    def __init__(self, wanted: str = weights.WORLD) -> None:
        if wanted == weights.PUBLISHED:
            super().__init__(OpenClipFiles(weights.hub_folder(weights.CLIP_H, [CHECKPOINT]) / CHECKPOINT))
        else:
            path = weights.local_path(self.name, wanted)
            super().__init__(OpenClipFiles.beside(path / CHECKPOINT if path.is_dir() else path))
