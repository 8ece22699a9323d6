"""A whole run planned with the embedded world's model: what each unit needs by hand, bottlenecks, tables, refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.material import MODEL

from infra.base import cli
from infra.planning import measured, plan, plan_flags, plan_stages
from infra.planning.fleet import Copies, Training
from infra.planning.plan_counts import Counted
from infra.planning.plan_flags import PRESETS, PlanConfig
from infra.planning.plan_stages import Sizes
from infra.planning.pool import Pool

PAIRS = 4096 * 10
SIZES = Sizes(preset="sd15", pairs=PAIRS, cached=True, steps=100, every=10, captions_judged=20, validation_images=0)
ASSUMED = measured.read([], [])
L4, H100 = Pool(4, 1, "l4"), Pool(2, 8, "h100")


@pytest.fixture(scope="module")
def counted() -> Counted:
    """Count the embedded world's model."""
    return Counted(str(MODEL), "sd15", PAIRS, 99)


def test_a_pair_s_needs_by_hand(counted: Counted) -> None:
    stage = plan_stages.encode(SIZES, counted, L4, ASSUMED)
    assert stage.needs["GPU, VAE"] == pytest.approx(2 * counted.networks.image / (121e12 * 0.4 / 2))
    assert stage.needs["CPU, decoding"] == pytest.approx(2 * 0.59 / (119 * 14))
    assert stage.needs["S3, reading"] == pytest.approx(959_040 / 851_293 * 0.35e6 / 1.25e9)
    assert stage.needs["S3, writing"] == pytest.approx(2 * 2 * math.prod(counted.latent_shape) / 1.25e9)
    assert stage.work == Copies(PAIRS, 0.969 / max(stage.needs.values()), 1024.0, 120.0)


@pytest.mark.parametrize(
    ("assumed", "scarcest"),
    [("cpus=0.001", "CPU, decoding"), ("bandwidth=0.001", "S3, reading"), ("utilisation=1e-6", "GPU, VAE")],
)
def test_the_bottleneck_is_what_is_scarcest(counted: Counted, assumed: str, scarcest: str) -> None:
    stage = plan_stages.encode(SIZES, counted, L4, measured.read([], [assumed]))
    assert stage.bottleneck.startswith(scarcest)


def test_captions_are_encoded_on_as_many_nodes_as_pairs_are(counted: Counted) -> None:
    stage = plan_stages.captions(counted, L4, ASSUMED)
    assert (stage.busy, stage.work.units) == (4, 100)  # type: ignore[union-attr]
    outcome = plan.follow(PlanConfig(), stage)
    assert outcome.node_seconds == pytest.approx(4 * outcome.seconds)


@pytest.mark.slow
def test_a_step_by_hand(counted: Counted) -> None:
    """2,048 pairs over 16 workers are 128 each; with cached errors a pair is six passes of the network."""
    stage = plan_stages.train(SIZES, counted, H100, measured.read([], ["exchange=0.1"]), least=1)
    run, network = stage.work, counted.network
    assert isinstance(run, Training)
    compute = 128 * 6 * network.forward / (989e12 * 0.4 * 0.965)
    loading = 128 * (counted.stored.pair_bytes + 2 * 16 * 64) / 0.6e9
    reading = 8 * 128 * (counted.stored.pair_bytes + 2 * 16 * 64) / 1.25e9  # a node's eight workers share its network
    exchange = 2 * 15 / 16 * 4 * network.trained / 0.1e9
    hidden = 4 * network.forward * 16 / (989e12 * 0.4)
    assert run.step(2) == pytest.approx(max(compute, loading, reading) + exchange - hidden)
    assert exchange > hidden
    size = 12 * network.trained  # weights and two moments
    assert (run.copy, run.write) == (pytest.approx(size / 2.4e9), pytest.approx(size / 0.81e9))
    assert run.restart == pytest.approx(18 + size / 0.81e9)


def test_one_worker_exchanges_nothing_and_twice_the_nodes_halve_the_work(counted: Counted) -> None:
    alone = plan_stages.train(SIZES, counted, Pool(1, 1, "h100"), ASSUMED, least=1)
    assert alone.needs["network, gradients"] == 0
    both = plan_stages.train(SIZES, counted, Pool(2, 1, "h100"), ASSUMED, least=1)
    assert both.needs["GPU, policy"] == pytest.approx(alone.needs["GPU, policy"] / 2)


def test_draws_are_the_epochs_begun() -> None:
    """An epoch of 851,293 pairs is 415 steps of 2,048: 2,000 steps begin a fifth epoch."""
    whole = replace(SIZES, pairs=851_293, steps=2000)
    assert whole.draws == 5
    assert replace(whole, steps=415).draws == 1


def run_plan(*flags: str) -> None:
    """Run the plan with the embedded world's model."""
    cli.run(plan.main, PlanConfig, PRESETS, ["--model", str(MODEL), *flags])


@pytest.mark.slow
def test_the_whole_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--pairs", "1e6", "--mtbf-hours", "20", "--steps", "60000", "--price", "l4=0.5", "a10g=1", "h100=2"]
    flags += ["--repetitions", "3", "--assume", "utilisation=0.01"]
    run_plan(*flags, "--json", f"{tmp_path}/plan.json")
    said = capsys.readouterr().out
    assert "1,000,000, 69,259 captions" in said
    assert "Young" in said
    assert "0.01 of the peak (given)" in said
    written = json.loads((tmp_path / "plan.json").read_text())
    rows = {row["stage"]: row for row in written["stages"]}
    assert list(rows) == ["encode", "captions", "relabel", "reference", "train", "evaluate"]
    assert rows["train"]["cost"] == pytest.approx(2 * rows["train"]["accelerator_hours"])
    assert rows["train"]["failures"] > 0
    assert [row["every"] for row in written["intervals"]] == sorted(row["every"] for row in written["intervals"])
    assert sum(row["young"] for row in written["intervals"]) == 1
    longest, shortest = written["intervals"][-1], written["intervals"][0]
    assert shortest["held_up_hours"] > longest["held_up_hours"]
    again = f"{tmp_path}/again.json"
    run_plan(*flags, "--json", again)
    assert json.loads(Path(again).read_text())["stages"] == written["stages"]


def test_without_failures_nothing_is_lost_and_without_a_reference_it_runs_beside(tmp_path: Path) -> None:
    run_plan("--fleet", "train=2xh100", "--json", f"{tmp_path}/plan.json")
    (row,) = json.loads((tmp_path / "plan.json").read_text())["stages"]
    assert (row["failures"], row["lost_accelerator_hours"], row["cost"]) == (0, 0, None)
    assert row["bottleneck"].startswith("GPU, policy and reference (")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pairs", "1.5"], "--pairs 1.5: pairs come whole; give a whole number"),
        (["--pairs", "100"], "--pairs 100: a step takes a global batch of 2048"),
        (["--mtbf-hours", "0"], "--mtbf-hours 0: must be above 0"),
        (
            ["--fleet", "train=8xgameboy"],
            "--fleet train=8xgameboy: 'gameboy' is no known accelerator; give one of a100-40",
        ),
        (["--fleet", "trains=8xl4"], "--fleet trains=8xl4: give STAGE=NODESxCARD"),
        (["--fleet", "train=0xl4"], "--fleet train=0xl4: give STAGE="),
        (["--fleet", "train=300x8xl4"], "--fleet train=300 x 8 l4: more workers than the 2048 pairs"),
        (["--price", "l4"], "--price l4: '' is not a number; give CARD=PRICE"),
        (["--price", "l4=-1"], "--price l4=-1: -1 is no price"),
        (["--min-nodes", "3"], "--min-nodes 3: more nodes than --fleet gives train"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--replacement-minutes", "-1"], "--replacement-minutes -1: must be at least 0"),
        (["--mtbf-hours", "0.001"], "--mtbf-hours 0.001: one of the 8 nodes of relabel fails every"),
    ],
)
def test_bad_flags_are_one_sentence(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_plan(*flags)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1


def test_nodes_with_and_without_their_stage() -> None:
    pools = plan_flags.read_fleet(["4xl4", "train=2x8xh100"])
    assert pools["train"] == H100
    assert {stage: pool for stage, pool in pools.items() if stage != "train"} == dict.fromkeys(
        ("encode", "relabel", "reference", "evaluate"), L4
    )


def test_an_interval_too_long_for_the_nodes_is_shown_and_not_simulated(counted: Counted) -> None:
    """A group that fails every minute: with a step of two minutes only a checkpoint at every one gets through."""
    stage = plan_stages.train(SIZES, counted, H100, measured.read([], ["utilisation=1e-4", "restart=1"]), least=2)
    config = PlanConfig(mtbf_hours=2 / 60, replacement_minutes=0, repetitions=2)
    rows: list[dict[str, Any]] = plan.intervals(config, stage, None)
    assert isinstance(stage.work, Training)
    assert stage.work.step(2) == pytest.approx(119, abs=1)
    assert [math.isinf(row["hours"]) for row in rows] == [row["every"] > 1 for row in rows]
    assert (rows[0]["every"], len(rows)) == (1, 7)
