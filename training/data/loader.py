"""Pairs for training: a label set applied to a store, and micro-batches cut from it."""

from __future__ import annotations

import collections
import functools
import itertools
import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from pipelines.latents import schemas, store
from training.data.applied_labels import Labelled
from training.data.stored import StoredPairs, area, latent_shape
from training.method.batch import Batch
from training.method.draws import Draw, draw
from training.method.order import batch_rows, step_rows

Item = TypeVar("Item")
Part = TypeVar("Part")
TimestepMap = Callable[..., int]  # of a uniform number, and with buckets `area`; see Backbone.timestep
PAIRS_AHEAD = 64  # that are asked of S3 before they are needed: at 77 pairs/s the answers may take 0.8 s


def assemble(
    data: Labelled,
    rows: npt.NDArray[np.int64],
    seed: int,
    epoch: int,
    timestep: TimestepMap,
    dropout: float,
) -> Batch:
    """Gather rows of a label set and make their draws; see begin."""
    return begin(data, rows, seed, epoch, timestep, dropout)()


def begin(
    data: Labelled,
    rows: npt.NDArray[np.int64],
    seed: int,
    epoch: int,
    timestep: TimestepMap,
    dropout: float,
) -> Callable[[], Batch]:
    """Make the draws of some rows and begin to read these; what is returned waits for them.

    Args:
        rows: [B] positions in data.rows, of one bucket.
        timestep: the backbone's map from a uniform number to a timestep, see Backbone.timestep.
        dropout: probability that a caption gives way to the empty one.
    """
    pairs = data.pairs
    chosen = data.rows[rows].astype(np.int64)
    manifest = pairs.manifest
    moments = manifest.posterior == "moments"
    ids = pairs.pair_ids[chosen]
    bucket = None if pairs.buckets is None else int(pairs.buckets[chosen[0]])
    shape = manifest.shape_of(bucket)
    drawn_by = timestep if bucket is None else functools.partial(timestep, area=area(manifest, bucket))
    draws = [
        draw(seed, epoch, int(key), shape, drawn_by, dropout, moments and pairs.groups is None)
        for key in pairs.draw_keys[chosen]
    ]
    if moments and pairs.groups is not None:
        draws = pairs.groups.with_posteriors(draws, chosen, seed, epoch, shape)
    turns = np.array([drawn.flip for drawn in draws]) if manifest.flip else None
    latents = pairs.latents.begin(chosen, turns)
    dropped = np.array([drawn.drop_caption for drawn in draws])
    wanted = np.where(dropped, pairs.empty_prompt, pairs.prompt_rows[chosen])
    captions, places = np.unique(wanted, return_inverse=True)  # each is read once
    prompts = pairs.prompts.begin(captions.astype(np.int64))
    winners = data.winners[rows]

    def finish() -> Batch:
        return Batch(
            pair_ids=ids,
            # torch widens float16 (exactly) fifteen times as fast as numpy
            latents=torch.from_numpy(_pair_latents(manifest, bucket, latents(), winners, draws)).float(),
            noise=torch.from_numpy(np.stack([drawn.noise for drawn in draws])),
            timesteps=torch.tensor([drawn.timestep for drawn in draws]),
            conditioning={name: torch.from_numpy(values[places]).float() for name, values in prompts().items()},
            preferred=torch.ones(len(rows)) if data.preferred is None else torch.from_numpy(data.preferred[rows]),
            reference_errors=_cached_errors(pairs, chosen, winners, epoch),
        )

    return finish


def _pair_latents(
    manifest: store.Manifest,
    bucket: int | None,
    columns: Mapping[str, schemas.Values],
    winners: npt.NDArray[np.uint8],
    draws: Sequence[Draw],
) -> schemas.Values:
    """Return pairs' latents [2, B, C, H, W], winners first: as stored, or float32 where they are sampled here."""
    shape = latent_shape(manifest, bucket)
    slots = [rows.reshape(len(rows), -1)[:, : math.prod(shape)].reshape(-1, *shape) for rows in columns.values()]
    pairs: list[schemas.Values] = []
    for place, (winner, drawn) in enumerate(zip(winners.tolist(), draws, strict=True)):
        pair: schemas.Values = np.stack([slot[place] for slot in slots])
        if manifest.posterior == "moments":
            mean, std = np.split(pair.astype(np.float32), 2, axis=1)
            pair = mean + std * drawn.posterior
        pairs.append(pair[[winner, 1 - winner]])
    return np.stack(pairs, axis=1)


def _cached_errors(
    pairs: StoredPairs, chosen: npt.NDArray[np.int64], winners: npt.NDArray[np.uint8], epoch: int
) -> torch.Tensor | None:
    if pairs.reference_errors is None:
        return None
    order = np.stack([winners, 1 - winners], axis=1).astype(np.int64)
    slots = pairs.reference_errors.of(chosen, epoch)
    return torch.from_numpy(np.take_along_axis(slots, order, axis=1).T.copy())


@dataclass(frozen=True)
class Share:
    """Which part of every global batch a rank takes, and in which pieces.

    Every rank has equally many pieces, each of micro_batch pairs where the world size divides the global batch, of at
    most so many where it does not, or where a rank's part meets several buckets: ranks that compute together need
    equally many passes.
    """

    global_batch: int
    micro_batch: int
    rank: int = 0
    world_size: int = 1

    def pieces(self, buckets: npt.NDArray[np.uint8] | None = None) -> list[range]:
        """Return the positions in the global batch of each of this rank's micro-batches, each of one bucket.

        Args:
            buckets: of the global batch's pairs [G]; None where all have one shape.
        """
        parts = [_runs(part, buckets) for part in _cut(self.global_batch, self.world_size)]
        needed = [[max(1, -(-len(run) // self.micro_batch)) for run in runs] for runs in parts]
        passes = max(map(sum, needed))
        mine = parts[self.rank]
        cuts = needed[self.rank]
        while sum(cuts) < passes:  # as many as the rank that has most: the longest pieces are cut once more
            lengths = [len(run) / count for run, count in zip(mine, cuts, strict=True)]
            cuts[lengths.index(max(lengths))] += 1
        return [
            run[piece.start : piece.stop]
            for run, count in zip(mine, cuts, strict=True)
            for piece in _cut(len(run), count)
        ]


def _runs(part: range, buckets: npt.NDArray[np.uint8] | None) -> list[range]:
    """Cut consecutive positions where the bucket changes."""
    if buckets is None:
        return [part]
    changes = np.flatnonzero(np.diff(buckets[part.start : part.stop])) + part.start + 1
    edges = [part.start, *changes.tolist(), part.stop]
    return [range(start, stop) for start, stop in itertools.pairwise(edges)]


def _cut(length: int, parts: int) -> list[range]:
    """Cut 0..length-1 into consecutive parts of equal length, the first ones longer by one where it does not divide."""
    size, longer = divmod(length, parts)
    starts = [part * size + min(part, longer) for part in range(parts + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(starts)]


def step_batches(
    data: Labelled, step: int, share: Share, seed: int, timestep: TimestepMap, dropout: float
) -> list[Batch]:
    """Assemble one rank's micro-batches of one step: a pure function of its arguments."""
    return begin_step(data, step, share, seed, timestep, dropout)()


def begin_step(
    data: Labelled, step: int, share: Share, seed: int, timestep: TimestepMap, dropout: float
) -> Callable[[], list[Batch]]:
    """Begin to read one rank's micro-batches of one step; what is returned waits for them."""
    epoch, rows = _rows_of_step(data, step, share, seed)
    pieces = share.pieces(data.buckets(rows))
    begun = [begin(data, rows[p.start : p.stop], seed, epoch, timestep, dropout) for p in pieces]
    return lambda: [finish() for finish in begun]


def pieces_of_step(data: Labelled, step: int, share: Share, seed: int) -> list[range]:
    """Return the positions in the global batch of each of a rank's micro-batches of a step."""
    _, rows = _rows_of_step(data, step, share, seed)
    return share.pieces(data.buckets(rows))


def _rows_of_step(data: Labelled, step: int, share: Share, seed: int) -> tuple[int, npt.NDArray[np.int64]]:
    """Return the epoch of a step and the rows of its global batch [G], in order."""
    if data.streams is None:
        return batch_rows(step, len(data.rows), share.global_batch, seed)
    return step_rows(step, data.streams, share.global_batch, share.micro_batch, seed)


def steps_ahead(data: Labelled, share: Share) -> int:
    """Say how many steps to begin before the one that is waited for: none where rows lie on a disk."""
    return passes_ahead(data, share.global_batch // share.world_size)


def passes_ahead(data: Labelled, pairs: int) -> int:
    """Say how many passes of so many pairs to begin before the one that is waited for; none from a disk."""
    return -(-PAIRS_AHEAD // max(1, pairs)) if data.pairs.latents.far else 0


def read_ahead(steps: Iterable[Part], begin: Callable[[Part], Callable[[], Item]], ahead: int) -> Iterator[Item]:
    """Yield what begin(step) returns for each step in order, when `ahead` further steps were begun."""
    begun: collections.deque[Callable[[], Item]] = collections.deque()
    for step in steps:
        begun.append(begin(step))
        if len(begun) > ahead:
            yield begun.popleft()()
    for finish in begun:
        yield finish()


def prefetch(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Yield items in order, made up to depth ahead on a thread of its own."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: Item | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=1.0)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # handed to the consumer, who raises it
            put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item = ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
