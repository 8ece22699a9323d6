"""The arena: which sets it takes, order and side, majorities and agreement by hand, pairs that the encoder takes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.arena_material import GREEN, LEFT, RED, voted, write_sets

from infra.base import files, one_writer, tables
from infra.base.errors import UserError
from pipelines.arena_app import arena, arena_results
from pipelines.arena_app.arena_pairs import Contents, Pair, Sets, choose, left_model, order, read_sets
from pipelines.arena_app.arena_server import Arena, ArenaServer
from pipelines.arena_app.arena_votes import VOTES, Choice, majority, read_votes
from pipelines.judging.win_rate import wilson
from pipelines.raw import raw_pairs, raw_table, source
from pipelines.raw.decode import decode_image
from pipelines.raw.pairs import check_caption, check_label


@pytest.fixture
def sets(tmp_path: Path) -> Sets:
    return read_sets(write_sets(tmp_path))


def test_sets_that_differ_in_more_than_the_model_are_refused(tmp_path: Path) -> None:
    base, _ = write_sets(tmp_path)
    with pytest.raises(UserError, match="both are the same folder"):
        read_sets((base, base))
    with pytest.raises(UserError, match="no finished images here"):
        read_sets((base, str(tmp_path / "nothing")))
    with pytest.raises(UserError, match="drawn with different guidance_scale, seed"):
        read_sets((base, write_sets(tmp_path / "other", seed=1, guidance_scale=7.0)[1]))
    with pytest.raises(UserError, match="different captions or seeds"):
        read_sets((base, write_sets(tmp_path / "twice", per_prompt=2)[1]))


def test_images_that_are_broken_gone_or_of_another_size_are_refused(tmp_path: Path, sets: Sets) -> None:
    path = Path(sets.models[1].folder) / "images" / "part-0.parquet"
    table = pq.read_table(path)
    small = io.BytesIO()
    Image.new("RGB", (32, 32)).save(small, format="PNG")
    for changed, told in ((b"no image", "image cannot be decoded"), (small.getvalue(), "64x64 .* and 32x32 in")):
        rows = table.to_pylist()
        rows[2]["image"] = changed
        pq.write_table(table.from_pylist(rows, schema=table.schema), path)
        with pytest.raises(UserError, match=told):
            Contents(sets, sets.pairs, str(tmp_path))
    pq.write_table(table.slice(1), path)
    with pytest.raises(UserError, match=r"secret-policy/images: holds 3 images, but manifest\.json beside it says 4"):
        Contents(sets, sets.pairs, str(tmp_path))


def test_order_and_side_are_functions_of_seed_rater_and_pair() -> None:
    pairs = [Pair(number, f"caption {number}", 0) for number in range(400)]
    assert sorted(order(pairs, 0, "ann")) == list(range(400))
    assert order(pairs, 0, "ann") == order(list(pairs), 0, "ann")
    assert len({tuple(order(pairs, seed, rater)) for seed in (0, 1) for rater in ("ann", "bob")}) == 4
    by_rater = [[left_model(pair, 0, rater) for pair in pairs] for rater in ("ann", "bob")]
    assert by_rater[0] != by_rater[1]
    for sides in by_rater:
        assert abs(sum(sides) - 200) < 40  # 400 fair draws: within four standard deviations, 10 each


def test_chosen_pairs_cover_the_prompts_first_and_more_begin_with_fewer() -> None:
    pairs = [Pair(10 * prompt + index, f"caption {prompt}", index) for index in (1, 0) for prompt in range(20)]
    chosen = choose(pairs, 0, 25)
    assert {pair.caption for pair in chosen[:20]} == {pair.caption for pair in pairs}
    assert choose(pairs, 0, 7) == chosen[:7]
    assert choose(pairs, 1, 7) != chosen[:7]
    assert len(choose(pairs, 0, 100)) == 40


def test_a_line_that_is_no_vote_is_named(tmp_path: Path) -> None:
    vote = {"rater": "ann", "image_id": 1, "left": 0, "answers": LEFT, "at": "2026-01-01T00:00:00+00:00"}
    good = json.dumps(vote) + "\n"
    for bad in ("{}", "[]", "x", good.strip().replace('"left": 0', '"left": 2'), good.strip().replace("ann", "Ann")):
        (tmp_path / VOTES).write_text(good + bad + "\n" + good)
        with pytest.raises(UserError, match=r"votes.jsonl: line 2 is not a vote"):
            read_votes(str(tmp_path / VOTES))


@pytest.mark.parametrize(
    ("choices", "found"),
    [
        ([1], 1),
        ([0, 1, 0], 0),
        ([0, 1], None),
        ([None], None),
        ([1, None], None),  # as many for neither
        ([1, 1, None, 0], 1),
        ([1, None, None], None),
        ([0, 0, 1, 1, None], None),
    ],
)
def test_majority_by_hand(choices: list[Choice], found: Choice) -> None:
    assert majority(choices) == found


def test_agreement_against_known_answers() -> None:
    # Krippendorff 2011: two observers of ten units, alpha 0.095; four observers with gaps, nominal alpha 0.743.
    a, b = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    found = arena_results.agreement(list(zip(a, b, strict=True)))
    assert (found["pairs"], found["same"], found["alpha"]) == (10, pytest.approx(0.6), pytest.approx(0.095, abs=5e-4))
    observers = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[int(answer) for answer in unit if answer != "."] for unit in zip(*observers, strict=True)]
    assert arena_results.agreement(units)["alpha"] == pytest.approx(0.743, abs=5e-4)
    assert arena_results.agreement([[1], [0]]) == {"pairs": 0, "same": None, "alpha": None}
    assert arena_results.agreement([[1, 1], [1, 1]])["alpha"] is None  # nothing to disagree on


def test_the_encoder_takes_an_export_as_it_is(sets: Sets, tmp_path: Path) -> None:
    votes = voted(sets, {0: [1, 1, 0], 1: [0, None, 0], 2: [0, 1]})  # policy, base, a tie; pair 3 is not judged
    results = arena_results.export(sets, votes, str(tmp_path / "raw"), {"seed": 0}, str(tmp_path / "work"))
    paths = source.parquet_files(str(tmp_path / "raw"), "train")
    dataset = raw_table.open_source(paths)
    assert all(tables.column_names(path) == raw_pairs.SCHEMA.names for path in paths)
    assert len(raw_table.all_pair_ids(dataset)) == 3
    rows = tables.read(paths).to_pylist()
    models = dict(zip(sets.names, (RED, GREEN), strict=True))
    preferred = {row["caption"]: row[f"model_{0 if row['label_0'] else 1}"] for row in rows if row["label_0"] != 0.5}
    assert preferred == {sets.pairs[0].caption: sets.names[1], sets.pairs[1].caption: sets.names[0]}
    for row in rows:
        assert check_caption(row["caption"]) is None
        assert check_label(row["label_0"], row["label_1"], strict=True) is None
        for slot in (0, 1):
            assert tuple(decode_image(row[f"jpg_{slot}"], 64)[0, 0]) == models[row[f"model_{slot}"]]
    tie = next(row for row in rows if row["caption"] == sets.pairs[2].caption)
    assert (tie["label_0"], tie["best_image_uid"], tie["are_different"]) == (0.5, "tie", False)
    general = results["questions"]["general"]
    assert general["votes"] == {"policy": 3, "base": 4, "none": 1}
    low, high = wilson(1.5, 3)
    assert general["win_rate"] == {"value": 0.5, "low": low, "high": high, "n": 3}
    assert results["questions"]["appeal"]["win_rate"]["value"] == 0.5
    assert (results["interval"], results["raters"]) == ("Wilson", {"r0": 3, "r1": 3, "r2": 2})
    assert files.read_json(str(tmp_path / "raw" / "results.json")) == results
    assert (
        '3 raters preferred the policy in <b class="whole">50.0 %</b> of 3 pairs'
        in (tmp_path / "raw" / "report.html").read_text()
    )
    again = arena_results.export(sets, votes, str(tmp_path / "raw"), {"seed": 0}, str(tmp_path / "work"))
    assert (again, pq.read_table(paths[0]).to_pylist()) == (results, rows)


def test_several_images_of_a_prompt_are_resampled_together(tmp_path: Path) -> None:
    sets = read_sets(write_sets(tmp_path, per_prompt=2))
    caption = {pair.caption: float(number % 2) for number, pair in enumerate(sets.pairs)}
    votes = voted(sets, {n: [int(caption[pair.caption])] for n, pair in enumerate(sets.pairs)})
    judged = arena_results.votes_by_pair(sets, votes)
    found = arena_results.win_rate(judged, "general")
    assert found.value == np.mean([caption[pair.caption] for pair in sets.pairs])
    # Both images of a prompt agree, so 8 pairs say no more than 4 prompts.
    assert found.n == 8
    assert found.high - found.low > wilson(8 * found.value, 8)[1] - wilson(8 * found.value, 8)[0]
    assert arena_results.build(sets, judged, {})["interval"] == "bootstrap over prompts"


def test_votes_on_other_images_are_not_exported(sets: Sets) -> None:
    votes = voted(sets, {0: [1]})
    with pytest.raises(UserError, match="1 judged pairs are not in these folders"):
        arena_results.votes_by_pair(replace(sets, pairs=sets.pairs[1:]), votes)
    with pytest.raises(UserError, match="no votes yet"):
        arena_results.votes_by_pair(sets, {})


def test_the_command_s_seed_decides_pairs_and_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Arena] = []
    monkeypatch.setattr(ArenaServer, "serve_forever", lambda server: served.append(server.arena))
    images = write_sets(tmp_path)
    every = read_sets(images).pairs
    seed = next(seed for seed in range(1, 99) if choose(every, seed, 3) != choose(every, 0, 3))
    arena.main(arena.ArenaConfig(images=images, output=str(tmp_path / "arena"), pairs=3, seed=seed))
    assert served[0].pairs == choose(every, seed, 3)
    assert served[0].seed == seed


def test_the_command_serves_and_exports_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def judge_and_stop(server: ArenaServer) -> None:
        server.arena.vote("ann", 0, LEFT)
        raise KeyboardInterrupt

    monkeypatch.setattr(ArenaServer, "serve_forever", judge_and_stop)
    config = arena.ArenaConfig(images=write_sets(tmp_path), output=str(tmp_path / "arena"), pairs=3)
    export = replace(config, export=str(tmp_path / "raw"))
    with pytest.raises(UserError, match="no votes yet"):
        arena.main(export)
    arena.main(config)
    told = capsys.readouterr().out
    assert "3 of 4 pairs to judge, 0 votes so far\nopen http://127.0.0.1:" in told
    assert "1 votes kept" in told
    arena.main(export)
    told = capsys.readouterr().out
    assert ", 1 rater:\n  general " in told
    base = config.images[0]  # whose own name stands for its model here
    assert f"pipelines/encode_latents.py --model {base} --source {tmp_path}/raw\n" in told
    for changed, sentence in (
        ({"seed": 1}, r"was begun with other settings \(seed was 0, now 1\)"),
        ({"images": write_sets(tmp_path / "more", scheduler="other")[::-1]}, "drawn with different scheduler"),
        ({"images": config.images[::-1]}, r"begun with other settings \(base\."),
        ({"pairs": 0}, "--pairs 0: must be at least 1"),
        ({"port": 70000}, "--port 70000: there is no such port"),
        ({"output": "s3://bucket/arena"}, "give a local folder"),
        ({"host": "203.0.113.7"}, "--host 203.0.113.7 --port 0: cannot listen there"),
    ):
        with pytest.raises(UserError, match=sentence):
            arena.main(replace(config, **changed))
    with one_writer.writer_lock(config.output), pytest.raises(UserError, match="another job is writing here"):
        arena.main(config)
