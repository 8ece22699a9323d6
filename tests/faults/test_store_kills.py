"""An encoding that is killed and begun again: the contents of one that nothing disturbed, and one writer at a time."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from support.forked import Forked
from support.material import wait_for
from support.stores import SCRIPT, SMALL_BLOCKS, contents

from infra.base import files, one_writer
from infra.base.errors import UserError
from infra.faults import encoding
from infra.faults.chaos_config import Victim
from pipelines.engine import progress
from pipelines.engine.failures import AGAIN
from pipelines.latents import store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encode_latents import main

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize(
    "victims", [("encoder", "driver"), pytest.param(("node",), marks=pytest.mark.long)], ids=" and ".join
)
def test_sigkills_lose_and_double_nothing(
    victims: tuple[Victim, ...],
    encoded_store: Path,
    raw_pairs: Path,
    ray_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    drawn = encoding.strikes(random.Random(3), victims, 406 // encoding.BLOCK)
    flags = ["--source", str(raw_pairs), "--encoders", "2", *SMALL_BLOCKS]
    found = encoding.run_round(ray_environment, flags, str(tmp_path / "store"), drawn, tmp_path / "store.log")
    assert (found.counts, found.content_hash) == contents(encoded_store)


@pytest.mark.slow
def test_sigkill_and_sigterm_of_an_encoder_of_one_process_lose_and_double_nothing(
    encoded_store: Path, raw_pairs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "store"
    flags = ["--source", str(raw_pairs), "--store", str(path), "--rows-per-file", "4", "--batch-size", "32"]

    def marks() -> list[str]:
        return progress.committed(str(path / store.WORK / "pairs_done"))

    def strike(number: signal.Signals, after: int) -> tuple[int, str]:
        job = Forked(SCRIPT, flags, tmp_path / "printed", os.environ)
        wait_for(lambda: len(marks()) >= after, job)
        job.send_signal(number)
        return job.wait(), job.stderr

    assert strike(signal.SIGKILL, 3)[0] == -signal.SIGKILL
    kept = marks()
    code, told = strike(signal.SIGTERM, len(kept) + 3)
    assert code == 143
    assert told.endswith(f"{path}/pairs: stopped on request; {AGAIN}\n")
    assert set(kept) < set(marks())
    assert not files.list_files(str(path / store.WORK), progress.PENDING)  # the block under way was written
    main(EncodeConfig(source=str(raw_pairs), store=str(path), rows_per_file=64))
    assert contents(path) == contents(encoded_store)


def test_a_second_job_on_the_same_store_is_refused(raw_pairs: Path, tmp_path: Path) -> None:
    config = EncodeConfig(source=str(raw_pairs), store=str(tmp_path / "s"))
    with one_writer.writer_lock(config.store), pytest.raises(UserError, match="another job is writing here"):
        main(config)
    assert [path.name for path in Path(config.store).iterdir()] == [".lock"]  # nothing was touched


def test_strikes_are_the_seeds_and_leave_something_to_do() -> None:
    drawn = encoding.strikes(random.Random(5), ("encoder", "driver", "node"), 25)
    assert drawn == encoding.strikes(random.Random(5), ("encoder", "driver", "node"), 25)
    assert {strike.victim for strike in drawn} == {"encoder", "driver", "node"}
    moments = [strike.blocks for strike in drawn]
    assert moments == sorted(set(moments))
    assert 0 < moments[0] <= moments[-1] < 17
