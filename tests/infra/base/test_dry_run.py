"""The dry run's shared pieces: hours and cost by hand, measured or assumed utilisation, flags, accelerators' names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.base import accelerators, cli, dry_run
from infra.base.accelerators import ACCELERATORS
from infra.base.dry_run import DryRunConfig
from infra.base.errors import UserError


def test_hours_and_cost_by_hand() -> None:
    # 989 TFLOP/s at 0.4 are 1.42416e18 FLOPs an hour; ten times that is ten hours, five on two.
    asked = DryRunConfig(price_per_hour=2.5)
    rows = dict(dry_run.cost_rows(asked, 10 * 989e12 * 0.4 * 3600, 2, "cached", "bfloat16"))
    assert rows["accelerator-hours"] == "10"
    assert rows["hours"] == "5 on 2"
    assert rows["cost"] == "25.00 at 2.5 an hour"
    assert rows["utilisation"] == "0.4 (assumed)"


def test_memory_says_whether_it_fits() -> None:
    card = ACCELERATORS["l4"]
    assert dry_run.memory_rows([("a", 20e9), ("b", 4e9)], card)[0][1] == "24 GB of 24 GB: fits"
    assert dry_run.memory_rows([("a", 20e9), ("b", 5e9)], card)[0][1] == "25 GB of 24 GB: DOES NOT FIT"


def test_a_measured_utilisation_is_taken_and_named(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    path.write_text(json.dumps({"device": "NVIDIA H100 SXM", "modes": {"cached": {"utilisation": 0.52}}}))
    asked = DryRunConfig(measured=str(path))
    assert dry_run.utilisation(asked, "cached") == (0.52, f"measured, {path}")
    with pytest.raises(UserError, match="no utilisation of the mode batched"):
        dry_run.utilisation(asked, "batched")
    with pytest.raises(UserError, match="measured on NVIDIA H100 SXM, but --accelerator is NVIDIA L4"):
        dry_run.utilisation(DryRunConfig(accelerator="l4", measured=str(path)), "cached")
    with pytest.raises(UserError, match="no utilisation"):
        dry_run.utilisation(DryRunConfig(measured=str(tmp_path / "absent.json")), "cached")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (DryRunConfig(dry_run=True, utilisation=1.5), "--utilisation 1.5"),
        (DryRunConfig(dry_run=True, utilisation=0), "--utilisation 0"),
        (DryRunConfig(dry_run=True, price_per_hour=-1), "--price-per-hour -1"),
        (DryRunConfig(dry_run=True, utilisation=0.5, measured="x"), "give one of them"),
        (DryRunConfig(price_per_hour=1), "are for --dry-run"),
        (DryRunConfig(accelerator="h100"), "are for --dry-run"),  # even the default, said without --dry-run
    ],
)
def test_flags_that_make_no_plan_are_refused(asked: DryRunConfig, told: str) -> None:
    with pytest.raises(UserError, match=told):
        dry_run.check(asked)


def test_a_device_s_name_finds_its_accelerator() -> None:
    titles = {
        "NVIDIA A100-SXM4-40GB": "NVIDIA A100 40GB",
        "NVIDIA A100-SXM4-80GB": "NVIDIA A100 80GB",
        "NVIDIA H100 80GB HBM3": "NVIDIA H100 SXM",
        "NVIDIA H100 PCIe": "NVIDIA H100 PCIe",
        "NVIDIA A10G": "NVIDIA A10G",
        "NVIDIA A10": "NVIDIA A10",
        "NVIDIA L40S": "NVIDIA L40S",
        "NVIDIA L4": "NVIDIA L4",
    }
    found = {name: accelerators.of_device(name) for name in titles}
    assert {name: known and known.title for name, known in found.items()} == titles
    assert accelerators.of_device("") is None


@dataclass(frozen=True)
class Config:
    name: str = "a"


def test_dry_run_calls_the_plan_and_not_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[object] = []

    def plan(config: Config, asked: DryRunConfig) -> None:
        done.append((config.name, asked.accelerator))

    presets = {"b": Config("b")}
    cli.run(done.append, Config, presets, ["--preset", "b", "--dry-run", "--accelerator", "l4"], plan=plan)
    assert done == [("b", "l4")]
    cli.run(done.append, Config, presets, ["--name", "c"], plan=plan)
    assert done[1:] == [Config("c")]
    with pytest.raises(SystemExit):
        cli.run(done.append, Config, presets, ["--price-per-hour", "2"], plan=plan)
    assert "are for --dry-run" in capsys.readouterr().err
