"""The rows of a source's files as one table of raw pairs, and what is read of them: ids, captions, columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.raw import columns, groups, label_values, pairs, repeats

FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, by its footer."""

    path: str
    rows: int
    names: tuple[str, ...]  # of its columns
    may_lack_ids: bool  # whether a row may have no id at all, by the footer's counts of nulls


@dataclass(frozen=True)
class RawTable:
    """The rows of a source's files as one table of raw pairs, read as columns.py says."""

    parts: tuple[SourceFile, ...]
    names: tuple[str, ...]  # of the columns of raw pairs that it has, in one order

    @property
    def paths(self) -> list[str]:
        """Return its files."""
        return [part.path for part in self.parts]

    def count_rows(self) -> int:
        """Return the number of rows."""
        return sum(part.rows for part in self.parts)

    def pieces(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Read columns as tables that fit into little memory, in the order of the files."""
        for part in self.parts:
            yield from read_pieces(part.path, names)


def read_pieces(path: str, names: Sequence[str]) -> Iterator[pa.Table]:
    """Read columns of one file of raw pairs as tables that fit into little memory; those it lacks are null.

    Of a source of groups, each row gets its images' bytes, which the file has once (groups.py).

    Raises:
        UserError: naming the file that cannot be read, or its column with a value that is none of raw pairs'.
    """
    there = column_names(path)
    if groups.GROUP in there and set(names) & set(groups.IMAGES):
        needed = dict.fromkeys([*names, groups.GROUP, *groups.UIDS, *groups.IMAGES])
        yield from groups.filled(as_written(path, list(needed), there), list(names))
    else:
        yield from as_written(path, names, there)


def column_names(path: str) -> Sequence[str]:
    """Name the columns of a file of raw pairs.

    Raises:
        UserError: naming the file, if it cannot be read.
    """
    try:
        return tables.column_names(path)
    except (pa.ArrowException, OSError) as error:
        _refuse(path, error)
        raise


def as_written(path: str, names: Sequence[str], there: Sequence[str]) -> Iterator[pa.Table]:
    """Read columns of one file as they stand there, of which it has some; the others are null."""
    try:
        for batch in tables.batches(path, [name for name in names if name in there]):
            yield columns.typed(batch, names, path)
    except (pa.ArrowException, OSError) as error:
        _refuse(path, error)
        raise


def _refuse(path: str, error: Exception) -> None:
    """Refuse a file that cannot be read; S3's own error is for object_storage, which asks S3 what is missing."""
    if "AWS Error" not in str(error):
        raise tables.unreadable(path, error) from error


def open_source(paths: Sequence[str]) -> RawTable:
    """Open a source's files by their footers and check that they have the columns of raw pairs.

    Raises:
        UserError: naming the unreadable file, or the file and its column that is missing or of no known type.
    """
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        parts = tuple(pool.map(_open_file, paths))
    union = {name for part in parts for name in part.names}
    names = tuple(name for name in pairs.REQUIRED_COLUMNS + pairs.OPTIONAL_COLUMNS if name in union)
    for name in [name for name in pairs.IDS if name in union]:
        lacking = next((part for part in parts if name not in part.names), None)
        if lacking:
            having = next(part for part in parts if name in part.names)
            raise UserError(
                f"{lacking.path}: no column {name}, which {having.path} has; a pair is told apart by it, so add it or "
                "take it out of all files"
            )
    return RawTable(parts, names)


def _open_file(path: str) -> SourceFile:
    filesystem, inner = files.open_filesystem(path)
    try:
        with pq.ParquetFile(inner, filesystem=filesystem) as file:
            schema = file.schema_arrow
            footer = file.metadata
    except (pa.ArrowException, OSError) as error:
        raise tables.unreadable(path, error) from error
    columns.check_schema(path, schema)
    tables.refuse_encrypted(path, footer)
    nulls = _null_counts(footer)
    ids = [name for name in pairs.identity_columns(schema.names) if name in pairs.IDS]
    may_lack_ids = bool(ids) and all(nulls.get(name) != 0 for name in ids)
    for name in columns.IMAGES:
        content = nulls.get(f"{name}.{columns.BYTES}")
        given = nulls.get(f"{name}.{columns.PATH}")
        if content and given is not None and content > given:
            raise UserError(
                f"{path}: column {name} gives {content - given} paths without the images' bytes; {columns.TAKE_IN}"
            )
    return SourceFile(path, footer.num_rows, tuple(schema.names), may_lack_ids)


def _null_counts(footer: pq.FileMetaData) -> dict[str, int | None]:
    """Count the nulls of each column by a footer's statistics; None where a row group has none."""
    counts: dict[str, int | None] = {}
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        for index in range(group.num_columns):
            chunk = group.column(index)
            before = counts.get(chunk.path_in_schema, 0)
            known = chunk.statistics is not None and chunk.statistics.has_null_count
            counts[chunk.path_in_schema] = (
                before + chunk.statistics.null_count if known and before is not None else None
            )
    return counts


def columns_to_read(raw: RawTable) -> list[str]:
    """Choose the columns that the encoder reads."""
    return list(raw.names)


def id_columns(raw: RawTable, part: SourceFile) -> list[str]:
    """Choose the columns that the pair_ids of a file are made of; images are among them where a row may have no id."""
    names = pairs.identity_columns(list(raw.names))
    return list(dict.fromkeys([*names, *(pairs.IDENTITY_OF_CONTENT if part.may_lack_ids else ())]))


def all_pair_ids(raw: RawTable, *seen: repeats.Seen | label_values.LabelValues) -> npt.NDArray[np.int64]:
    """Compute every row's pair_id, reading the identifying columns alone, and images only where a row may have no id.

    Args:
        seen: each is shown every row, to count those that repeat others, or labels that are none.

    Raises:
        UserError: if two rows have the same id, naming one of them.
    """
    parts = [np.empty(0, np.int64)]
    for part in raw.parts:
        needed = dict.fromkeys(id_columns(raw, part))
        needed |= dict.fromkeys(name for name in repeats.COLUMNS if seen and name in raw.names)
        for piece in read_pieces(part.path, list(needed)):
            parts.append(pairs.pair_ids(piece))
            for one in seen:
                one.add(piece)
    ids = np.concatenate(parts)
    if len(np.unique(ids)) != len(ids):
        twice = Counter(ids.tolist()).most_common(1)[0]
        row = int(np.flatnonzero(ids == twice[0])[1])
        names = pairs.identity_columns(list(raw.names))
        raise UserError(
            f"source row {row}: the same {', '.join(names)} as an earlier row ({twice[1]} such rows); "
            "remove the duplicates, a pair counts once"
        )
    return ids


def captions_of(raw: RawTable, wanted: set[int]) -> Iterator[tuple[int, str]]:
    """Yield (prompt_id, caption) once for each wanted prompt_id found in the source."""
    left = set(wanted)
    for piece in raw.pieces(["caption"]):
        for caption in pairs.values(piece["caption"].unique()):
            if not isinstance(caption, str):
                continue
            key = pairs.prompt_id(caption)
            if key in left:
                left.remove(key)
                yield key, caption
