"""A plan's assumptions: benchmarks' files and flags replace figures, and what is neither is refused by its flag."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.base.errors import UserError
from infra.planning import measured


def noted(folder: Path, benchmark: Any) -> str:
    """Write a benchmark's file."""
    path = folder / "benchmark.json"
    path.write_text(json.dumps(benchmark))
    return str(path)


@pytest.mark.parametrize(
    ("name", "benchmark", "figure", "value"),
    [
        ("encode", {"ratio": 0.5}, "encode_ratio", 0.5),
        ("relabel", {"ratio": 3.3, "ratio_bare": 0.7}, "relabel_ratio", 0.7),
        ("train_loop", {"ratio": 0.9}, "train_ratio", 0.9),
        # a pair of SD1.5: 2 latents of 4 x 64 x 64 and 77 x 768 of a caption, two bytes each
        ("data", {"cold": 10.0, "warm": [20.0, 5.0], "config": {"model": "sd15"}}, "loader_rate", 5 * 183_808 / 1e9),
        # 50 pairs a second of two images of a megapixel each
        (
            "rates",
            {"decode_rate": 50.0, "copy_rate": 1.0, "write_rate": 2.0, "config": {"side": 1000}},
            "decode_rate",
            100.0,
        ),
    ],
)
def test_a_benchmark_s_file_replaces_its_figures(
    tmp_path: Path, name: str, benchmark: Any, figure: str, value: float
) -> None:
    path = noted(tmp_path, benchmark)
    assumptions = measured.read([f"{name}={path}"], [])
    assert assumptions[figure] == pytest.approx(value)
    assert assumptions.figures[figure].origin == f"measured, {path}"
    rest = {key for key, one in assumptions.figures.items() if one != measured.FIGURES[key]}
    assert rest <= {figure, "copy_rate", "write_rate"}


def test_utilisation_is_the_measured_one_of_that_card_and_mode(tmp_path: Path) -> None:
    modes = {"cached": {"utilisation": 0.5}}
    assumptions = measured.read([f"step={noted(tmp_path, {'device': 'NVIDIA L4', 'modes': modes})}"], [])
    assert assumptions.speed("l4", "cached", "bfloat16") == 121e12 * 0.5
    assert assumptions.speed("l4", "encoder", "bfloat16") == 121e12 * 0.4
    assert assumptions.speed("h100", "cached", "float32") == 989e12 * 0.4 * 0.5


def test_a_flag_replaces_a_figure() -> None:
    assert measured.read([], ["restart=30"])["restart"] == 30
    assert measured.read([], ["restart=30"]).figures["restart"].origin == "given"


@pytest.mark.parametrize(
    ("given", "assumed", "message"),
    [
        (["enc=x.json"], [], "--measured enc=x.json: give BENCHMARK=FILE, where BENCHMARK is one of encode"),
        (["encode"], [], "--measured encode: give BENCHMARK=FILE"),
        (["encode=/nowhere.json"], [], "give a file that infra/benchmarks/encode.py --json wrote"),
        ([], ["speed=1"], "--assume speed=1: give NAME=VALUE, where NAME is one of encode_ratio"),
        ([], ["restart=fast"], "--assume restart=fast: 'fast' is not a number"),
        ([], ["restart=-1"], "--assume restart=-1: -1 is not a usable figure"),
        ([], ["restart=nan"], "nan is not a usable figure"),
        ([], ["utilisation=1.5"], "--assume utilisation=1.5: it is a share of the peak"),
    ],
)
def test_what_is_no_figure_is_refused(given: list[str], assumed: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        measured.read(given, assumed)
    assert message in str(refused.value)


@pytest.mark.parametrize("benchmark", [{"ratio": "fast"}, {}, [], {"ratio": 0.0}])
def test_another_file_is_refused(tmp_path: Path, benchmark: Any) -> None:
    with pytest.raises(UserError, match="--measured encode="):
        measured.read([f"encode={noted(tmp_path, benchmark)}"], [])
