"""What the encoder says of its images and captions, and the contact sheet of the stored pairs."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.material import rendered_pairs, write_pairs
from support.pages import EVIL, Page

from infra.base import engines
from infra.base.errors import UserError
from pipelines.latents import encode_latents
from pipelines.latents.encode_config import EncodeConfig

RED = (200, 30, 40)


def png(size: tuple[int, int], mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, RED if mode == "RGB" else (*RED, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Return four pairs: portrait, landscape with alpha, a square, and a tie; a caption of the real world."""
    made = rendered_pairs(8)[4:]  # the last is a tie
    made[0] |= {"caption": EVIL, "jpg_0": png((64, 128)), "jpg_1": png((64, 64)), "label_0": 1.0, "label_1": 0.0}
    made[1] |= {"jpg_0": png((80, 64), "RGBA"), "jpg_1": png((32, 32)), "label_0": 0.0, "label_1": 1.0}
    return made


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_the_encoder_says_what_becomes_of_images_and_captions(
    rows: list[dict[str, Any]],
    fit: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    raw = write_pairs(tmp_path / "raw", rows)
    store = tmp_path / "store"
    with engines.asking("local"), caplog.at_level(logging.WARNING, "dpo"):
        encode_latents.main(EncodeConfig(source=str(raw), store=str(store), fit=fit))
    said = capsys.readouterr().out
    assert "model infra/world/model, 64 x 64 pixels\nof the first 4 pairs: " in said
    # 64 x 128 loses a half, 80 x 64 a fifth; 32 x 32 is enlarged, and so nothing else.
    shapes = "2 of 8 images cropped, by up to 50%" if fit == "crop" else "2 of 8 images padded with white"
    assert f"{shapes}; 1 enlarged; 1 laid over white where they are transparent; 1 of 4 captions cut" in said
    assert said.splitlines()[-1].startswith(f"{store}: 3 pairs, ")
    assert said.endswith(f" bytes; next: python training/train_dpo.py --model infra/world/model --store {store}\n")
    assert "this is the demo's toy model" in caplog.text
    assert f"{store}: 1 of the 3 captions of kept pairs are longer than the text encoders take" in caplog.text
    page = Page((store / "contact-sheet.html").read_text())
    assert EVIL in page.text
    assert "script" not in page.tags
    assert len(page.loaded) == 2 * 3  # the tie is not stored
    assert page.text.count("winner") == 2 + 3  # in the style and the sentence above the pairs, and at each


def test_a_store_is_gone_on_with_as_it_was_fitted(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    config = EncodeConfig(source=str(write_pairs(tmp_path / "raw", rows)), store=str(tmp_path / "store"), fit="pad")
    with engines.asking("local"):
        encode_latents.main(config)
    with pytest.raises(UserError, match="fit was 'pad', now 'crop'"):
        encode_latents.main(EncodeConfig(source=config.source, store=config.store))


def test_a_source_without_rows_is_refused(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    raw = write_pairs(tmp_path / "raw", rows)
    for path in raw.rglob("*.parquet"):
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(UserError, match=r"--source .*raw: no rows in it"), engines.asking("local"):
        encode_latents.main(EncodeConfig(source=str(raw), store=str(tmp_path / "store")))
