"""What was counted of a model, kept: a dry run of the same settings needs neither torch nor diffusers again.

To count a network takes seconds and half a gigabyte, most of it imports. What is counted follows from the model's
settings files, from what is asked, and from the code and the libraries that count. An answer is kept under a hash of
all these, so one that is found is the one that would be counted. Two places are looked at: the table that comes with
the code, for the presets and the embedded world, and this user's temporary folder, for all else.

A test counts the table's answers anew, so their keys leave our own code out, which changes every day.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from infra.base import files, node_cache
from infra.base.errors import UserError

TABLE = files.ROOT / "infra/benchmarks/shapes/counts.json"
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate")
SETTINGS = (".json", ".txt", ".jinja", ".model")  # how the files are named that a model is built of, but for weights
CODE = (  # the rooms of what counts
    *("infra/base", "labelers/clips", "pipelines/latents"),
    *("training/backbones", "training/layout", "training/method", "training/run"),
)


class _Open:
    """A list to which answers are added as they are given, while a table is written."""

    answers: dict[str, Any] | None = None


def kept(folder: Path, question: str, asked: Mapping[str, Any], count: Callable[[], Mapping[str, Any]]) -> Any:
    """Return what was counted of a model's folder, as JSON has it; it is counted now where nobody has done so before.

    Args:
        question: which count is meant.
        asked: all else that decides it, as JSON can hold it.
        count: counts it.
    """
    key = key_of(folder, question, asked)
    if _Open.answers is not None:
        _Open.answers[key] = json.loads(json.dumps(count()))
        return _Open.answers[key]
    shipped = json.loads(TABLE.read_bytes())
    if key in shipped:
        return shipped[key]
    with contextlib.suppress(UserError, OSError):  # none is kept, or it is torn: then it is counted
        return files.read_json(_place(key))
    answer = json.loads(json.dumps(count()))
    with contextlib.suppress(UserError, OSError):  # a full disk, or no folder of this user's own
        files.write_json(_place(key), answer)
    return answer


@contextlib.contextmanager
def counting_anew() -> Iterator[dict[str, Any]]:
    """Count whatever is asked for within the block; yields the answers by key, as a table has them."""
    _Open.answers = {}
    try:
        yield _Open.answers
    finally:
        _Open.answers = None


def key_of(folder: Path, question: str, asked: Mapping[str, Any]) -> str:
    """Hash what decides an answer, but for our own code: settings files, the question, versions of libraries."""
    versions = {name: metadata.version(name).partition("+")[0] for name in LIBRARIES}  # builds count alike
    digest = hashlib.sha256(json.dumps([question, asked, versions], sort_keys=True).encode())
    for path in sorted(folder.rglob("*")):
        if path.suffix in SETTINGS and path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder)}\0{content}\n".encode())
    return digest.hexdigest()[:32]


def _place(key: str) -> str:
    """Name the file of an answer in the temporary folder: other code counts anew."""
    digest = hashlib.sha256(key.encode())
    for room in CODE:
        for path in sorted((files.ROOT / room).glob("*.py")):
            digest.update(path.read_bytes())
    return str(node_cache.cache_folder(None, "TMPDIR") / "counts" / f"{digest.hexdigest()[:32]}.json")
