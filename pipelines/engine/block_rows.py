"""What the rows of each block come to: noted when they are written, and compared before they are published.

A block's mark names its rows by their ids. Other hands may put other content under the same ids, for example a block of
another encoding. So beside the marks there is a note for each block, with a digest of its rows in each folder. A block
that an earlier version wrote has none, and is not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from infra.base import files, tables
from infra.base.errors import UserError
from infra.base.row_digest import as_text, rows_digest
from pipelines.engine import progress

NOTES = "_rows"  # ends the name of the folder of notes, which begins like that of the marks


class AlteredError(UserError):
    """A file does not hold the rows that the job wrote there; their blocks are removed, so running it mends that."""


def parted(block: pa.Table, column: str | None) -> Iterator[tuple[str, pa.Table]]:
    """Part a block's rows by a column, whose value names their folder; yields folder and rows."""
    if column is None:
        yield "", block
        return
    for value in pc.unique(block[column]).to_pylist():
        rows = block.filter(pc.equal(block[column], value)).drop_columns([column])
        yield f"{column}={value}", rows


def note(checkpoint: str, block: str, parts: Mapping[str, pa.Table]) -> None:
    """Note what a block's rows come to, before they are written.

    Args:
        checkpoint: folder of the job's marks.
        block: its name.
        parts: its rows, by their folder below the job's output.
    """
    digests = {folder: as_text(rows_digest(rows)) for folder, rows in parts.items()}
    files.write_json(_path(checkpoint, block), digests)


def path_of(output: str, folder: str, block: str) -> str:
    """Return the path of a block's file in a folder below a job's output."""
    return files.join(output, *([folder] if folder else []), f"{block}-0{tables.SUFFIX}")


def _path(checkpoint: str, block: str) -> str:
    return files.join(f"{checkpoint}{NOTES}", f"{block}.json")


def read(output: str, checkpoint: str) -> pa.Table:
    """Read all rows of a finished job, in the order of their files' names.

    Raises:
        UserError: if there are none.
        AlteredError: if some are not those that the job wrote.
    """
    read_rows = {path: tables.read([path]) for path in tables.list_tables(output)}
    refuse_altered(output, checkpoint, {path: as_text(rows_digest(rows)) for path, rows in read_rows.items()})
    if not read_rows:
        raise UserError(f"{output}: holds no {tables.SUFFIX} file")
    return pa.concat_tables(read_rows.values(), promote_options="default")


def digests_below(output: str) -> dict[str, str]:
    """Return the digest of each file's rows below a folder, by path; every byte is read."""
    paths = tables.list_tables(output)
    with ThreadPoolExecutor() as pool:
        return dict(zip(paths, pool.map(lambda path: as_text(rows_digest(tables.read([path]))), paths), strict=True))


def refuse_altered(output: str, checkpoint: str, digests: Mapping[str, str]) -> None:
    """Refuse rows that are not those that a job wrote, and remove their blocks: the same command computes them again.

    Args:
        output: the job's folder.
        checkpoint: the folder of its marks.
        digests: of the rows of each file below the output, by path.

    Raises:
        AlteredError: naming the first file whose rows are others.
    """
    marks = {_stem(path): path for path in progress.committed(checkpoint)}
    with ThreadPoolExecutor() as pool:  # on S3 each note is a round trip
        by_block = pool.map(lambda block: _altered(output, checkpoint, block, digests), marks)
        altered = dict(zip(marks, by_block, strict=True))
    wrong = [path for paths in altered.values() for path in paths]
    own = files.owner_of(checkpoint)
    for block in (block for block, paths in altered.items() if paths):
        for path in (path for path in digests if _block_of(path) == block):  # first: rows without a mark are not ours
            files.remove(path, own)
        files.remove(marks[block], own)
    if wrong:
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise AlteredError(f"{wrong[0]}{others}: not as this job wrote it; the same command computes its rows again")


def _block_of(path: str) -> str:
    return path.rpartition("/")[2].rpartition("-")[0]


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(tables.SUFFIX)


def _altered(output: str, checkpoint: str, block: str, digests: Mapping[str, str]) -> list[str]:
    """Return the files of a block whose rows are not as noted; the note itself where it is torn."""
    path = _path(checkpoint, block)
    if not files.exists(path):
        return []
    try:
        noted = files.read_json(path)
    except UserError:
        return [path]
    named = {path_of(output, folder, block): digest for folder, digest in noted.items()}
    return [name for name, digest in named.items() if digests.get(name) != digest]
