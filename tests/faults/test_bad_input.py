"""Bad input, seen to be refused by rule: images, captions, labels, latents.

Here the steps are fed by hand, without a cluster; kills, full disks and lost networks have their tests beside the parts
that they hit. `make chaos` runs all of them.
"""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageFile
from support.material import MODEL

from infra.base import models
from infra.base.errors import UserError
from pipelines.latents import encode_plan, schemas
from pipelines.latents.captions import CaptionEncoder
from pipelines.latents.decoding import CheckAndDecode
from pipelines.latents.encoders import LatentEncoder
from pipelines.latents.summary import count_reasons, kept_prompt_ids
from pipelines.raw import pairs, raw_table
from pipelines.raw.raw_pairs import SCHEMA, labelled_pair

pytestmark = pytest.mark.chaos
RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)
WHITE = (255, 255, 255)
MIXED = (254, 204, 204)  # 51 / 255 of red over white: a fifth of 250 and four fifths of 255, four fifths of 255


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(colour: Any = RED, mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new(mode, size, colour)


GOOD = encoded(flat(GREEN))


def judged(check: CheckAndDecode | None = None, /, **changes: Any) -> dict[str, Any]:
    """Put one row, good but for the changes, through the first step; text may be any bytes, as it may be in a file."""
    row: dict[str, Any] = {"caption": "a star", "jpg_0": GOOD, "jpg_1": GOOD, "label_0": 1.0, "label_1": 0.0} | changes
    columns = {name: pa.array([value]) for name, value in row.items()}
    if isinstance(row["caption"], bytes):
        columns["caption"] = columns["caption"].view(pa.string())
    return (check or CheckAndDecode(8, strict_labels=False))(pa.table(columns)).to_pylist()[0]


# Images


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def turned() -> bytes:
    """Return a red image above a blue one, stored on its side as a camera does, with the note that says so."""
    upright = Image.new("RGB", (16, 16), RED)
    upright.paste(BLUE, (0, 8, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    return encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


NORMALISED = {
    "cmyk": (encoded(flat(RED).convert("CMYK"), "TIFF"), RED, RED),
    "cmyk jpeg": (encoded(flat(RED).convert("CMYK"), "JPEG", quality=100), RED, RED),
    "palette": (encoded(flat(RED).convert("P", palette=Image.Palette.ADAPTIVE)), RED, RED),
    "palette with transparency": (encoded(flat(RED).quantize(4), transparency=0), WHITE, WHITE),
    "alpha lies over white": (encoded(flat((*RED, 51), "RGBA")), MIXED, MIXED),
    "grey": (encoded(flat(100, "L")), (100,) * 3, (100,) * 3),
    "16-bit grey": (encoded(Image.fromarray(np.full((16, 16), 100 * 256 + 7, np.uint16))), (100,) * 3, (100,) * 3),
    "exif": (turned(), RED, BLUE),
    "animated": (encoded(flat(RED), "GIF", save_all=True, append_images=[flat(BLUE)]), RED, RED),
    "animated webp": (
        encoded(flat(RED), "WEBP", save_all=True, append_images=[flat(BLUE)], lossless=True),
        RED,
        RED,
    ),
    "1 x 50": (encoded(flat(RED, size=(1, 50))), RED, RED),
}


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("name", NORMALISED)
def test_odd_images_are_normalised_by_rule(name: str, slot: int) -> None:
    content, top, bottom = NORMALISED[name]
    checked = judged(**{f"jpg_{slot}": content})
    assert (checked["status"], checked["reason"]) == ("kept", None)
    pixels = np.frombuffer(checked[f"pixels_{slot}"], np.uint8).reshape(8, 8, 3).astype(int)
    assert np.abs(pixels[0] - top).max() <= 3
    assert np.abs(pixels[7] - bottom).max() <= 3


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
REFUSED = {
    "null": (None, "image is null"),
    "0 bytes": (b"", "image is empty"),
    "not bytes": ({"bytes": GOOD, "path": "x.png"}, "image is not bytes"),
    "truncated jpeg": (encoded(NOISE, "JPEG")[:-900], "image cannot be decoded: OSError"),
    "truncated png": (encoded(NOISE)[:-900], "image cannot be decoded: OSError"),
    "corrupt": (GOOD[:20] + b"\xff" * 20 + GOOD[40:], "image cannot be decoded: "),
    "markup": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image is SVG, which is not read"),
    "range unknown": (encoded(flat(1.5, "F"), "TIFF"), "image has numbers of mode F, whose range is not known"),
    "1 x 60000": (encoded(flat(RED, size=(1, 60_000))), "one side of the image is over 50 times the other"),
    "bomb": (png_of(12_000, 12_000), "image promises 12000x12000 pixels, over the limit of 64000000"),
    "greater bomb": (png_of(60_000, 60_000), "image cannot be decoded: DecompressionBombError"),
}


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_images_are_quarantined_with_the_reason(name: str, slot: int) -> None:
    content, reason = REFUSED[name]
    checked = judged(**{f"jpg_{slot}": content})
    assert (checked["status"], checked["stage"]) == ("quarantined", "image")
    assert checked["reason"].startswith(reason)
    assert (checked["pixels_0"], checked["pixels_1"], checked["label_0"]) == (None, None, None)


@pytest.mark.parametrize("size", [(12_000, 12_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (1, 10**9)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_a_pixel_is_decoded(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    load = Mock(side_effect=AssertionError("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert judged(jpg_0=png_of(*size))["stage"] == "image"
    load.assert_not_called()
    judged()
    load.assert_called()  # a good image goes that way


# Captions

HOSTILE = ["", "../../x", "/etc/passwd", "<script>alert(1)</script>", "a\x00b", "\u202ea \u05d0\u200f", "x" * 10_000]
UNUSABLE = {
    "null": (None, "caption is null"),
    "a number": (3, "caption is not text"),
    "not UTF-8": (b"a \xff\xfe star", "caption is bytes, not UTF-8 text"),
    "a lone surrogate": (b"\xed\xa0\x80", "caption is bytes, not UTF-8 text"),
    "10 MB": ("x" * 10_000_000, "caption longer than 10000 characters"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_captions_are_quarantined_with_the_reason(name: str) -> None:
    caption, reason = UNUSABLE[name]
    checked = judged(caption=caption)
    assert (checked["status"], checked["stage"], checked["reason"]) == ("quarantined", "caption", reason)


def test_hostile_captions_are_text_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [judged(caption=caption)["status"] for caption in HOSTILE] == ["kept"] * len(HOSTILE)
    encoder = CaptionEncoder(models.Model(str(MODEL)), 4, "float32")
    ids = [pairs.prompt_id(caption) for caption in HOSTILE]
    table = encoder(pa.table({"prompt_id": ids, "caption": HOSTILE}))
    assert table["caption"].to_pylist() == HOSTILE
    assert np.isfinite(schemas.value_rows(table["text_encoder"])).all()
    pq.write_table(table, tmp_path / "prompts.parquet")
    assert pq.read_table(tmp_path / "prompts.parquet")["caption"].to_pylist() == HOSTILE
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.parquet"]  # no caption became a file


def test_a_source_with_text_that_is_not_utf_8_is_read_to_its_end(tmp_path: Path) -> None:
    texts = pa.array([b"a star", b"\xff", None, b"a moon", b"\xfe"], pa.binary()).view(pa.string())
    uids = pa.array([b"1", b"2", b"\xff", b"4", b"5"], pa.binary()).view(pa.string())
    columns = {"caption": texts, "image_0_uid": uids, "image_1_uid": uids}
    table = pa.table(columns | {"jpg_0": [GOOD] * 5, "jpg_1": [GOOD] * 5, "label_0": [1.0] * 5})
    pq.write_table(table, tmp_path / "pairs.parquet")
    dataset = raw_table.open_source([str(tmp_path / "pairs.parquet")])
    ids = raw_table.all_pair_ids(dataset)
    rows = pa.concat_tables(dataset.pieces(raw_table.columns_to_read(dataset)))
    checked = CheckAndDecode(8, strict_labels=False)(rows)
    assert checked["pair_id"].to_pylist() == ids.tolist()
    assert checked["status"].to_pylist() == ["kept", "quarantined", "quarantined", "kept", "quarantined"]
    assert checked["image_0_uid"].to_pylist() == ["1", "2", "\\xff", "4", "5"]
    wanted = {pairs.prompt_id("a star"), pairs.prompt_id("a moon")}
    assert dict(raw_table.captions_of(dataset, wanted)).keys() == wanted
    planned = encode_plan.read_source(dataset, strict_labels=False)
    assert (planned.rows, planned.refused, planned.prompts) == (5, 3, 2)


def test_an_id_is_that_of_the_bytes_however_they_are_read() -> None:
    table = pa.table({"caption": ["a \u2605"], "jpg_0": [b"1"], "jpg_1": [b"2"]})
    spoilt = pa.table({"caption": pa.array(["a \u2605", "x"]), "jpg_0": [b"1"] * 2, "jpg_1": [b"2"] * 2})
    bytes_ = pa.array(["a \u2605".encode(), b"\xff"], pa.binary()).view(pa.string())
    spoilt = spoilt.set_column(0, "caption", bytes_)
    assert pairs.pair_ids(spoilt)[0] == pairs.pair_ids(table)[0]


# Labels

LABELS = {
    "missing": (None, None, "label_0 is null"),
    "nan": (float("nan"), None, "label_0 is nan, not 0, 0.5 or 1"),
    "infinite": (float("inf"), 0.0, "label_0 is inf, not 0, 0.5 or 1"),
    "out of range": (2.0, -1.0, "label_0 is 2.0, not 0, 0.5 or 1"),
    "between": (0.3, 0.7, "label_0 is 0.3, not 0, 0.5 or 1"),
    "text": ("1" * 1000, None, f"label_0 is {'1' * 40}, not a number"),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", LABELS)
def test_labels_outside_the_contract_are_quarantined(name: str, strict: bool) -> None:
    label_0, label_1, reason = LABELS[name]
    checked = judged(CheckAndDecode(8, strict), label_0=label_0, label_1=label_1)
    assert (checked["status"], checked["stage"], checked["reason"]) == ("quarantined", "label", reason)
    assert checked["contradicts"] is False  # an invalid label is counted once, for itself


@pytest.mark.parametrize(("label_0", "label_1"), [(1.0, 1.0), (0.0, 0.0), (0.5, 1.0)])
def test_contradictions_are_counted_and_with_strict_labels_quarantined(label_0: float, label_1: float) -> None:
    loose, strict = (judged(CheckAndDecode(8, s), label_0=label_0, label_1=label_1) for s in (False, True))
    assert (loose["contradicts"], strict["contradicts"]) == (True, True)
    assert loose["status"] == ("tie" if label_0 == 0.5 else "kept")
    assert strict["reason"] == f"label_1 {label_1} contradicts label_0 {label_0}"


def test_both_orders_of_a_pair_are_kept_and_twice_the_same_is_refused(tmp_path: Path) -> None:
    there = labelled_pair(1, "a star", [("a", GOOD), ("b", GOOD)], 1.0, "m")
    back = labelled_pair(1, "a star", [("b", GOOD), ("a", GOOD)], 0.0, "m")
    table = pa.Table.from_pylist([there, back], schema=SCHEMA)
    checked = CheckAndDecode(8, strict_labels=True)(table)
    assert checked["status"].to_pylist() == ["kept", "kept"]
    assert checked["label_0"].to_pylist() == [1.0, 0.0]
    assert len(set(checked["pair_id"].to_pylist())) == 2
    pq.write_table(pa.concat_tables([table, table.slice(1)]), tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="source row 2: the same ranking_id"):
        raw_table.all_pair_ids(raw_table.open_source([str(tmp_path / "twice.parquet")]))


# Latents


def latents_of(means: list[float], dtype: Any, posterior: Any = "mean") -> list[dict[str, Any]]:
    """Encode one kept row per mean by a VAE whose latents are these numbers."""
    encoder = LatentEncoder(models.Model(str(MODEL)), 64, posterior, flip=False, seed=0, batch_size=4, dtype=dtype)
    values = torch.tensor([*means, *[0.0] * (-len(means) % 4)])[:, None, None, None].expand(-1, 4, 8, 8)
    message = SimpleNamespace(latent_dist=SimpleNamespace(mean=values, std=values.abs()))
    encoder.vae = SimpleNamespace(config=encoder.vae.config, encode=lambda _: message)  # type: ignore[assignment]
    content = encoded(flat(GREEN, size=(64, 64)))
    rows = [{"caption": str(n), "jpg_0": content, "jpg_1": content, "label_0": 1.0} for n in range(len(means))]
    raw = pa.Table.from_pylist(rows)
    return encoder(CheckAndDecode(64, strict_labels=False)(raw)).to_pylist()


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("posterior", ["mean", "sample", "moments"])
def test_latents_that_are_not_finite_are_quarantined_and_the_others_kept(posterior: str) -> None:
    # 1e6 is finite in the VAE's arithmetic, but not in the store's float16, which ends at 65504.
    rows = latents_of([1.0, float("nan"), float("inf"), 1e6], "float32", posterior)
    assert [row["status"] for row in rows] == ["kept"] + ["quarantined"] * 3
    assert {(row["stage"], row["reason"]) for row in rows[1:]} == {("latent", "latents are not finite")}
    assert [row["latents_0"] is None for row in rows] == [False, True, True, True]


def test_in_float16_the_reason_names_the_flag_that_helps() -> None:
    rows = latents_of([float("nan"), 1.0], "float16")
    assert rows[0]["reason"].endswith("SDXL's own VAE overflows in float16: use --dtype float32")
    assert rows[1]["status"] == "kept"


def test_where_no_pair_is_kept_the_sentence_names_the_commonest_reason(tmp_path: Path) -> None:
    message = ["latents are not finite; hint"] * 3 + ["image is empty"]
    folder = tmp_path / "pairs" / "status=quarantined"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"stage": ["latent"] * 3 + ["image"], "reason": message}), folder / "x.parquet")
    plan: Any = SimpleNamespace(destination=str(tmp_path), config=SimpleNamespace(source="raw"))
    with pytest.raises(UserError, match=r"raw: no pair was kept; most often: latent: .*; hint \(3 rows\)"):
        kept_prompt_ids(plan)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="no pair was kept; all rows are ties"):
        kept_prompt_ids(plan)


def test_a_manifest_names_a_hundred_reasons_and_counts_the_rest() -> None:
    reasons = [f"label_0 is {n}" for n in range(150)] + ["label_0 is null"] * 2
    counted = count_reasons(pa.table({"stage": ["label"] * 152, "reason": reasons}))
    assert next(iter(counted.items())) == ("label: label_0 is null", 2)
    assert (len(counted), counted["other reasons"], sum(counted.values())) == (101, 51, 152)
