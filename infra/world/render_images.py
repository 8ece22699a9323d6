"""Render the embedded world's captions as true images, in the layout that generate.py writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from infra.base import cli, files
from infra.base.errors import UserError
from infra.base.places import PathText
from infra.world.shapes import parse_caption, render
from pipelines.drawing.image_sets import wanted_images, with_images, write_images
from pipelines.drawing.prompts import read_prompts


@dataclass(frozen=True)
class RenderConfig:
    """Flags of the renderer."""

    prompts: PathText
    """Captions, one a line."""
    output: PathText
    """Folder to write."""
    images_per_prompt: int = 2
    seed: int = 0


def main(config: RenderConfig) -> None:
    """Render captions of the embedded world as true images."""
    output = files.resolve(config.output)
    wanted = wanted_images(read_prompts(files.resolve(config.prompts)), config.images_per_prompt, config.seed)
    images = []
    for caption, number in zip(wanted["caption"].to_pylist(), wanted["image_seed"].to_pylist(), strict=True):
        scene = parse_caption(caption)
        if scene is None:
            raise UserError(f"--prompts {config.prompts}: {caption[:80]!r} is not a caption of the embedded world")
        images.append(Image.fromarray(render(scene, np.random.default_rng(number))))
    write_images(output, with_images(wanted, images), asdict(config))
    print(f"{output}: {len(images)} images", flush=True)


if __name__ == "__main__":
    cli.run(main, RenderConfig)
