"""What a page says of its own making."""

from __future__ import annotations

import pytest

from infra.pages import made


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42.4, "42 s"), (89.0, "89 s"), (420.0, "7 min"), (3600.0, "1 h 00 min"), (7500.0, "2 h 05 min")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert made.duration(seconds) == text


def test_a_command_leaves_out_flags_without_a_value() -> None:
    flags = {"base": "a b", "policies": ("x", "y"), "control": None}
    assert made.command_line("pipelines/report.py", flags) == "python pipelines/report.py --base 'a b' --policies x y"


def test_only_known_durations_are_shown() -> None:
    told = made.describe("python x.py", {"training": 120.0, "drawing": None})
    assert told.durations == {"training": "2 min"}
    assert {"python", "torch", "diffusion-dpo"} <= set(told.versions)


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of a job with --working-dir has this code and no package of it; its run still gets its page."""
    monkeypatch.setattr(made, "PACKAGES", ("diffusion-dpo-that-nobody-installed", "torch"))
    assert list(made.describe("python x.py").versions) == ["python", "torch"]
