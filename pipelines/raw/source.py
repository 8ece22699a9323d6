"""Where raw pairs come from: a Parquet folder or file, local, s3:// or hf://, or the name of a dataset."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.raw import pairs

DATASET_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")  # of the Hub: name, or owner/name


def parquet_files(source: str, split: str, flag: str = "--source") -> list[str]:
    """List the Parquet files of a source.

    Args:
        source: a Parquet file, a folder of them, s3://..., hf://datasets/..., or a name that datasets knows.
        split: the split of a named dataset; a folder is taken whole.
        flag: that named the source, for a refusal's sentence.

    Raises:
        UserError: if there are none.
    """
    path = told_apart(source)
    if path == source and DATASET_NAME.fullmatch(source):
        return _named_dataset(source, split, flag)
    if path.endswith(".parquet") and files.is_file(path):
        return [path]
    if not files.exists(path):
        raise UserError(f"{flag} {source}: {path} does not exist")
    found = files.list_files(path, ".parquet")
    if not found:
        raise UserError(f"{flag} {source}: {path} holds no .parquet file")
    return found


def told_apart(source: str) -> str:
    """Return a source as it is told apart from others: a dataset's name, or where its path leads."""
    if DATASET_NAME.fullmatch(source) and not (files.ROOT / source).exists():
        return source
    return files.resolve(source).rstrip("/")


def _named_dataset(name: str, split: str, flag: str) -> list[str]:
    """List a named dataset's Parquet files, where the Hub (or datasets' cache of it) has them: nothing is copied."""
    if os.path.exists(name):  # datasets would take it, but no path counts from the working directory
        raise UserError(f"{flag} {name}: {files.ROOT / name} does not exist; paths count from the repository's root")
    import datasets

    try:
        builder = datasets.load_dataset_builder(name)
    except Exception as error:  # datasets raises its own, the Hub's and the network's kinds
        reason = type(error).__name__ + ("; HF_HUB_OFFLINE is set" if datasets.config.HF_HUB_OFFLINE else "")
        path = files.ROOT / name
        raise UserError(f"{flag} {name}: {path} does not exist, and datasets cannot load it ({reason})") from error
    data_files = builder.config.data_files or {}
    if split not in data_files:
        raise UserError(f"{flag} {name}: no split {split!r}; it has {', '.join(map(str, data_files)) or 'none'}")
    found = [str(path) for path in data_files[split]]
    if not found or not all(path.endswith(".parquet") for path in found):
        raise UserError(
            f"{flag} {name}: not stored as Parquet; export it once and give that file as {flag}: "
            f"{export_command(name, split)}"
        )
    return found


def export_command(name: str, split: str) -> str:
    """Return the command that writes one split of a named dataset as a Parquet file."""
    output = f"runs/{name.split('/')[-1]}-{split}.parquet"
    return f'python -c "import datasets; datasets.load_dataset({name!r}, split={split!r}).to_parquet({output!r})"'


def open_source(paths: list[str]) -> pads.Dataset:
    """Open a source and check that it has the columns of raw pairs.

    Raises:
        UserError: naming the missing columns or the unreadable file.
    """
    try:
        dataset = tables.open_dataset(paths)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{paths[0]}: not readable as Parquet ({error})") from error
    missing = [name for name in pairs.REQUIRED_COLUMNS if name not in dataset.schema.names]
    if missing:
        raise UserError(
            f"{paths[0]}: no column {', '.join(missing)}; raw pairs have {', '.join(pairs.REQUIRED_COLUMNS)}"
        )
    return dataset


def columns_to_read(dataset: pads.Dataset) -> list[str]:
    """Choose the columns that the encoder reads."""
    wanted = pairs.REQUIRED_COLUMNS + pairs.OPTIONAL_COLUMNS
    return [name for name in wanted if name in dataset.schema.names]


def all_pair_ids(dataset: pads.Dataset) -> npt.NDArray[np.int64]:
    """Compute every row's pair_id, reading the identifying columns alone.

    Raises:
        UserError: if two rows have the same id, naming one of them.
    """
    names = list(pairs.identity_columns(dataset.schema.names))
    parts = [pairs.pair_ids(pa.Table.from_batches([batch])) for batch in dataset.to_batches(columns=names)]
    ids = np.concatenate(parts) if parts else np.empty(0, np.int64)
    if len(np.unique(ids)) != len(ids):
        twice = Counter(ids.tolist()).most_common(1)[0]
        row = int(np.flatnonzero(ids == twice[0])[1])
        raise UserError(
            f"source row {row}: the same {', '.join(names)} as an earlier row ({twice[1]} such rows); "
            "remove the duplicates, a pair counts once"
        )
    return ids


def captions_of(dataset: pads.Dataset, wanted: set[int]) -> Iterator[tuple[int, str]]:
    """Yield (prompt_id, caption) once for each wanted prompt_id found in the source."""
    left = set(wanted)
    for batch in dataset.to_batches(columns=["caption"]):
        for caption in pairs.values(batch.column(0).unique()):
            if isinstance(caption, str) and (key := pairs.prompt_id(caption)) in left:
                left.remove(key)
                yield key, caption
