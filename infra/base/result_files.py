"""A run's result by its facts: facts.json, written last, says how it was trained and which files it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from infra.base import files, named_files, records

FACTS = "facts.json"
WEIGHTS = (".safetensors", ".safetensors.index.json")


def read_facts(result: str) -> dict[str, Any]:
    """Read the facts of a result, local or on S3.

    Raises:
        UserError: if they are missing, torn, or another file's content.
    """
    return records.read_record(files.join(result, FACTS), ("config",), remedy(result))


def remedy(result: str) -> str:
    """Say how a damaged result is made again."""
    return f"restore it from a copy, or delete {result} and give the run's command again, which writes it anew"


def problems(result: str, contents: bool = True, parts: tuple[str, ...] | None = None) -> Iterator[str]:
    """Yield one sentence for each file of a result that is missing or differs; facts of before name no files.

    Weights that nobody named are too many: the classes that open a folder may prefer them.

    Args:
        contents: whether to compare hashes too.
        parts: folders of the result to look into, for example unet; None: all, and the files beside them.
    """
    described = named(result)
    if parts is not None:
        described = {name: about for name, about in described.items() if name.split("/")[0] in parts}
    if described:
        yield from named_files.unknown(result, described, suffixes=WEIGHTS)
        yield from named_files.problems(result, described, remedy(result), contents)


def named(result: str) -> Mapping[str, Mapping[str, Any]]:
    """Read which files a folder of a model is known to have; none, where no run wrote it or long ago."""
    if not files.is_file(files.join(result, FACTS)):
        return {}
    described: Mapping[str, Mapping[str, Any]] = read_facts(result).get("files", {})
    return described
