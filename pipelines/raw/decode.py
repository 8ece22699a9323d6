"""Image bytes to pixels, as the paper's code does: RGB, shorter side to the resolution (bilinear), centre crop.

With buckets (pipelines/latents/buckets.py) an image gets the shape of its pair's bucket instead of a square.
"""

from __future__ import annotations

import contextlib
import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from pipelines.raw.image_marks import held_by

# Pillow's other formats are never tried on bytes from elsewhere: EPS would start Ghostscript on them.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
Fit = Literal["crop", "pad"]
MAX_PIXELS = 64_000_000  # a header that promises more is refused before anything is decoded
TOGETHER = 1 << 20  # pixels in one pass of a VAE, whose activations take 1.5 KB or more a pixel, or of a sampler
MAX_RATIO = 50  # of the sides: a strip of 1 x 60,000 would become 512 x 30,000,000 when its short side is resized


class BadImage(ValueError):
    """Bytes that are no usable image; the message is the reason."""


def open_image(content: object) -> Image.Image:
    """Decode and orient one image, at its full size.

    Args:
        content: encoded bytes in one of FORMATS; of an animation the first frame counts.

    Returns:
        An upright RGB image.

    Raises:
        BadImage: if the bytes are missing, empty, truncated, in no format of FORMATS, promise more than MAX_PIXELS, one
            side more than MAX_RATIO times the other, or numbers without a known range.
    """
    if not isinstance(content, bytes) or not content:
        raise BadImage(f"image is {'null' if content is None else 'empty' if content == b'' else 'not bytes'}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"image promises {image.width}x{image.height} pixels, over the limit of {MAX_PIXELS}")
            if max(image.size) > MAX_RATIO * min(image.size):
                raise BadImage(f"one side of the image is over {MAX_RATIO} times the other")
            image.load()
            with contextlib.suppress(SyntaxError):  # of an EXIF that is none, beside pixels that are sound
                ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except BadImage:
        raise
    except Exception as error:  # Pillow raises many kinds, and not all of them are OSError
        held = held_by(content)
        reason = f"image is {held}, which is not read" if held else f"image cannot be decoded: {type(error).__name__}"
        raise BadImage(reason) from error


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB: what is transparent is laid over white, and of 16 bits of grey the upper 8 are kept.

    The paper's code drops alpha, which brings out the colours that hide behind it: mostly black.

    Pillow itself cuts 16-bit grey off at 255, which leaves a white image, where of 16-bit colour it keeps the upper 8.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImage(f"image has numbers of mode {image.mode}, whose range is not known")
    if image.has_transparency_data:
        own = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", own.size, "white"), own).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # else a copy, too


def square_pixels(image: Image.Image, resolution: int, fit: Fit = "crop") -> npt.NDArray[np.uint8]:
    """Make an RGB image a square.

    Args:
        fit: crop resizes the shorter side and cuts out the centre; pad resizes the longer one and fills up with white.

    Returns:
        [resolution, resolution, 3] uint8 RGB.
    """
    if fit == "pad":
        size = (resolution, resolution)
        return np.asarray(ImageOps.pad(image, size, Image.Resampling.BILINEAR, color="white"), dtype=np.uint8)
    from infra.base import torchvision_guard  # noqa: F401, I001  (before torchvision)
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    resize = Resize(resolution, interpolation=InterpolationMode.BILINEAR)
    return np.asarray(Compose([resize, CenterCrop(resolution)])(image), dtype=np.uint8)


def shaped_pixels(image: Image.Image, height: int, width: int, fit: Fit = "crop") -> npt.NDArray[np.uint8]:
    """Give an RGB image a shape, as square_pixels does for squares: crop cuts at the centre, pad fills up with white.

    Returns:
        [height, width, 3] uint8 RGB.
    """
    if height == width:
        return square_pixels(image, height, fit)
    size = (width, height)
    bilinear = Image.Resampling.BILINEAR
    shaped = ImageOps.pad(image, size, bilinear, color="white") if fit == "pad" else ImageOps.fit(image, size, bilinear)
    return np.asarray(shaped, dtype=np.uint8)


def decode_image(content: object, resolution: int, fit: Fit = "crop") -> npt.NDArray[np.uint8]:
    """Decode encoded bytes into [resolution, resolution, 3] uint8 RGB: open_image, then square_pixels."""
    return square_pixels(open_image(content), resolution, fit)


def images_at_once(resolution: int, most: int) -> int:
    """Return how many square images to encode or draw in one pass: at most so many, and TOGETHER pixels, but one."""
    return max(1, min(most, TOGETHER // resolution**2))
