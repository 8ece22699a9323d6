"""Where an imported table is: a file, a folder as a public set is downloaded, or the name of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.raw import source, splits, webdataset
from pipelines.raw.table_files import unpacked_name

FLAG = "--table"
TEXT = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")  # ends of the tables that are read as a whole
KNOWN_ENDS = (*TEXT, ".txt", tables.SUFFIX, webdataset.SUFFIX)  # of a text, PACKED may follow
DOWNLOAD = "hf download {name} --repo-type dataset --local-dir {folder}"
# Public sets whose images lie in archives or archives' parts, which no table names: what to do with their files.
ARCHIVED = {
    "ymhao/HPDv2": "unpack train.tar.gz there, and give --table {folder}/train.json --images the folder of the images",
    "MizzenAI/HPDv3": "run `cat images.tar.gz.* | gunzip | tar -x` there, and give --table {folder}",
    "THUDM/ImageRewardDB": "unpack each images/SPLIT/NAME.zip into a folder NAME beside it, and give --table {folder}",
    "sayakpaul/pickapic_v2_webdataset": "give --table {folder}",
}
ARCHIVED["zai-org/ImageRewardDB"] = ARCHIVED["THUDM/ImageRewardDB"]  # its newer name


@dataclass(frozen=True)
class Table:
    """The files of a table."""

    kind: Literal["text", "parquet", "tar"]
    paths: list[str]
    folder: str  # that the images' names count from, where no other is given


def find(given: str, split: str) -> Table:
    """Find a table's files.

    Args:
        given: a file, a folder, or a dataset's name.
        split: which of several a folder or dataset has.

    Raises:
        UserError: naming what is missing, or the commands that bring it.
    """
    path = source.told_apart(given)
    if path == given and source.DATASET_NAME.fullmatch(given) and not unpacked_name(given).endswith(KNOWN_ENDS):
        return Table("parquet", _named(given, split), "")
    path = files.resolve(given).rstrip("/")
    if files.is_file(path):
        if path.endswith(source.ARROW):
            how = source.how_to_rewrite(path, split) or f"give one that ends in {', '.join(KNOWN_ENDS)}"
            raise UserError(f"{FLAG} {path}: is no table that is read; {how}")
        return Table(_kind(path), [path], path.rpartition("/")[0])
    if not files.exists(path):
        raise UserError(f"{FLAG} {path}: no such file; give the path of a table, which counts from where you stand")
    return _in_folder(path, split)


def _named(name: str, split: str) -> list[str]:
    """List the Parquet files of a dataset on the Hub."""
    if name in ARCHIVED:
        folder = name.split("/")[1]
        how = ARCHIVED[name].format(folder=folder)
        raise UserError(
            f"{FLAG} {name}: its images lie in archives; run `{DOWNLOAD.format(name=name, folder=folder)}`, then {how}"
        )
    return source.parquet_files(name, split, FLAG)


def _kind(path: str) -> Literal["text", "parquet", "tar"]:
    if path.lower().endswith(tables.SUFFIX):
        return "parquet"
    return "tar" if path.lower().endswith(webdataset.SUFFIX) else "text"


def _in_folder(folder: str, split: str) -> Table:
    """Choose among a folder's tars, else its Parquet files, else the tables that lie directly in it."""
    shown = f"{FLAG} {folder}"
    tars = files.list_files(folder, webdataset.SUFFIX)
    if tars:
        return Table("tar", splits.of_folder(folder, tars, split, shown), folder)
    tables.refuse_other_names(folder, shown)
    parquet = tables.list_tables(folder)
    if parquet:
        return Table("parquet", splits.of_folder(folder, parquet, split, shown), folder)
    export = source.how_to_export(folder, split)
    if export:  # beside which save_to_disk writes JSON of its own
        raise UserError(f"{shown}: holds {export}")
    names = [path for path in files.list_files(folder) if unpacked_name(path).endswith(TEXT)]
    direct = [path for path in names if "/" not in path.removeprefix(f"{folder}/")]
    if not direct:
        raise UserError(f"{shown}: holds no table ({', '.join(KNOWN_ENDS)}); name the file itself")
    chosen = [path for path in direct if splits.split_of(path.removeprefix(f"{folder}/")) == split]
    if len(direct) > 1 and len(chosen) != 1:
        listed = ", ".join(path.removeprefix(f"{folder}/") for path in direct[:5])
        raise UserError(f"{shown}: holds {listed}; name one of these files, or its split with --split")
    return Table("text", direct if len(direct) == 1 else chosen, folder)
