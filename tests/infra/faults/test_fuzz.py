"""The fuzz command: thousands of spoilt rows without a finding, and a finding where there is one to make."""

from __future__ import annotations

import random
from unittest.mock import Mock

import pyarrow as pa
import pytest

from infra.faults import fuzz
from pipelines.latents import decoding
from pipelines.raw.decode import BadImage

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, on what it reads all the same


@pytest.mark.slow
@pytest.mark.chaos
def test_spoilt_rows_are_kept_tied_or_quarantined_with_a_reason() -> None:
    count, outcomes = fuzz.try_rows(fuzz.FuzzConfig(seconds=float("inf"), rows=2000))
    assert count == outcomes.total() == 2000
    assert {"kept", "tie", "quarantined: image cannot be decoded: UnidentifiedImageError"} < set(outcomes)
    assert sum(times for what, times in outcomes.items() if what.startswith("quarantined")) > 500


def test_the_same_seed_tries_the_same_rows() -> None:
    whole = fuzz.real_images()
    first, again, other = (fuzz.rows(seed, whole) for seed in (0, 0, 1))
    rows = [[next(each) for _ in range(5)] for each in (first, again, other)]
    assert all(one.equals(two) for one, two in zip(rows[0], rows[1], strict=True))
    assert not all(one.equals(two) for one, two in zip(rows[0], rows[2], strict=True))
    assert len({fuzz.spoil(whole[0], whole, random.Random(seed)) for seed in range(50)}) > 40


def test_a_finding_is_told_with_a_row_that_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fragile = Mock(side_effect=IndexError("no such tile"))  # what a decoder must not let through
    monkeypatch.setattr(decoding, "open_image", fragile)
    with pytest.raises(AssertionError, match="no such tile") as found:
        fuzz.try_rows(fuzz.FuzzConfig(rows=50))
    row = pa.ipc.open_stream(bytes.fromhex(str(found.value).splitlines()[-1])).read_all()
    monkeypatch.undo()
    assert fuzz.check(row)


def test_a_kept_row_whose_image_is_refused_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "open_image", Mock(side_effect=BadImage("image is empty")))
    with pytest.raises(AssertionError, match="kept, though its image is refused"):
        fuzz.try_rows(fuzz.FuzzConfig(rows=50))
