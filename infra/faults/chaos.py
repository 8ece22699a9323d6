"""Kill an encoding at random moments, over and over: `nice python infra/chaos.py --rounds 20 --seed 0`.

`--victims hands` touches files of running jobs instead (hands_rounds.py), without a cluster.

On a cluster of its own with two nodes it encodes the embedded world's pairs, once undisturbed and then once a round. In
each round it strikes every victim at a moment drawn from the seed: when the rows of a number of blocks are written, and
every other time while the next block is half written. Afterwards the store must equal the undisturbed one: the same
counts, the same hash, each pair once. Files tell it the moments, not the clock.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from infra.base.errors import UserError
from infra.faults.chaos_config import ChaosConfig, Victim
from infra.faults.encoding import BLOCK, Encoding, run_round, strikes
from infra.local import cluster


def main(config: ChaosConfig) -> None:
    """Disturb jobs, round after round, and compare what each made with what it makes undisturbed.

    Raises:
        UserError: for hands beside other victims, or if a round ended otherwise.
    """
    victims: list[Victim] = [victim for victim in config.victims if victim != "hands"]
    if "hands" not in config.victims:
        kill(config, victims)
        return
    if victims:
        raise UserError(f"--victims {' '.join(config.victims)}: hands need no cluster; give them alone")
    from infra.faults import hands_rounds  # which loads what all jobs import

    outcomes = hands_rounds.play(config.rounds, config.seed)
    shown = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"{config.rounds} rounds: {shown}; 0 silent, 0 lost, 0 doubled", flush=True)


def kill(config: ChaosConfig, victims: Sequence[Victim]) -> None:
    """Encode under kills, and compare each store with the undisturbed one."""
    flags = ["--encoders", "2", "--rows-per-file", str(BLOCK), "--batch-size", "8"]
    rng = random.Random(config.seed)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with cluster.running(folder / "cluster.log") as surroundings:
        clean = Encoding(surroundings, flags, str(folder / "clean"), folder / "clean.log").finish()
        print(f"undisturbed: {clean.counts.rows_in} rows, content hash {clean.content_hash}", flush=True)
        for number in range(config.rounds):
            drawn = strikes(rng, victims, clean.counts.rows_in // BLOCK)
            shown = ", ".join(f"{strike.victim} after {strike.blocks}{'+' * strike.half_written}" for strike in drawn)
            print(f"round {number + 1} of {config.rounds}: {shown}", end="", flush=True)
            destination = folder / f"round-{number}"
            struck = run_round(surroundings, flags, str(destination), drawn, destination.with_suffix(".log"))
            if (struck.counts, struck.content_hash) != (clean.counts, clean.content_hash):
                raise UserError(
                    f"{destination}: kills changed the store, it differs from {folder}/clean: {struck.counts}"
                )
            print("; the same store", flush=True)
            shutil.rmtree(destination)
    shutil.rmtree(folder)
