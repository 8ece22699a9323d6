"""A CLIP through open_clip: its files, and what they must be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infra.base import (
    torchvision_guard,  # noqa: F401  (before open_clip)
)

import open_clip  # isort: skip
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer  # isort: skip
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict  # isort: skip
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer  # isort: skip
from torchvision.transforms import Compose  # isort: skip

from infra.base.errors import UserError
from labelers.clips import weights
from labelers.clips.towers import ClassTokenLayer, Preprocess, Tower, device, normalised
from labelers.clips.transformers_clip import TOKENIZER_FILES

DESCRIPTION = "open_clip_config.json"


@dataclass(frozen=True)
class OpenClipFiles:
    """An open_clip checkpoint and, where its shape is not open_clip's own ViT-H-14, the folder that describes it."""

    checkpoint: Path
    described: Path | None = None

    @classmethod
    def beside(cls, checkpoint: Path) -> OpenClipFiles:
        """Take a checkpoint with the open_clip_config.json that may stand beside it."""
        described = (checkpoint.parent / DESCRIPTION).is_file()
        return cls(checkpoint, checkpoint.parent if described else None)

    def paths(self) -> list[Path]:
        """Return checkpoint, description and tokenizer."""
        if self.described is None:
            return [self.checkpoint]
        names = [DESCRIPTION, *TOKENIZER_FILES]
        return [self.checkpoint, *(self.described / name for name in names if (self.described / name).is_file())]

    def config(self) -> dict[str, Any]:
        """Return open_clip's configuration: model_cfg and preprocess_cfg.

        Raises:
            UserError: if it describes anything but CLIP's own two towers.
        """
        if self.described is None:
            return {"model_cfg": open_clip.get_model_config("ViT-H-14"), "preprocess_cfg": {}}
        path = self.described / DESCRIPTION
        config = weights.read_json(path)
        shape = config.get("model_cfg", {})
        try:
            towers = {*shape, *shape["vision_cfg"], *shape["text_cfg"], shape["embed_dim"]}
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: no model_cfg with embed_dim, vision_cfg and text_cfg in it") from error
        # Each of these would have open_clip build its towers by another library, by a name in a file we don't trust.
        foreign = {"timm_model_name", "hf_model_name", "multimodal_cfg", "custom_text", "tokenizer_kwargs"} & towers
        if foreign:
            raise UserError(f"{path}: {', '.join(sorted(foreign))}: the scorer takes only CLIP's own towers")
        return config

    def check(self) -> None:
        """Compare the checkpoint with the shape it should have, without reading the weights.

        Raises:
            UserError: if something is missing, holds code, or does not fit.
        """
        if not self.checkpoint.is_file():
            raise UserError(f"{self.checkpoint}: no such checkpoint")
        shape = self.config()["model_cfg"]
        try:
            with torch.device("meta"):
                wanted = open_clip.CLIP(**shape).state_dict()
        except (TypeError, AssertionError) as error:
            raise UserError(f"{self.described}/{DESCRIPTION}: not a model_cfg of open_clip ({error})") from error
        what = "ViT-H-14" if self.described is None else f"the model in {DESCRIPTION} beside it"
        weights.require_shapes(weights.shapes(self.checkpoint), wanted, self.checkpoint, what)
        try:
            self._tokenizer(shape, context=DEFAULT_CONTEXT_LENGTH)
        except Exception as error:  # transformers raises many types, some of them its own
            raise UserError(f"{self.described}: its tokenizer cannot be read ({type(error).__name__})") from error

    @property
    def image_size(self) -> int:
        """Return the side of the image tower's input, pixels."""
        return int(self.config()["model_cfg"]["vision_cfg"]["image_size"])

    @functools.cached_property
    def logit_scale(self) -> float:
        """Return exp(logit_scale) of the checkpoint."""
        return weights.read_scale(self.checkpoint)

    def transform(self) -> Compose:
        """Return open_clip's own transform of one image for this model."""
        settings = merge_preprocess_dict(PreprocessCfg(size=self.image_size), self.config().get("preprocess_cfg", {}))
        return image_transform_v2(PreprocessCfg(**settings), is_train=False)

    @functools.cached_property
    def preprocess(self) -> Preprocess:
        """Return the same for a batch: its pixels are turned to floats and normalised together, equal to the bit."""
        *shape, _, normalize = self.transform().transforms
        shaped = Compose(shape)
        return lambda images: normalised([shaped(image) for image in images], normalize.mean, normalize.std)

    def load(self) -> Tower:
        """Load model and tokenizer."""
        shape = self.config()["model_cfg"]
        context = shape["text_cfg"].get("context_length", DEFAULT_CONTEXT_LENGTH)
        model = open_clip.CLIP(**shape)
        state = weights.read_state(self.checkpoint)
        model.load_state_dict({n: value for n, value in state.items() if not n.endswith(weights.BUFFERS)})
        model = model.eval().requires_grad_(False).to(device())
        if reads_class_token(model.visual):
            layers = model.visual.transformer.resblocks
            layers[-1] = class_token(layers[-1])
        tokenizer, token_ids = self._tokenizer(shape, context)
        return Tower(
            model,
            model.encode_image,
            lambda captions: model.encode_text(tokenizer(captions).to(device())),
            token_ids,
            context,
        )

    def _tokenizer(
        self, shape: dict[str, Any], context: int
    ) -> tuple[Callable[[list[str]], torch.Tensor], Callable[[str], list[int]]]:
        if "hf_tokenizer_name" in shape["text_cfg"]:  # whatever it names: the files beside the description are taken
            beside = HFTokenizer(str(self.described), context_length=context, trust_remote_code=False)
            return beside, lambda caption: beside.tokenizer(beside.clean_fn(caption), verbose=False).input_ids
        plain = open_clip.SimpleTokenizer(context_length=context)
        return plain, lambda caption: [plain.sot_token_id, *plain.encode(caption), plain.eot_token_id]


def reads_class_token(tower: torch.nn.Module) -> bool:
    """Say whether of an image tower's last layer, a plain one, only the class token is read."""
    return (
        isinstance(tower, VisionTransformer)
        and tower.attn_pool is None
        and tower.pool_type == "tok"
        and type(tower.transformer.resblocks[-1]) is ResidualAttentionBlock
    )


def class_token(layer: ResidualAttentionBlock) -> ClassTokenLayer:
    """Take an image tower's last layer apart."""
    attention = layer.attn
    return ClassTokenLayer(
        (layer.ln_1, layer.ln_2),
        attention.in_proj_weight,
        attention.in_proj_bias,
        attention.num_heads,
        torch.nn.Sequential(attention.out_proj, layer.ls_1),
        torch.nn.Sequential(layer.mlp, layer.ls_2),
    )
