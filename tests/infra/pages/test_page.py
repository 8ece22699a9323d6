"""Figures of a page stay whole at the end of a line, and charts have names."""

from __future__ import annotations

from infra.pages.page import titled, unbroken


def test_figures_do_not_break_over_lines() -> None:
    assert unbroken("wins 62.5 % (21.9 to 90.8) of it") == "wins 62.5\u00a0% (21.9\u00a0to\u00a090.8) of it"
    assert unbroken("+1.0 points (-2.0 to +4.0), next to 3") == "+1.0 points (-2.0\u00a0to\u00a0+4.0), next to 3"


def test_a_chart_has_a_name_for_those_who_cannot_see_it() -> None:
    assert titled('<svg width="9"><svg/></svg>', "A & b") == (
        '<svg role="img" aria-label="A &amp; b" width="9"><svg/></svg>'
    )
