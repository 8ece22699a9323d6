"""Feed spoilt raw rows to the encoder's first step: `nice python infra/fuzz.py --seconds 60 --seed 0`.

It flips, cuts, splices and overwrites real JPEG, PNG, WebP, GIF, BMP and TIFF files, and puts them into rows with odd
captions, labels and names. The step must keep each row, call it a tie, or quarantine it with a reason. Its images must
decode to upright RGB within the limit of pixels, or be refused as BadImage. Anything else is a finding, for example
another exception, a crash, a hang, or a process that needs too much memory. A process of its own tries the rows, and
notes each one first, so that a crash in a decoder's C code is a finding too.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import multiprocessing
import random
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from infra.base import files, tables
from infra.base.errors import UserError
from infra.faults.fuzz_config import FuzzConfig
from pipelines.latents.decoding import CheckAndDecode
from pipelines.raw.decode import FORMATS, MAX_PIXELS, BadImage, open_image
from pipelines.raw.source import parquet_files

RESOLUTION = 32
MEMORY = 4 << 30  # bytes by which the process may grow; 64 million pixels are 0.2 GB in RGB
PATIENCE = 20  # CPU seconds that one row may take; the largest real rows take less than one
STATUSES = {"kept", "tie", "quarantined"}
INTERESTING = (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x01", b"\xff\xff", b"\x80\x00")


def real_images() -> list[bytes]:
    """Return whole files to start from: the embedded world's JPEGs, and every format and mode that Pillow writes."""
    path = parquet_files("infra/world/pairs", "train")[0]
    contents = tables.read([path], ["jpg_0"])["jpg_0"].slice(0, 4).to_pylist()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 33, 4), dtype=np.uint8)
    pixels[:12] = pixels[0, 0]  # half of it has one colour, so that run lengths and palettes occur too
    colour = Image.fromarray(pixels, "RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    images = [colour.convert(mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK")]
    images.append(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257))
    options: list[dict[str, Any]] = [{}, {"exif": exif}, {"save_all": True, "append_images": images[:2]}]
    options += [{"progressive": True, "lossless": True}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}]
    for image, kind, chosen in itertools.product(images, FORMATS, options):
        buffer = io.BytesIO()
        with contextlib.suppress(OSError, ValueError, KeyError):  # not every format has every mode and option
            image.save(buffer, kind, **chosen)
            contents.append(buffer.getvalue())
    return list(dict.fromkeys(contents))


def spoil(content: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Spoil a file in one to four ways."""
    spoilt = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        size = len(spoilt)
        # Decoders decide by the header, so half of the changes fall on the first bytes.
        place = chance.randrange(min(size, chance.choice((64, size)))) if size else 0
        match chance.randrange(7):
            case 0 if size:
                spoilt[place] ^= 1 << chance.randrange(8)
            case 1 if size:
                spoilt[place] = chance.randrange(256)
            case 2:
                del spoilt[place:]
            case 3:
                del spoilt[place : place + chance.randint(1, 16)]
            case 4:
                odd = chance.choice(INTERESTING)
                spoilt[place : place + len(odd)] = odd
            case 5:  # the head of another file
                spoilt[:place] = chance.choice(others)[:place]
            case 6:
                start = chance.randrange(max(1, size))
                spoilt[place:place] = spoilt[start : start + chance.randint(1, 64)]
    return bytes(spoilt)


CAPTIONS: tuple[object, ...] = (
    *(
        b"a star",
        b"",
        b"../../x",
        b"<script>",
        b"a\x00b",
        "\u202ea \u05d0\u200f".encode(),
        b"\xff\xfe",
        b"\xed\xa0\x80",
    ),
    *(b"x" * 10_001, None),
)
LABELS: tuple[object, ...] = (0.0, 1.0, 1.0, 0.5, None, float("nan"), float("inf"), -1.0, 2.0, 1e300)


def rows(seed: int, whole: list[bytes]) -> Iterator[pa.Table]:
    """Yield spoilt rows without end."""
    chance = random.Random(seed)
    while True:
        contents = [chance.choice(whole), spoil(chance.choice(whole), whole, chance)]
        chance.shuffle(contents)
        texts = [
            chance.choice(CAPTIONS) if chance.random() < 0.2 else b"a star",
            *(chance.choice(CAPTIONS) if chance.random() < 0.1 else str(chance.getrandbits(40)).encode() for _ in "01"),
        ]
        label = chance.choice(LABELS) if chance.random() < 0.2 else 1.0
        other = chance.choice(LABELS) if chance.random() < 0.2 else None
        yield pa.table(
            {
                "caption": _unchecked(texts[0]),
                "jpg_0": pa.array([contents[0]], pa.binary()),
                "jpg_1": pa.array([contents[1]], pa.binary()),
                "label_0": pa.array([label], pa.float64()),
                "label_1": pa.array([other], pa.float64()),
                "image_0_uid": _unchecked(texts[1]),
                "image_1_uid": _unchecked(texts[2]),
            }
        )


def _unchecked(text: object) -> pa.Array:
    """Return a string column of any bytes; like a file's own text they need not be UTF-8."""
    return pa.array([text], pa.binary()).view(pa.string())


def check(row: pa.Table) -> str:
    """Put one row through the step and its images through the decoder, and return the outcome.

    Raises:
        AssertionError: if the row is neither kept, a tie, nor quarantined with a reason. Any other exception is a
            finding too.
    """
    checked = CheckAndDecode(RESOLUTION, strict_labels=True)(row).to_pylist()
    assert len(checked) == 1, f"{len(checked)} rows from one"
    status = checked[0]["status"]
    stage = checked[0]["stage"]
    reason = checked[0]["reason"]
    assert status in STATUSES, f"status {status!r}"
    assert (status == "quarantined") == bool(stage and reason), f"{status} at {stage}: {reason}"
    assert not reason or len(reason) < 200, f"a reason of {len(reason)} characters"
    assert "MemoryError" not in (reason or ""), reason
    for slot in (0, 1):
        pixels = checked[0][f"pixels_{slot}"]
        assert (pixels is not None) == (status == "kept"), f"{status}, with pixels: {pixels is not None}"
        assert pixels is None or len(pixels) == RESOLUTION * RESOLUTION * 3, f"{len(pixels)} bytes of pixels"
        try:
            image = open_image(row[f"jpg_{slot}"][0].as_py())
        except BadImage:
            assert status != "kept", "kept, though its image is refused"
            continue
        assert image.mode == "RGB", f"mode {image.mode}"
        assert 0 < image.width * image.height <= MAX_PIXELS, f"size {image.size}"
    return status if status != "quarantined" else f"quarantined: {reason}"


def serialised(row: pa.Table) -> bytes:
    """Write a row as an Arrow stream, which a finding prints and pyarrow.ipc.open_stream reads."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as stream:
        stream.write_table(row)
    return sink.getvalue().to_pybytes()


def try_rows(config: FuzzConfig, note: Path | None = None) -> tuple[int, Counter[str]]:
    """Try rows in this process until the time or the number of rows is reached.

    Args:
        note: file that holds each row while it is tried.

    Returns:
        How many rows were tried, and how often each outcome occurred.

    Raises:
        AssertionError: at the first finding, with the row in hex.
    """
    ends = time.monotonic() + config.seconds
    outcomes = Counter[str]()
    count = 0
    for row in rows(config.seed, real_images()):
        if time.monotonic() >= ends or (config.rows and count >= config.rows):
            break
        if note:
            note.write_bytes(serialised(row))
            signal.setitimer(signal.ITIMER_PROF, PATIENCE)  # it has no handler, so it ends the process even in C code
        try:
            outcomes[check(row)] += 1
        except Exception as error:
            raise AssertionError(f"row {count}: {error!r}\n{serialised(row).hex()}") from error
        count += 1
    return count, outcomes


def _child(config: FuzzConfig, folder: str) -> None:
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    answer: dict[str, object] = {}
    try:
        answer["count"], answer["outcomes"] = try_rows(config, Path(folder, "row"))
    except AssertionError:
        answer["finding"] = traceback.format_exc()
    files.write_json(f"{folder}/answer", answer)


def main(config: FuzzConfig) -> None:
    """Feed spoilt raw rows to the encoder's first step, and fail with the row at the first finding.

    Raises:
        UserError: with the finding.
    """
    with tempfile.TemporaryDirectory() as folder:
        child = multiprocessing.get_context("spawn").Process(target=_child, args=(config, folder))
        child.start()
        child.join()
        if not Path(folder, "answer").exists():  # a crash, and the row that was tried last caused it
            row = Path(folder, "row").read_bytes().hex()
            raise UserError(
                f"--seed {config.seed}: the process ended with exit code {child.exitcode} at this row\n{row}"
            )
        answer = files.read_json(f"{folder}/answer")
    if "finding" in answer:
        raise UserError(f"--seed {config.seed}: {answer['finding']}")
    for outcome, times in Counter(answer["outcomes"]).most_common(20):
        print(f"  {times:>9,}  {outcome}")
    print(f"{answer['count']:,} rows, each with one spoilt image: no finding", flush=True)
