"""PickScore (Kirstain et al. 2023, arXiv 2305.01569): a ViT-H-14 CLIP tuned on Pick-a-Pic's choices."""

from __future__ import annotations

from labelers.clips import weights
from labelers.clips.alignment import Alignment
from labelers.clips.transformers_clip import MODEL_FILES, PROCESSOR_FILES, TransformersFiles


class PickScore(Alignment):
    """Scores exp(logit_scale) * cos(image, caption), so that differences are the logits of Pick-a-Pic's choices."""

    name = "pickscore"
    preprocessing = "the processor's, on PIL"

    def __init__(self, wanted: str = weights.WORLD) -> None:
        if wanted == weights.PUBLISHED:  # its model card uses the processor of the CLIP that it was tuned from
            model = weights.hub_folder(weights.PICKSCORE, MODEL_FILES)
            super().__init__(TransformersFiles(model, weights.hub_folder(weights.CLIP_H, PROCESSOR_FILES)))
        else:
            folder = weights.local_path(self.name, wanted)
            super().__init__(TransformersFiles(folder, folder))

    @property
    def scale(self) -> float:  # type: ignore[override]
        """Return the checkpoint's exp(logit_scale), about 100."""
        return self.files.logit_scale
