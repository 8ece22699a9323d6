"""Everything that may be wrong with a run folder and with a node's copies, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from infra.base import copy_index, disk_errors, files, records, result_files
from infra.base.errors import UserError
from infra.base.node_cache import cache_folder
from infra.base.verifying import refusals
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import ASSESSMENTS, RESULT, STEPS, parse_note, run_id

CONFIG = "config.json"
LEFT_OUT = "nothing is to be done: a run goes on without them, and curves lack them"


def problems(output: str) -> Iterator[str]:
    """Yield one sentence for each thing that is wrong with a run folder, local or on S3; every byte is read."""
    if not files.is_file(files.join(output, CONFIG)):
        yield f"{output}: no run here, as it has no {CONFIG}; give the --output of a run, or restore the file"
        return
    yield from refusals(partial(_check_settings, output))
    if checkpoint.is_asked_to_rewind(output):
        yield from refusals(partial(checkpoint.next_start, output))
    for name in (STEPS, ASSESSMENTS):
        yield from _note_problems(files.join(output, name))
    for step in checkpoint.complete_steps(output):
        yield from refusals(partial(checkpoint.check, files.join(output, checkpoint.name_of(step))))
    result = files.join(output, RESULT)
    if files.is_file(files.join(result, result_files.FACTS)):
        refused = list(refusals(partial(result_files.read_facts, result)))
        yield from refused or result_files.problems(result)
    elif files.exists(result):
        yield f"{result}: without {result_files.FACTS}, which is written last; {result_files.remedy(result)}"


def _check_settings(output: str) -> None:
    """Compare the settings of a run with its last checkpoint: an older file of settings says another seed or batch."""
    path = files.join(output, CONFIG)
    settings = records.read_record(path, ("data", "steps", "seed"))
    steps = checkpoint.complete_steps(output)
    if not steps:
        return
    folder = files.join(output, checkpoint.name_of(steps[-1]))
    state, _ = checkpoint.read_marker(folder, files.read_bytes(files.join(folder, checkpoint.COMPLETE)))
    says = (settings["seed"], settings["data"].get("global_batch"))
    if says != (state.seed, state.global_batch):
        raise UserError(
            f"{path}: seed and global batch are {says[0]} and {says[1]}, but {state.seed} and {state.global_batch} in "
            f"{folder}; {records.RESTORE}"
        )


def _note_problems(path: str) -> Iterator[str]:
    try:
        lines = files.read_bytes(path).split(b"\n")[:-1] if files.is_file(path) else []
    except OSError as error:
        yield f"{path}: cannot be read ({disk_errors.reason(error)}); ask its owner for the right to"
        return
    own = run_id(path.rpartition("/")[0])
    torn = sum(parse_note(line, own) is None for line in lines)
    if torn:
        yield f"{path}: {torn} of its lines cannot be read, or are of another run; {LEFT_OUT}"


def cache_problems(cache: str | None) -> Iterator[str]:
    """Yield one sentence for each copy of this node that lost bytes."""
    for folder in sorted(path for path in cache_folder(cache).iterdir() if path.is_dir()):
        yield from copy_problems(folder)


def copy_problems(folder: Path) -> Iterator[str]:
    """Yield one sentence if a copy lost bytes; a folder that nobody vouched for is an unfinished copy, or a run's."""
    if copy_index.is_begun_only(folder):
        return
    try:
        wrong = copy_index.damage(folder)
    except OSError as error:
        wrong = disk_errors.reason(error)
    if wrong is not None:
        yield f"{folder}: {wrong}; nothing is to be done: whoever needs it copies it again"
