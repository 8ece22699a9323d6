"""Checkpoints of sharded networks, through torch.distributed.checkpoint: each rank writes its shards as safetensors.

Its usual format keeps a pickle beside the tensors; in the one taken here each file's header says what it holds. Such a
checkpoint can be read at any world size, sharded or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

from infra.base import files
from infra.base.errors import UserError
from training.checkpoints import checkpoint
from training.checkpoints.mirror import Mirror

SHARDS = "shards"


def save(output: Path, state: checkpoint.State, groups: checkpoint.Groups, workers: dist.ProcessGroup) -> None:
    """Write this rank's part of a checkpoint; rank 0 marks it complete when all ranks have written and hashed theirs.

    Args:
        groups: copies in CPU memory, sharded tensors or, alike on every rank, whole ones.
        workers: a gloo group of its own: this runs on a thread beside the training's collectives.

    Raises:
        OSError: on every rank, if any could not write.
    """
    rank = dist.get_rank(workers)
    folder = checkpoint.folder_of(output, state.step)
    # No rank makes its folder while rank 0 still deletes what a torn one left.
    _on_rank_0(workers, partial(checkpoint.begin, output, state.step))
    flat = {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}
    writer = HuggingFaceStorageWriter(str(folder / SHARDS), save_distributed=True)
    try:
        dcp.save(flat, storage_writer=writer, process_group=workers)
    except dcp.CheckpointException as error:  # a BaseException, which no other handler takes
        raise _as_os_error(error) from error
    hashes = _on_every_rank(workers, partial(_flushed, folder, rank))
    _on_rank_0(workers, partial(checkpoint.mark, folder, state, hashes))


def send(mirror: Mirror, step: int, keep: int, best: int | None, workers: dist.ProcessGroup) -> None:
    """Send a checkpoint that all ranks wrote on their nodes: each its own shards, and rank 0 the marker, last.

    Raises:
        OSError: on every rank, if any could not send, or a file is not what the marker says.
    """
    folder = checkpoint.folder_of(mirror.local, step)
    own = _own(folder, dist.get_rank(workers))
    # Before any shard is there: without its marker it would be swept.
    _on_rank_0(workers, partial(mirror.make_room, keep, best))
    sent = _on_every_rank(workers, partial(mirror.send_files, step, own))
    _on_rank_0(workers, partial(mirror.mark, step, sent))
    mirror.drop_part(step)


def _own(folder: Path, rank: int) -> list[str]:
    return sorted(f"{SHARDS}/{path.name}" for path in (folder / SHARDS).glob(f"shard-{rank + 1:05d}-*"))


def _flushed(folder: Path, rank: int) -> dict[str, str]:
    """Have a rank's shards on the disk, and return their SHA-256 by their names in the checkpoint."""
    names = _own(folder, rank)
    for name in names:
        files.flush(str(folder / name))
    files.flush(str(folder / SHARDS))
    return {name: files.sha256(str(folder / name)) for name in names}


def _on_rank_0(workers: dist.ProcessGroup, work: Callable[[], object]) -> None:
    """Let all ranks wait until rank 0 has done something; where it fails, all raise its OSError."""

    def do() -> dict[str, str]:
        if dist.get_rank(workers) == 0:
            work()
        return {}

    _on_every_rank(workers, do)


def _on_every_rank(workers: dist.ProcessGroup, work: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Do each rank's own work, and join the results of all; where one rank fails, all raise its OSError."""
    mine: tuple[dict[str, str], str | None]
    try:
        mine = (work(), None)
    except (OSError, UserError) as error:
        mine = ({}, str(error))
    everyone = [mine] * dist.get_world_size(workers)
    dist.all_gather_object(everyone, mine, group=workers)
    failures = [f"rank {rank}: {error}" for rank, (_, error) in enumerate(everyone) if error is not None]
    if failures:
        raise OSError("; ".join(failures))
    return {name: digest for digests, _ in everyone for name, digest in digests.items()}


def load(folder: Path, group: str, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read a group of a checkpoint of either kind.

    Args:
        parameters: by name. What the group holds under NAME or .../NAME in a parameter's shape (weights, moments) is
            laid out and sharded as that is; anything else comes whole. All ranks must call this.

    Raises:
        OSError: if a shard cannot be read.
    """
    if not (folder / SHARDS).is_dir():
        with safe_open(folder / f"{group}.safetensors", framework="pt") as file:  # one tensor at a time in memory
            return {key: _laid_out(file.get_tensor(key), _like(parameters, key)) for key in file.keys()}  # noqa: SIM118
    reader = HuggingFaceStorageReader(str(folder / SHARDS))
    tensors = {}
    for key, entry in reader.read_metadata().state_dict_metadata.items():
        if key.startswith(f"{group}/"):
            assert isinstance(entry, TensorStorageMetadata)
            like = _like(parameters, key)
            shaped = torch.empty(entry.size) if like is None or like.shape != entry.size else like
            tensors[key] = torch.empty_like(shaped, dtype=entry.properties.dtype)
    try:
        dcp.load(tensors, storage_reader=reader)
    except dcp.CheckpointException as error:
        raise _as_os_error(error) from error
    return {key.removeprefix(f"{group}/"): value for key, value in tensors.items()}


def _as_os_error(error: dcp.CheckpointException) -> OSError:
    return OSError("; ".join(f"rank {rank}: {cause}" for rank, (cause, _) in error.failures.items()))


def _like(parameters: Mapping[str, torch.Tensor], key: str) -> torch.Tensor | None:
    value = parameters.get(key.rpartition("/")[2])
    return None if value is None else value.detach()


def _laid_out(value: torch.Tensor, like: torch.Tensor | None) -> torch.Tensor:
    """Lay a whole tensor out as another of its shape: device, strides (fused optimizers want them equal), shards."""
    if like is None or like.shape != value.shape:
        return value
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)
