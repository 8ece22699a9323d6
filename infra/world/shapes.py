"""The embedded world: captioned scenes of one shape on one background, and how they are rendered."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

RESOLUTION = 64  # pixels per side
SUPERSAMPLING = 4  # masks are drawn this much larger and averaged down, so that edges are smooth

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (250, 215, 50),
    "green": (60, 160, 70),
    "teal": (30, 135, 140),
    "blue": (45, 80, 200),
    "purple": (125, 50, 150),
    "pink": (245, 150, 190),
    "white": (244, 244, 240),
    "black": (25, 25, 30),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
RADII = {"small": (12, 14), "big": (20, 23)}  # half the extent in pixels, both ends included

_CAPTION = re.compile(
    rf"a ({'|'.join(RADII)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) on a ({'|'.join(COLOURS)}) background"
)


@dataclass(frozen=True)
class Scene:
    """What a caption of this world promises."""

    size: str
    colour: str
    shape: str
    background: str

    @property
    def caption(self) -> str:
        """Return the scene in words."""
        return f"a {self.size} {self.colour} {self.shape} on a {self.background} background"


def parse_caption(caption: str) -> Scene | None:
    """Return the scene a caption describes, or None for a caption from outside this world."""
    match = _CAPTION.fullmatch(caption.strip())
    if match is None:
        return None
    size, colour, shape, background = match.groups()
    return Scene(size, colour, shape, background)


def all_scenes() -> list[Scene]:
    """Return every scene whose shape differs in colour from its background, in a fixed order."""
    return [
        Scene(size, colour, shape, background)
        for size, colour, shape, background in itertools.product(RADII, COLOURS, SHAPES, COLOURS)
        if colour != background
    ]


def corrupt(scene: Scene, rng: np.random.Generator) -> Scene:
    """Replace one attribute by a random one, as a careless caption would."""
    choices = [("size", list(RADII)), ("colour", list(COLOURS)), ("shape", SHAPES), ("background", list(COLOURS))]
    name, values = choices[rng.integers(4)]
    return replace(scene, **{name: str(rng.choice(values))})


def shape_mask(shape: str, radius: int, x: int, y: int) -> npt.NDArray[np.float32]:
    """Return one shape's coverage.

    Args:
        shape: one of SHAPES.
        radius: half the shape's extent, pixels.
        x, y: centre, pixels from the upper left.

    Returns:
        [64, 64] float32 in 0..1: how much of each pixel the shape covers. It may be a view of a larger mask.
    """
    if _is_a_shifted_mask(shape, radius, x, y):
        top = RESOLUTION - y
        left = RESOLUTION - x
        whole = _drawn(shape, radius, RESOLUTION, RESOLUTION, 2 * RESOLUTION)
        return whole[top : top + RESOLUTION, left : left + RESOLUTION]
    return _drawn(shape, radius, x, y, RESOLUTION)


def _is_a_shifted_mask(shape: str, radius: int, x: int, y: int) -> bool:
    """Tell whether the mask at this place is, to the last bit, the one at any other place, shifted.

    Pillow cuts coordinates off towards zero. So a shape that passes the upper or left edge is drawn otherwise. And
    0.55 of a multiple of 5 is whole but for its last bit, which depends on what it is added to.
    """
    inside = radius <= min(x, y) and max(x, y) < RESOLUTION
    return inside and not (shape == "ring" and radius % 5 == 0)


@lru_cache(maxsize=2048)  # 32 MiB and more where shapes pass an edge; a long job meets tens of thousands of those
def _drawn(shape: str, radius: int, x: int, y: int, side: int) -> npt.NDArray[np.float32]:
    """Draw a shape's coverage, [side, side] float32 in 0..1."""
    scale = SUPERSAMPLING
    size = side * scale
    canvas = Image.new("L", (size, size))
    draw = ImageDraw.Draw(canvas)
    cx = (x + 0.5) * scale
    cy = (y + 0.5) * scale
    r = radius * scale

    def disc(extent: float, fill: int) -> None:
        draw.ellipse((cx - extent, cy - extent, cx + extent, cy + extent), fill=fill)

    def star_points(count: int, inner: float) -> list[tuple[float, float]]:
        angles = [math.pi * k / count - math.pi / 2 for k in range(2 * count)]
        reach = [r if k % 2 == 0 else r * inner for k in range(2 * count)]
        return [(cx + d * math.cos(a), cy + d * math.sin(a)) for a, d in zip(angles, reach, strict=True)]

    match shape:
        case "circle":
            disc(r, 255)
        case "ring":
            disc(r, 255)
            disc(r * 0.55, 0)
        case "square":
            draw.rectangle((cx - r * 0.88, cy - r * 0.88, cx + r * 0.88, cy + r * 0.88), fill=255)
        case "triangle":
            draw.polygon([(cx, cy - r), (cx + r, cy + r * 0.8), (cx - r, cy + r * 0.8)], fill=255)
        case "star":
            draw.polygon(star_points(5, 0.42), fill=255)
        case "cross":
            arm = r * 0.34
            draw.rectangle((cx - arm, cy - r, cx + arm, cy + r), fill=255)
            draw.rectangle((cx - r, cy - arm, cx + r, cy + arm), fill=255)
        case _:
            raise ValueError(f"unknown shape {shape!r}; the world has {', '.join(SHAPES)}")
    return np.asarray(canvas.reduce(scale), dtype=np.float32) / 255.0


def render(scene: Scene, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw a scene at a random place and radius.

    Returns:
        [64, 64, 3] uint8 RGB.
    """
    low, high = RADII[scene.size]
    radius = int(rng.integers(low, high + 1))
    margin = radius + 2
    x, y = rng.integers(margin, RESOLUTION - margin, size=2).tolist()
    return compose(shape_mask(scene.shape, radius, x, y), COLOURS[scene.colour], COLOURS[scene.background])


def compose(mask: npt.NDArray[np.float32], colour: npt.ArrayLike, background: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Blend two RGB colours (0..255) by a coverage mask [H, W] into an image [H, W, 3] uint8."""
    cover = mask[..., None]
    blended = cover * np.asarray(colour, np.float32) + (1 - cover) * np.asarray(background, np.float32)
    return np.rint(blended).astype(np.uint8)


SPLITS = {"train": 600, "validation": 80, "test": 400}  # captions; together all of them


def split_captions() -> dict[str, list[str]]:
    """Divide all captions into splits that share none, in a fixed random order."""
    order = np.random.default_rng(0).permutation(len(all_scenes()))
    captions = [all_scenes()[index].caption for index in order]
    ends = np.cumsum(list(SPLITS.values()))
    return {name: captions[end - SPLITS[name] : end] for name, end in zip(SPLITS, ends, strict=True)}
