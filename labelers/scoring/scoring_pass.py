"""One pass of scorers over raw pairs: resumable, each pair once, whatever the scores are wanted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import files, metrics, tables
from infra.base.errors import UserError
from labelers.scoring import scorers
from labelers.scoring.group_scores import ScoreGroupPairs, ScoreRawGroupPairs
from labelers.scoring.pair_scores import DecodePairs, ScorePairs, ScoreRawPairs, try_first
from labelers.scoring.reasons import is_unanswered
from labelers.scoring.scorers import Scorer
from labelers.scoring.speed_config import SpeedConfig
from pipelines.engine import block_rows, choose, progress, shares
from pipelines.engine.jobs import Job, Step
from pipelines.raw import pairs, raw_table, source

SCORES = "scores"  # folder of the scored pairs, below the work folder
MARKS = "scores_done"  # folder of the marks of finished blocks, there
FIRST = 16  # pairs that every scorer is tried on before the pass begins


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """Raw pairs, opened and checked."""

    name: str  # as given
    split: str
    paths: list[str]
    dataset: raw_table.RawTable
    ids: npt.NDArray[np.int64]  # [rows] pair_id of each row

    @property
    def columns(self) -> list[str]:
        """Name the columns that scoring reads: what a pair is known by, and its images."""
        names = pairs.identity_columns(list(self.dataset.names))
        return list(dict.fromkeys([*names, "caption", "jpg_0", "jpg_1"]))


def open_pairs(name: str, split: str) -> PairSource:
    """Open raw pairs.

    Raises:
        UserError: if they are absent, lack columns, or have duplicates.
    """
    paths = source.parquet_files(name, split)
    dataset = raw_table.open_source(paths)
    return PairSource(name=name, split=split, paths=paths, dataset=dataset, ids=raw_table.all_pair_ids(dataset))


def first_pairs(raw: PairSource, wanted: npt.NDArray[np.int64]) -> pa.Table:
    """Read the first wanted raw pairs, FIRST of them or all."""
    parts: list[pa.Table] = []
    for table in raw.dataset.pieces(raw.columns):
        parts.append(table.filter(pa.array(np.isin(pairs.pair_ids(table), wanted))))
        if sum(part.num_rows for part in parts) >= FIRST:
            break
    return pa.concat_tables(parts).slice(0, FIRST)


def try_scorers(
    raw: PairSource,
    wanted: npt.NDArray[np.int64],
    judges: Mapping[str, Scorer],
    weights: Mapping[str, str | None],
    speed: SpeedConfig,
) -> None:
    """Choose the engine, and try scorers there on the first wanted pairs, before the pass begins.

    Raises:
        UserError: if one cannot be loaded there, is another than here, or fails on every pair.
    """
    connect(speed)
    fingerprints = choose.current().call(
        try_first, list(judges), dict(weights), first_pairs(raw, wanted), gpus=_share(speed).gpus
    )
    for name, judge in judges.items():
        if fingerprints[name] != judge.fingerprint:
            raise UserError(
                f"scorer {name}: other weights or code on the cluster's nodes than where the job was started"
            )


def connect(speed: SpeedConfig) -> None:
    """Choose the engine."""
    choose.connect("--copies", speed.copies, shares.cluster_only("--gpus-per-copy", speed.gpus_per_copy))


def _share(speed: SpeedConfig) -> shares.Share:
    return shares.share(choose.current().device_count(), speed.copies, speed.gpus_per_copy)


def _steps(
    raw: PairSource,
    wanted: npt.NDArray[np.int64],
    names: Sequence[str],
    weights: Mapping[str, str | None],
    speed: SpeedConfig,
) -> list[Step]:
    """Let decoding run beside the scorers where these have GPUs; else one copy does both."""
    judges = {"names": tuple(names), "weights": dict(weights)}
    share = _share(speed)
    grouped = pairs.GROUP in raw.dataset.names
    if not share.gpus:
        together = judges | {"wanted": wanted, "batch_size": speed.batch_size}
        function = ScoreRawGroupPairs if grouped else ScoreRawPairs
        return [Step(function=function, arguments=together, actors=share.copies)]
    return [
        Step(function=DecodePairs, arguments={"wanted": wanted}, batch_size=speed.batch_size),
        Step(
            function=ScoreGroupPairs if grouped else ScorePairs,
            arguments=judges,
            batch_size=speed.batch_size,
            actors=share.copies,
            gpus=share.gpus,
        ),
    ]


def score_pairs(
    raw: PairSource,
    wanted: npt.NDArray[np.int64],
    names: Sequence[str],
    weights: Mapping[str, str | None],
    work: str,
    speed: SpeedConfig,
) -> None:
    """Score the wanted pairs by all scorers in one pass; pairs already scored below work are not scored again.

    Blocks with pairs that a server gave no answer to are; what it did answer of them is kept in --answers.
    """
    done = files.join(work, MARKS)
    waiting = _unanswered(names, weights, work)
    for path in waiting:
        files.remove(path, files.owner_of(work))
    if waiting:
        progress.forget_blocks(done, "pair_id", np.setdiff1d(wanted, np.concatenate([*waiting.values()])))
    choose.current().run(
        Job(
            source=raw.paths,
            columns=raw.columns,
            steps=_steps(raw, wanted, names, weights, speed),
            output=files.join(work, SCORES),
            checkpoint=done,
            id_column="pair_id",
            row_ids=pairs.pair_ids,
            rows_per_block=speed.rows_per_file,
            name="pairs",
            rows=len(wanted),
            counts=metrics.scored,
            read=raw_table.read_pieces,
        )
    )


def _unanswered(names: Sequence[str], weights: Mapping[str, str | None], work: str) -> dict[str, npt.NDArray[np.int64]]:
    """Find the pairs that a server gave no answer to, by the file below work that they are in."""
    asked = [name for name in names if hasattr(scorers.load(name, weights.get(name)), "judge_pairs")]
    columns = [f"reason:{name}" for name in asked]
    waiting = {}
    for path in files.list_files(files.join(work, SCORES), tables.SUFFIX) if asked else ():
        try:
            table = tables.read([path], ["pair_id", *columns])
        except tables.UnreadableError:  # of a killed run; its rows do not count as written
            continue
        rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
        ids = table["pair_id"].to_numpy()[[any(map(is_unanswered, reasons)) for reasons in rows]]
        if len(ids):
            waiting[path] = ids
    return waiting


def read_scores(wanted: npt.NDArray[np.int64], work: str) -> pa.Table:
    """Read what score_pairs wrote below work.

    Returns:
        The columns of ScorePairs, one row per wanted pair, in the order of pair_id.

    Raises:
        UserError: if the rows are not exactly the wanted ones, or other hands changed them.
    """
    table = block_rows.read(files.join(work, SCORES), files.join(work, MARKS)).sort_by("pair_id")
    if not np.array_equal(table["pair_id"].to_numpy(), np.sort(wanted)):
        raise UserError(
            f"{work}: {table.num_rows} pairs scored, {len(wanted)} wanted; the source changed meanwhile: "
            "remove this folder and run again"
        )
    return table
