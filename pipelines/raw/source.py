"""Where raw pairs come from: a Parquet folder or file, local, s3:// or hf://, or the name of a dataset."""

from __future__ import annotations

import os
import re
from pathlib import Path

from infra.base import files, next_step, records, tables
from infra.base.errors import UserError
from pipelines.raw import other_formats, splits
from pipelines.raw.table_files import unpacked_name

DATASET_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?")  # of the Hub: name, owner/name, name:config
COMPARISONS = (".csv", ".tsv", ".jsonl", ".ndjson")  # ends of tables that import_pairs.py reads
ARROW = ".arrow"
SAVED = ("dataset_info.json", "state.json")  # both are in a folder where datasets' save_to_disk wrote one split
SAVED_SPLITS = "dataset_dict.json"  # of a folder where it wrote several, each into a folder of its own
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
# Table formats: where their log lies in their folder, and how its files' names end.
LOGS = {
    "Delta Lake": ("_delta_log", ".json"),
    "Apache Iceberg": ("metadata", ".metadata.json"),
    "Apache Hudi": (".hoodie", ".properties"),
}
CONFIG = "_config.json"  # of rows that this software made; whoever reads the folder as Parquet passes over it
REPLACEMENT = "_new"  # a folder of rows that take the place of those beside it; readers of Parquet pass over it, too


def parquet_files(source: str, split: str, flag: str = "--source") -> list[str]:
    """List the Parquet files of a source.

    Args:
        source: a Parquet file, a folder of them, s3://..., hf://datasets/..., or a name that datasets knows, with
            :CONFIG behind it where it has several configurations.
        split: the split of a named dataset, or of a folder whose files' names tell more than one.
        flag: that named the source, for a refusal's sentence.

    Raises:
        UserError: if there are none, one is a link to a file that is gone, or the split is not among them.
    """
    path = told_apart(source)
    if path == source and DATASET_NAME.fullmatch(source):
        return _named_dataset(source, split, flag)
    if path.endswith(tables.SUFFIX) and files.is_file(path):
        return [path]
    if not files.exists(path):
        raise UserError(f"{flag} {source}: {path} does not exist")
    if files.is_file(path):
        is_table = unpacked_name(path).endswith(COMPARISONS)
        how = _how_to_import(path, os.path.dirname(path)) if is_table else how_to_rewrite(path, split)
        how = how or _how_to_import(path, os.path.dirname(path))
        raise UserError(f"{flag} {source}: is no {tables.SUFFIX} file; {how}")
    _refuse_dead_links(path, flag, source)
    _refuse_logged_table(path, f"{flag} {source}")
    tables.refuse_other_names(whole_rows(path), f"{flag} {source}")
    paths = tables.list_tables(whole_rows(path))
    if not paths:
        raise UserError(f"{flag} {source}: {path} holds no .parquet file{_what_it_holds(path, split)}")
    return splits.of_folder(path, paths, split, f"{flag} {source}")


def _how_to_import(table: str, images: str) -> str:
    """Say which command makes raw pairs of a table of comparisons and images."""
    named = table if unpacked_name(table).endswith(COMPARISONS) else "TABLE.csv"
    command = next_step.command("pipelines/import_pairs.py", "--table", named, "--images", images, "--output", "raw")
    return f"make raw pairs with `{command}`, and give the folder raw"


def how_to_export(folder: str, split: str) -> str | None:
    """Say how what datasets' save_to_disk wrote becomes a Parquet file; None of any other folder.

    Args:
        split: which part to export, where several were saved together.
    """
    several = files.join(folder, SAVED_SPLITS)
    chosen = ""
    written = f"{folder.rstrip('/')}.parquet"
    is_one = all(files.is_file(files.join(folder, name)) for name in SAVED)
    if not is_one and not files.is_file(several):
        return None
    if not is_one:
        splits = records.read_record(several, ("splits",))["splits"]
        if split not in splits:
            return f".arrow of the splits {', '.join(map(str, splits))}; choose one of them with --split"
        chosen = f"[{split!r}]"
        written = f"{folder.rstrip('/')}-{split}.parquet"
    return (
        ".arrow, as datasets' save_to_disk writes; export it once and give that file: "
        f'python -c "import datasets; datasets.load_from_disk({folder!r}){chosen}.to_parquet({written!r})"'
    )


def how_to_rewrite(path: str, split: str) -> str:
    """Say how a file in another format becomes Parquet, with its folder where save_to_disk wrote it."""
    export = how_to_export(os.path.dirname(path), split) if path.endswith(ARROW) else None
    return f"it is {export}" if export else other_formats.how_to_rewrite(path)


def _what_it_holds(folder: str, split: str) -> str:
    """Say how a folder of comparisons or images becomes raw pairs; nothing of a folder of neither."""
    export = how_to_export(folder, split)
    if export:
        return f", but {export}"
    names = files.list_files(folder, "")
    table = next((name for name in names if name.lower().endswith(COMPARISONS)), None)
    image = next((name for name in names if name.lower().endswith(IMAGES)), None)
    if not table and not image:
        return ""
    shown = " and ".join(name.removeprefix(folder).lstrip("/") for name in (table, image) if name)
    return f", but {shown}; {_how_to_import(table or '', folder)}"


def _refuse_logged_table(folder: str, where: str) -> None:
    """Refuse the folder of a table format: files of rows that were removed or replaced stay there, named by a log."""
    for name, log in LOGS.items():
        if files.list_files(files.join(folder, log[0]), log[1]):
            raise UserError(
                f"{where}: is a {name} table, whose folder also holds rows that were removed or replaced; export its "
                f"present rows as Parquet with a {name} reader, and give that folder"
            )


def _refuse_dead_links(folder: str, flag: str, source: str) -> None:
    """Refuse a folder with a link to a file that is gone, for example of a Hub snapshot whose blobs were cleaned."""
    if files.is_remote(folder):
        return
    for place, _, names in os.walk(folder, followlinks=True):
        for name in names:
            link = Path(place, name)
            if name.endswith(tables.SUFFIX) and not link.exists():
                raise UserError(
                    f"{flag} {source}: {link} is a link to {os.readlink(link)}, which is gone; download it again"
                )


def whole_rows(folder: str) -> str:
    """Return where the whole rows of a folder of raw pairs lie: in it, or while others take their place, beside them.

    raw_pairs.write_pairs writes new rows to REPLACEMENT; while that holds CONFIG, it is whole, and the folder need not
    be.
    """
    replacement = files.join(folder, REPLACEMENT)
    return replacement if files.is_file(files.join(replacement, CONFIG)) else folder


def told_apart(source: str) -> str:
    """Return a source as it is told apart from others: a dataset's name, or where its path leads."""
    if DATASET_NAME.fullmatch(source) and not files.local(source).exists():
        return source
    return files.resolve(source).rstrip("/")


def _named_dataset(given: str, split: str, flag: str) -> list[str]:
    """List a named dataset's Parquet files, where the Hub (or datasets' cache of it) has them: nothing is copied."""
    name, _, config = given.partition(":")
    import datasets

    try:
        builder = datasets.load_dataset_builder(name, config) if config else datasets.load_dataset_builder(name)
    except Exception as error:  # datasets raises its own, the Hub's and the network's kinds
        if isinstance(error, ValueError) and "onfig" in str(error):
            raise UserError(_which_configuration(name, config, flag)) from error
        reason = type(error).__name__ + ("; HF_HUB_OFFLINE is set" if datasets.config.HF_HUB_OFFLINE else "")
        path = files.local(name)
        raise UserError(f"{flag} {name}: {path} does not exist, and datasets cannot load it ({reason})") from error
    data_files = builder.config.data_files or {}
    if split not in data_files:
        raise UserError(f"{flag} {given}: no split {split!r}; it has {', '.join(map(str, data_files)) or 'none'}")
    paths = [str(path) for path in data_files[split]]
    if not paths or not all(path.endswith(tables.SUFFIX) for path in paths):
        raise UserError(
            f"{flag} {given}: not stored as Parquet; export it once and give that file as {flag}: "
            f"{export_command(given, split)}"
        )
    return paths


def _which_configuration(name: str, config: str, flag: str) -> str:
    import datasets

    names = datasets.get_dataset_config_names(name)
    asked = f"has no configuration {config!r}" if config else "has several configurations"
    return f"{flag} {name}: it {asked}; give one of them as {flag} {name}:CONFIG ({', '.join(names)})"


def export_command(given: str, split: str) -> str:
    """Return the command that writes one split of a named dataset as a Parquet file."""
    name, _, config = given.partition(":")
    output = f"runs/{name.split('/')[-1]}-{split}.parquet"
    named = f"{name!r}, {config!r}" if config else f"{name!r}"
    return f'python -c "import datasets; datasets.load_dataset({named}, split={split!r}).to_parquet({output!r})"'
