"""A CLIP through transformers: its files, and what they must be."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from infra.base import (
    models,
    torchvision_guard,  # noqa: F401  (before transformers' image parts)
    weight_names,
    weight_shards,
)

from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer  # isort: skip
from transformers.models.clip.modeling_clip import CLIPEncoderLayer  # isort: skip

from infra.base.errors import UserError
from labelers.clips import weights
from labelers.clips.towers import ClassTokenLayer, Preprocess, Tower, device, normalised

TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"]
IMAGE_PROCESSOR_FILES = ["preprocessor_config.json", "processor_config.json"]  # older transformers', and 5's
PROCESSOR_FILES = [*IMAGE_PROCESSOR_FILES, *TOKENIZER_FILES]
MODEL_FILES = ["config.json", "model.safetensors"]


@dataclass(frozen=True)
class TransformersFiles:
    """A CLIPModel folder and the folder of its processor, in transformers' format."""

    model: Path
    processor: Path

    def paths(self) -> list[Path]:
        """Return configuration, weights and the processor's files."""
        processor = [self.processor / name for name in PROCESSOR_FILES if (self.processor / name).is_file()]
        return [self.model / "config.json", *self.weight_files(), *processor]

    @functools.cached_property
    def _opened(self) -> Path:
        """Return the folder to open: the model's, or one of links where its weights exist only as a variant."""
        return models.with_default_weights(self.model)

    def weight_files(self) -> list[Path]:
        """List the files of weights that are opened: a whole one, or the parts that an index names.

        Raises:
            UserError: if there are none, or not all that the index names.
        """
        if not models.opened_weights(self._opened):
            raise UserError(f"{self.model}: no model.safetensors, and pickled weights are not loaded; convert them")
        return weight_shards.opened_files(self._opened, weight_names.STEMS[1])

    def config(self) -> CLIPConfig:
        """Read the model's configuration.

        Raises:
            UserError: if there is none, or none of a CLIP.
        """
        path = self.model / "config.json"
        if not path.is_file():
            raise UserError(f"{self.model}: no config.json, so it is no transformers folder; give one with --weights")
        config = weights.read_json(path)
        if config.get("model_type") != "clip":
            raise UserError(f"{path}: model_type is {config.get('model_type')!r}; the scorer needs 'clip'")
        try:
            return CLIPConfig.from_dict(config)
        except Exception as error:  # transformers raises several types of its own
            raise UserError(f"{path}: not a CLIP's configuration ({error})") from error

    def check(self) -> None:
        """Compare the files with what their configuration says, without reading the weights.

        Raises:
            UserError: if something is missing, is a pickle, or does not fit.
        """
        config = self.config()
        held = self.weight_files()
        if (self.model / weight_names.ADAPTERS).is_file():
            raise UserError(
                f"{self.model}: holds {weight_names.ADAPTERS}, and transformers would load these adapters into the "
                "weights; merge them into the weights, or move them away"
            )
        self.check_processor()
        if not any((self.processor / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise UserError(f"{self.processor}: neither tokenizer.json nor vocab.json; put the tokenizer's files there")
        try:
            with torch.device("meta"):
                wanted = CLIPModel(config).state_dict()
        except ValueError as error:
            raise UserError(f"{self.model / 'config.json'}: a CLIP cannot be built from it ({error})") from error
        shapes = {name: shape for path in held for name, shape in weights.shapes(path).items()}
        weights.require_shapes(shapes, wanted, self.model, "the CLIPModel in its config.json")
        try:
            for part in (CLIPImageProcessorPil, CLIPTokenizer):
                part.from_pretrained(self.processor)
        except Exception as error:  # transformers raises many types, some of them its own
            raise UserError(f"{self.processor}: its processor cannot be read ({type(error).__name__})") from error

    def check_processor(self) -> None:
        """Refuse a folder without the settings of an image processor, in either of the files that may hold them.

        Raises:
            UserError: if neither is there, or processor_config.json alone is and holds none.
        """
        older, newer = (self.processor / name for name in IMAGE_PROCESSOR_FILES)
        if older.is_file():
            return
        if not newer.is_file():
            raise UserError(
                f"{self.processor}: neither preprocessor_config.json nor processor_config.json; put the processor's "
                "files there"
            )
        if "image_processor" not in weights.read_json(newer):
            raise UserError(f"{newer}: says nothing of an image_processor; put preprocessor_config.json beside it")

    @property
    def width(self) -> int:
        """Return how many numbers an embedding has."""
        return int(self.config().projection_dim)

    @property
    def image_size(self) -> int:
        """Return the side of the image tower's input, pixels."""
        return int(self.config().vision_config.image_size)

    @functools.cached_property
    def logit_scale(self) -> float:
        """Return exp(logit_scale) of the weights."""
        holder = next(path for path in self.weight_files() if "logit_scale" in weights.shapes(path))
        return weights.read_scale(holder)

    @functools.cached_property
    def preprocess(self) -> Preprocess:
        """Return the processor's own image preprocessing, on PIL: what the published scores were made with."""
        processor = CLIPImageProcessorPil.from_pretrained(self.processor)
        if not is_usual(processor):
            return lambda images: processor(images=list(images), return_tensors="pt").pixel_values

        # Equal to the bit, but without the processor's ways from PIL to arrays and back, and on all images at once.
        shorter = processor.size.shortest_edge
        side = processor.crop_size.height

        def prepare(images: Sequence[Image.Image]) -> torch.Tensor:
            shaped = [_resized_square(image, shorter, side, processor.resample) for image in images]
            return normalised(shaped, processor.image_mean, processor.image_std)

        return prepare

    def load(self) -> Tower:
        """Load model and tokenizer."""
        models.quiet()
        model = CLIPModel.from_pretrained(self._opened, use_safetensors=True, dtype=torch.float32)
        model = model.eval().requires_grad_(False).to(device())
        layers = model.vision_model.encoder.layers
        layers[-1] = class_token(layers[-1])
        tokenizer = CLIPTokenizer.from_pretrained(self.processor)
        context = model.config.text_config.max_position_embeddings

        def encode_captions(captions: list[str]) -> torch.Tensor:
            tokens = tokenizer(captions, padding=True, truncation=True, max_length=context, return_tensors="pt")
            return _embedding(model.get_text_features(**tokens.to(device())))

        return Tower(
            model,
            lambda pixels: _embedding(model.get_image_features(pixel_values=pixels)),
            encode_captions,
            lambda caption: tokenizer(caption, verbose=False).input_ids,
            context,
        )


def is_usual(processor: CLIPImageProcessorPil) -> bool:
    """Say whether a processor does what CLIP's do: shorter side to a size, centre crop, 0..1, normalised."""
    size = processor.size
    crop = processor.crop_size
    steps = (processor.do_resize, processor.do_center_crop, processor.do_rescale, processor.do_normalize)
    return bool(
        all(steps)
        and not processor.do_pad
        and size.shortest_edge
        and not size.longest_edge
        and crop.height == crop.width <= size.shortest_edge
        and processor.rescale_factor == 1 / 255
    )


def _resized_square(image: Image.Image, shorter: int, side: int, resample: Image.Resampling) -> Image.Image:
    width = int(shorter * image.width / min(image.size))
    height = int(shorter * image.height / min(image.size))
    image = image.resize((width, height), resample)
    left = (width - side) // 2
    top = (height - side) // 2
    return image if image.size == (side, side) else image.crop((left, top, left + side, top + side))


def class_token(layer: CLIPEncoderLayer) -> ClassTokenLayer:
    """Take an image tower's last layer apart."""
    attention = layer.self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return ClassTokenLayer(
        (layer.layer_norm1, layer.layer_norm2),
        torch.cat([projection.weight for projection in projections]),
        torch.cat([projection.bias for projection in projections]),
        attention.num_heads,
        attention.out_proj,
        layer.mlp,
    )


def _embedding(output: Any) -> torch.Tensor:
    """Return the projected embedding, which transformers 5 wraps in an object and older ones return bare."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output
