"""The grid of the first images that a run draws at a step."""

from __future__ import annotations

from PIL import Image

GRID = 16  # images of the sample grid
Placed = tuple[int, Image.Image]  # an image with its place among the captions


def paste_grid(images: list[Image.Image], columns: int = 8) -> Image.Image:
    """Paste equally large images into one, row by row."""
    width, height = images[0].size
    canvas = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for index, image in enumerate(images):
        canvas.paste(image, (index % columns * width, index // columns * height))
    return canvas
