"""Let people judge two models' images, blind: `python pipelines/arena.py --images A B`, a web page on this machine.

Votes are kept as they are given; stop and start again as you like. `--export FOLDER` turns them into raw pairs that
encode_latents.py takes, and into win rates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from infra.base import begun, files, next_step, one_writer, records
from infra.base.config_files import save_config
from infra.base.errors import UserError, check_least
from infra.base.verifying import refusals
from pipelines.arena_app import arena_results
from pipelines.arena_app.arena_config import ArenaConfig
from pipelines.arena_app.arena_pairs import Contents, Sets, choose, read_sets
from pipelines.arena_app.arena_server import Arena, ArenaServer, is_loopback
from pipelines.arena_app.arena_votes import QUESTIONS, VOTES, Kept, VoteLog, read_votes
from pipelines.latents.models_known import model_flags

ARENA = "arena.json"
KEPT = "kept"  # in it: the votes that are kept, by number, bytes and hash
COUNT = "votes"  # in those of earlier versions: how many were kept when an arena last began or ended
REMEDY = "restore it from a copy, or give another --output"


def check_output(output: str, sets: Sets, seed: int) -> dict[str, Any]:
    """Return the images and the seed of a folder's votes, after comparing them with those of earlier votes.

    Raises:
        UserError: if earlier votes are on other images or another seed.
    """
    identity = {"images": [dict(one.identity) for one in sets.models], "seed": seed}
    path = files.join(output, ARENA)
    if files.exists(path):
        before = _by_setting(_read_identity(output))
        now = _by_setting(identity)
        begun.refuse_other_settings(f"--output {output}", before, now, "give another folder", exact=True)
    return identity


def _by_setting(identity: Mapping[str, Any]) -> dict[str, Any]:
    base, policy = identity["images"]
    return begun.by_full_name({"seed": identity["seed"], "base": base, "policy": policy})


def serve(config: ArenaConfig, sets: Sets, output: str) -> None:
    """Serve the page until the process is interrupted."""
    with one_writer.writer_lock(output):
        identity = check_output(output, sets, config.seed)
        refuse_lost_votes(output)
        Path(output, VOTES).touch()  # before what says that it is there
        about = {"identity": identity, "config": asdict(config)}

        def note(kept: Kept) -> None:
            files.write_json(files.join(output, ARENA), about | {KEPT: asdict(kept)})

        chosen = choose(sets.pairs, config.seed, config.pairs)
        with (
            contextlib.closing(Contents(sets, chosen, output)) as contents,
            contextlib.closing(VoteLog(files.join(output, VOTES), note)) as log,
            ArenaServer(Arena(chosen, contents, log, config.seed), config.host, config.port) as server,
        ):
            print(f"{len(chosen)} of {len(sets.pairs)} pairs to judge, {log.count()} votes so far", flush=True)
            flagged = sum(contents.is_flagged(pair) for pair in chosen)
            if flagged:
                print(f"the safety filter flagged {flagged} of them; the page shows those blurred", flush=True)
            if not is_loopback(config.host):
                print(
                    f"warning: other machines reach --host {config.host}, and the connection is not encrypted",
                    flush=True,
                )
            print(f"open {server.url} (end with Ctrl-C)", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
            print(f"\n{output}: {log.count()} votes kept; the same command with --export FOLDER uses them", flush=True)


def export(config: ArenaConfig, sets: Sets, output: str, folder: str) -> None:
    """Write and print the results of the votes; a server may run at the same time."""
    check_output(output, sets, config.seed)
    refuse_lost_votes(output)
    votes, _ = read_votes(files.join(output, VOTES))
    results = arena_results.export(sets, votes, folder, asdict(config), output)
    raters = len(results["raters"])
    people = "1 rater" if raters == 1 else f"{raters} raters, majority"
    print(f"{results['models']['policy']} against {results['models']['base']}, {people}:")
    for question in QUESTIONS:
        rate = results["questions"][question]["win_rate"]
        print(f"  {question:10} {rate['value']:.1%} ({rate['low']:.1%} to {rate['high']:.1%}) of {rate['n']} pairs")
    model = model_flags(str(sets.models[0].identity["model"]))
    then = next_step.command("pipelines/encode_latents.py", *model, "--source", folder)
    print(next_step.last_line(folder, f"{results['pairs']:,} raw pairs", then), flush=True)


def verify(config: ArenaConfig) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with the votes' folder."""
    output = files.resolve(config.output)
    yield from refusals(partial(_read_identity, output))
    yield from refusals(partial(refuse_lost_votes, output), partial(read_votes, files.join(output, VOTES)))
    if files.exists(files.join(output, ARENA)):
        yield from refusals(lambda: check_output(config.output, read_sets(config.images), config.seed))


def _read_identity(output: str) -> dict[str, Any]:
    identity: dict[str, Any] = records.read_record(files.join(output, ARENA), ("identity",), REMEDY)["identity"]
    return identity


def refuse_lost_votes(output: str) -> None:
    """Refuse a folder that lacks its votes, or what says whose they are, or votes that an earlier arena has counted.

    Raises:
        UserError: naming the file that is missing, or holds fewer votes than before.
    """
    there = {name: files.is_file(files.join(output, name)) for name in (ARENA, VOTES)}
    lost = [name for name, is_there in there.items() if not is_there]
    if len(lost) == 1 and (lost != [ARENA] or read_votes(files.join(output, VOTES))[0]):
        raise UserError(
            f"{files.join(output, lost[0])}: missing, though an arena was begun here; restore it from a copy, or give "
            "another --output"
        )
    if not lost:
        _refuse_other_votes(output)


def _refuse_other_votes(output: str) -> None:
    """Refuse votes that are fewer than were kept, or others: an older copy, or another arena's."""
    record = records.read_record(files.join(output, ARENA), remedy=REMEDY)
    try:
        kept = Kept(**record[KEPT]) if KEPT in record else None
    except TypeError as error:
        place = files.join(output, ARENA)
        raise UserError(f"{place}: {KEPT} is not what this code writes there; {REMEDY}") from error
    counted = kept.count if kept else record.get(COUNT, 0)
    path = files.join(output, VOTES)
    left = len(read_votes(path)[0])
    if left < counted:
        raise UserError(
            f"{path}: holds {left} votes, but {counted} were kept; restore it from a copy, or if you took some out, "
            f"delete {KEPT if kept else COUNT} in {ARENA}"
        )
    if kept and not kept.is_in(path):
        raise UserError(
            f"{path}: does not begin with the {counted} votes that were kept; restore it from a copy, or if you "
            f"changed some, delete {KEPT} in {ARENA}"
        )


def main(config: ArenaConfig) -> None:
    """Let people judge two models' images, blind, on a local web page; or export their votes."""
    check_least(config, {"pairs": 1})
    if not 0 <= config.port < 1 << 16:
        raise UserError(f"--port {config.port}: there is no such port; give 0 to 65535")
    output = files.resolve(config.output)
    if files.is_remote(output):
        raise UserError(
            f"--output {output}: each vote is appended to a file, which only a local disk can do; give a local folder"
        )
    sets = read_sets(config.images)
    save_config(output, config)
    if config.export is None:
        serve(config, sets, output)
    else:
        export(config, sets, output, files.resolve(config.export))
