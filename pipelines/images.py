"""Image bytes to pixels, as the paper's code does: RGB, shorter side to the resolution (bilinear), centre crop."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from infra import torchvision_guard  # noqa: F401  (before torchvision)

from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize  # isort: skip

# Pillow's other formats are never tried on bytes from elsewhere: EPS would start Ghostscript on them.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 64_000_000  # a header that promises more is refused before anything is decoded


class BadImage(ValueError):
    """Bytes that are no usable image; the message is the reason."""


def open_image(content: object) -> Image.Image:
    """Decode and orient one image, at its full size.

    Args:
        content: encoded bytes in one of FORMATS; of an animation the first frame counts.

    Returns:
        An upright RGB image.

    Raises:
        BadImage: if the bytes are missing, empty, truncated, in no format of FORMATS, or promise more than MAX_PIXELS.
    """
    if not isinstance(content, bytes) or not content:
        raise BadImage("image is null" if content is None else "image is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"image promises {image.width}x{image.height} pixels, over the limit of {MAX_PIXELS}")
            ImageOps.exif_transpose(image, in_place=True)
            return image if image.mode == "RGB" else image.convert("RGB")  # else a copy, too
    except BadImage:
        raise
    except Exception as error:  # Pillow raises many kinds, and not all of them are OSError
        raise BadImage(f"image cannot be decoded: {type(error).__name__}") from error


def square_pixels(image: Image.Image, resolution: int) -> npt.NDArray[np.uint8]:
    """Resize an RGB image's shorter side to the resolution and crop its centre.

    Returns:
        [resolution, resolution, 3] uint8 RGB.
    """
    resize = Resize(resolution, interpolation=InterpolationMode.BILINEAR)
    return np.asarray(Compose([resize, CenterCrop(resolution)])(image), dtype=np.uint8)


def decode_image(content: object, resolution: int) -> npt.NDArray[np.uint8]:
    """Decode encoded bytes into [resolution, resolution, 3] uint8 RGB: open_image, then square_pixels."""
    return square_pixels(open_image(content), resolution)
