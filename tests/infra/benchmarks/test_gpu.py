"""The GPU benchmark: what it says it lacks, and its ratios by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from infra.base.errors import UserError
from infra.benchmarks import gpu
from infra.benchmarks.step_models import Work


def test_it_says_at_once_what_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU; --rehearse runs small shapes on the CPU"):
        gpu.main(gpu.BenchmarkConfig())
    monkeypatch.setattr(gpu, "NEEDED", ("numpy", "no_such_package"))
    with pytest.raises(UserError, match="needs the packages no_such_package"):
        gpu.main(gpu.BenchmarkConfig(rehearse=True))


def test_ratios_by_hand() -> None:
    case = gpu.Case(model="sd15", lora=False, compiled=False)
    measured: dict[str, Any] = {
        "pairs": 16,
        "modes": {
            "inline": {"pairs_per_second": 10.0, "data_wait": 0.0, "peak_bytes": 2**30},
            "cached": {"pairs_per_second": 17.5, "data_wait": 0.25, "peak_bytes": 2**31},
            "vae": {"images_per_second": 40.0},
        },
    }
    gpu.add_ratios(case, measured, 10.0, Work(forward=1e12, image=1e12, caption=0.0), peak=420.0)
    cached = measured["modes"]["cached"]
    assert cached["x_inline"] == pytest.approx(1.75)
    assert cached["model_flop_utilisation"] == pytest.approx(6 * 17.5 / 420)  # 6 TFLOP a pair
    assert measured["modes"]["inline"]["model_flop_utilisation"] == pytest.approx((8 + 2) * 10 / 420)
    lines = gpu.show(case, measured)
    assert "1.75 x inline" in lines[1]
    assert "25.0% of peak" in lines[1]
    assert "40.00 images/s" in lines[2]


def test_every_case_stands_beside_the_authors_way_of_the_same_weights() -> None:
    inline = [(case.model, case.lora) for case in gpu.CASES if "inline" in case.modes]
    assert sorted(inline) == sorted({(case.model, case.lora) for case in gpu.CASES})
    assert len(gpu.CASES) == 8
