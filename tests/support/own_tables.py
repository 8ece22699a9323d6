"""A folder of photos beside an own table of comparisons, and the command that makes raw pairs of it or refuses it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.base import cli
from pipelines.raw.import_config import ImportConfig
from pipelines.raw.import_pairs import main

HEADER = "caption,image_0,image_1,label_0\n"


@pytest.fixture(name="folder")
def folder_of_photos(tmp_path: Path) -> Path:
    """Return a folder of three images, two of them with names that a table reader may take for numbers."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number, name in enumerate(("0001", "1", "more/b.png")):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / name, format="PNG")
    return tmp_path


def imported(folder: Path, table: str, content: str | bytes, output: str = "raw") -> pa.Table:
    """Return the raw pairs that the command makes of a table with this name and content."""
    (folder / table).write_bytes(content.encode() if isinstance(content, str) else content)
    main(ImportConfig(table=str(folder / table), images=str(folder / "photos"), output=str(folder / output)))
    return pq.read_table(folder / output)


def refusal(folder: Path, table: str, content: str | bytes, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one sentence by which the command refuses a table with this name and content."""
    (folder / table).write_bytes(content.encode() if isinstance(content, str) else content)
    flags = ["--table", str(folder / table), "--images", str(folder / "photos"), "--output", str(folder / "refused")]
    with pytest.raises(SystemExit) as stopped:
        cli.run(main, ImportConfig, arguments=flags)
    assert stopped.value.code == 2
    assert not (folder / "refused").exists()
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    return told
