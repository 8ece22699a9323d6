"""Pairs for training: a label set applied to a staged store, and micro-batches cut from it."""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from infra.errors import UserError
from pipelines import store
from training.draws import Draw, draw
from training.order import batch_rows
from training.staging import Staged

Item = TypeVar("Item")


@dataclass(frozen=True)
class Labelled:
    """Staged pairs with a label set applied: the rows that it decides, and which slot won."""

    staged: Staged
    rows: npt.NDArray[np.int64]  # [m] rows of staged, in the order of their ids
    winners: npt.NDArray[np.int64]  # [m] 0 or 1
    labels_hash: str


def apply_labels(staged: Staged, path: str, name: str) -> Labelled:
    """Apply a label set; ties and pairs it does not know are left out.

    Raises:
        UserError: if it decides no pair.
    """
    table, labels_hash = store.read_labels(path, name)
    order = np.argsort(table["pair_id"].to_numpy())
    ids, label = table["pair_id"].to_numpy()[order], table["label_0"].to_numpy()[order]
    place = np.minimum(np.searchsorted(ids, staged.pair_ids), max(len(ids) - 1, 0))
    decided = (ids[place] == staged.pair_ids) & np.isin(label[place], (0.0, 1.0)) if len(ids) else np.zeros(0, bool)
    rows = np.flatnonzero(decided)
    if not len(rows):
        raise UserError(f"--labels {name}: decides none of the {len(staged.pair_ids)} pairs of {path}")
    return Labelled(staged, rows, np.where(label[place][rows] == 1.0, 0, 1), labels_hash)


@dataclass(frozen=True)
class Batch:
    """A micro-batch; row 0 of latents are the winners, row 1 the losers."""

    pair_ids: npt.NDArray[np.int64]  # [B]
    latents: torch.Tensor  # [2, B, C, H, W] float32
    noise: torch.Tensor  # [B, C, H, W] float32
    timesteps: torch.Tensor  # [B] int64
    conditioning: Mapping[str, torch.Tensor]  # the store's embedding columns, [B, ...] float32 each

    def to(self, device: torch.device) -> Batch:
        """Move the tensors to a device."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        conditioning = {name: move(value) for name, value in self.conditioning.items()}
        return Batch(self.pair_ids, move(self.latents), move(self.noise), move(self.timesteps), conditioning)

    def fingerprint(self, position: int) -> int:
        """Hash (position in the global batch, pair, timestep, noise) of each row and add up, modulo 2^64."""
        total = 0
        for index, pair_id in enumerate(self.pair_ids):
            told = f"{position + index}/{pair_id}/{int(self.timesteps[index])}/".encode()
            digest = hashlib.blake2b(told + self.noise[index].numpy().tobytes(), digest_size=8).digest()
            total += int.from_bytes(digest, "little")
        return total % (1 << 64)


def assemble(
    data: Labelled,
    rows: npt.NDArray[np.int64],
    seed: int,
    epoch: int,
    timestep: Callable[[float], int],
    dropout: float,
) -> Batch:
    """Gather rows of a label set and make their draws.

    Args:
        rows: [B] positions in data.rows.
        timestep: the backbone's map from a uniform number to a timestep.
        dropout: probability that a caption gives way to the empty one.
    """
    staged, manifest = data.staged, data.staged.manifest
    chosen = data.rows[rows]
    moments = manifest.posterior == "moments"
    visits = [
        draw(seed, epoch, int(pair), manifest.latent_shape, timestep, dropout, moments)
        for pair in staged.pair_ids[chosen]
    ]
    latents = np.stack(
        [
            _pair_latents(staged, row, winner, visit)
            for row, winner, visit in zip(chosen, data.winners[rows], visits, strict=True)
        ],
        axis=1,
    )
    captions = [
        staged.empty_prompt if v.drop_caption else staged.prompt_rows[r] for r, v in zip(chosen, visits, strict=True)
    ]
    return Batch(
        pair_ids=staged.pair_ids[chosen],
        latents=torch.from_numpy(latents),
        noise=torch.from_numpy(np.stack([visit.noise for visit in visits])),
        timesteps=torch.tensor([visit.timestep for visit in visits]),
        conditioning={
            name: torch.from_numpy(rows[captions].astype(np.float32)) for name, rows in staged.prompts.items()
        },
    )


def _pair_latents(staged: Staged, row: int, winner: int, visit: Draw) -> npt.NDArray[np.float32]:
    mirrored = 2 if staged.manifest.flip and visit.flip else 0
    slots = staged.latents[row, mirrored : mirrored + 2].astype(np.float32)
    if staged.manifest.posterior == "moments":
        mean, std = np.split(slots, 2, axis=1)
        slots = mean + std * visit.posterior
    return slots[[winner, 1 - winner]]


@dataclass(frozen=True)
class Share:
    """Which part of every global batch a rank takes, and in which pieces.

    Every rank has equally many pieces, each of micro_batch pairs where the world size divides the global batch, of at
    most so many where it does not: ranks that compute together need equally many passes.
    """

    global_batch: int
    micro_batch: int
    rank: int = 0
    world_size: int = 1

    @property
    def offset(self) -> int:
        """Return the position in the global batch where this rank's part begins."""
        return _cut(self.global_batch, self.world_size)[self.rank].start

    @property
    def pieces(self) -> list[range]:
        """Return the positions in the global batch of each of this rank's micro-batches."""
        parts = _cut(self.global_batch, self.world_size)
        mine, longest = parts[self.rank], len(parts[0])
        return [mine[piece.start : piece.stop] for piece in _cut(len(mine), -(-longest // self.micro_batch))]


def _cut(length: int, parts: int) -> list[range]:
    """Cut 0..length-1 into consecutive parts of equal length, the first ones longer by one where it does not divide."""
    size, longer = divmod(length, parts)
    starts = [part * size + min(part, longer) for part in range(parts + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(starts)]


def step_batches(
    data: Labelled, step: int, share: Share, seed: int, timestep: Callable[[float], int], dropout: float
) -> list[Batch]:
    """Assemble one rank's micro-batches of one step: a pure function of its arguments."""
    epoch, rows = batch_rows(step, len(data.rows), share.global_batch, seed)
    return [assemble(data, rows[p.start : p.stop], seed, epoch, timestep, dropout) for p in share.pieces]


def prefetch(steps: range, make: Callable[[int], Item], depth: int = 2) -> Iterator[Item]:
    """Yield make(step) for each step in order, computed up to depth steps ahead on a thread of its own."""
    ready: queue.Queue[Item | BaseException] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def work() -> None:
        for step in steps:
            try:
                item: Item | BaseException = make(step)
            except BaseException as error:  # handed to the consumer, who raises it
                item = error
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=1.0)
                    break
                except queue.Full:
                    continue
            if stopped.is_set() or isinstance(item, BaseException):
                return

    threading.Thread(target=work, daemon=True).start()
    try:
        for _ in steps:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
