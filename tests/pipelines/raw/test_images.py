"""Decoding: the authors' resize and crop, every colour mode, and refusals with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from pipelines.raw.decode import FORMATS, BadImage, decode_image, images_at_once


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def test_centre_crop_of_a_wide_image() -> None:
    # 8 x 4: left and right quarters red and blue, the middle half green; cropped to 4 x 4 only green is left.
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :2], pixels[:, 2:6], pixels[:, 6:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    decoded = decode_image(encoded(Image.fromarray(pixels)), 4)
    assert decoded.shape == (4, 4, 3)
    assert (decoded == (0, 255, 0)).all()


def test_the_shorter_side_is_resized_bilinearly() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    resized = Image.fromarray(noise).resize((30, 20), Image.Resampling.BILINEAR)
    assert np.array_equal(decode_image(encoded(Image.fromarray(noise)), 20), np.asarray(resized)[:, 5:25])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (16, 16), (200, 30, 40))
    made = Image.new(mode, (16, 16)) if mode == "I;16" else image.convert(mode)
    decoded = decode_image(encoded(made, "TIFF" if mode == "CMYK" else "PNG"), 8)
    assert decoded.shape == (8, 8, 3)
    assert decoded.dtype == np.uint8


def test_exif_rotation_is_applied() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # white above black
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    decoded = decode_image(encoded(Image.fromarray(pixels), exif=exif), 8)
    assert decoded[0, 0, 0] == 0
    assert decoded[7, 0, 0] == 255


def test_an_orientation_that_cannot_be_read_costs_no_image() -> None:
    red = Image.new("RGB", (8, 8), (200, 30, 40))
    assert decode_image(encoded(red, exif=b"Exif\0\0no TIFF at all"), 8)[4, 4].tolist() == [200, 30, 40]


def test_images_as_cameras_and_programs_write_them_keep_their_colour() -> None:
    """CMYK, several pictures in one file, of which the first counts, and 16 bits of colour."""
    red = Image.new("RGB", (32, 32), (200, 30, 40))
    written = [
        encoded(red, "JPEG", progressive=True),
        encoded(red.convert("CMYK"), "JPEG"),
        encoded(red.convert("LAB"), "TIFF"),
    ]
    for kind in ("MPO", "PNG", "GIF", "TIFF", "WEBP"):
        written.append(encoded(red, kind, save_all=True, append_images=[Image.new("RGB", (32, 32), "blue")]))
    for content in written:
        assert np.abs(decode_image(content, 8)[4, 4].astype(int) - (200, 30, 40)).max() <= 2


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "null"), (b"", "empty"), (b"not an image", "cannot be decoded")]
)
def test_what_is_no_image_is_refused(content: bytes | None, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode_image(content, 8)


def test_eps_never_reaches_the_program_that_would_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()  # as any other use of Pillow in the process may have done: EPS is registered now
    ghostscript = Mock(side_effect=AssertionError("unknown bytes were handed to Ghostscript"))
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    eps = encoded(Image.new("RGB", (16, 16)), "EPS")
    with pytest.raises(AssertionError, match="Ghostscript"):
        Image.open(io.BytesIO(eps)).load()  # what Pillow does unless told otherwise
    for content in (eps, b"\xc5\xd0\xd3\xc6" + eps):
        with pytest.raises(BadImage, match="cannot be decoded: UnidentifiedImageError"):
            decode_image(content, 8)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_formats_of_the_web_are_read(kind: str) -> None:
    decoded = decode_image(encoded(Image.new("RGB", (16, 16), (200, 200, 200)), kind), 8)
    assert np.abs(decoded.astype(int) - 200).max() <= 2  # JPEG and WebP round


def test_a_truncated_jpeg_is_refused() -> None:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    with pytest.raises(BadImage, match="cannot be decoded"):
        decode_image(whole[: len(whole) // 2], 32)


@pytest.mark.chaos
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(BadImage, match="12000x12000"):
        decode_image(bomb, 32)


def test_sixteen_bits_of_grey_keep_their_upper_eight() -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    assert np.array_equal(decode_image(encoded(Image.fromarray(ramp)), 8)[..., 0], ramp >> 8)


@pytest.mark.parametrize("size", [(1, 50), (50, 1)])
def test_strips_are_refused_beyond_fifty_to_one(size: tuple[int, int]) -> None:
    assert decode_image(encoded(Image.new("RGB", size)), 8).shape == (8, 8, 3)
    longer = size[0] + (size[0] > 1), size[1] + (size[1] > 1)
    with pytest.raises(BadImage, match="one side of the image is over 50 times the other"):
        decode_image(encoded(Image.new("RGB", longer)), 8)


def test_large_images_go_a_few_at_once() -> None:
    assert [images_at_once(side, 32) for side in (64, 256, 512, 1024, 2048)] == [32, 16, 4, 1, 1]


def test_what_is_transparent_lies_over_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))  # black hides behind it
    for mode in ("RGBA", "LA"):
        assert (decode_image(encoded(clear.convert(mode)), 8) == 255).all()
    named = Image.new("P", (8, 8), 0)  # one colour of the palette is transparent
    assert (decode_image(encoded(named, transparency=0), 8) == 255).all()
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert (decode_image(encoded(half), 8) == 127).all()  # 255 - 128
    opaque = Image.new("RGBA", (8, 8), (10, 20, 30, 255))
    assert decode_image(encoded(opaque), 8)[0, 0].tolist() == [10, 20, 30]


def test_padding_keeps_the_whole_image_between_white_bars() -> None:
    wide = np.zeros((4, 8, 3), np.uint8)  # black, twice as wide as high
    decoded = decode_image(encoded(Image.fromarray(wide)), 8, "pad")
    assert decoded[:, 0, 0].tolist() == [255, 255, 0, 0, 0, 0, 255, 255]
