"""The figures of the paper's experiments, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context

from infra.pages.charts import ALIGNED, BATCH, CONTROL, one_axes, style, svg

WIDTH = 5.2  # inches, as the other curves
SOFT = "#c9ccd1"


def beta_chart(series: Mapping[str, Mapping[str, Any]], judge: str, titles: Mapping[str, str]) -> str:
    """Draw a judge's win rate and interval over beta, a curve per series and a dot per seed (after Fig. S2)."""
    with rc_context(style(f"beta {judge}")):
        figure, axes = one_axes(WIDTH, 3.3)
        for place, ((name, cells), colour) in enumerate(zip(series.items(), (ALIGNED, CONTROL), strict=False)):
            betas = np.array([float(beta) for beta in cells]) * (1.06 if place else 0.94)  # side by side, not on top
            rates = [cell["win_rate"][judge] for cell in cells.values()]
            values = np.array([[one["value"], one["low"], one["high"]] for one in rates]).T * 100
            errors = [values[0] - values[1], values[2] - values[0]]
            axes.errorbar(betas, values[0], yerr=errors, color=colour, marker="o", capsize=3, label=titles[name])
            for beta, one in zip(betas, rates, strict=True):
                seeds = np.array(one["per_seed"]) * 100
                axes.plot(np.full(len(seeds), beta), seeds, ".", color=colour, alpha=0.45, markersize=4)
        axes.axhline(50, color=SOFT, linewidth=1, linestyle="--", zorder=0)
        axes.set_xscale("log")
        axes.set_xticks([float(beta) for beta in next(iter(series.values()))])
        axes.set_xticklabels([f"{int(beta):,}" for beta in next(iter(series.values()))])
        axes.minorticks_off()
        axes.set_xlabel("β")
        axes.set_ylabel(f"wins over the base, %, by {judge}")
        _plain(axes)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=1.4)
        return svg(figure)


def forest(rows: Sequence[tuple[str, Mapping[str, Any]]], label: str, level: float = 50.0) -> str:
    """Draw rates with their intervals, one below the other, and a dot per seed.

    Args:
        rows: title and an estimate (value, low, high, per_seed), 0 to 1.
        level: percent; a dashed line marks it.
    """
    with rc_context(style(f"forest {label}")):
        figure, axes = one_axes(WIDTH, 0.7 + 0.36 * len(rows))
        for place, (_, one) in enumerate(rows):
            value = 100 * one["value"]
            low = 100 * one["low"]
            high = 100 * one["high"]
            colour = ALIGNED if low > level else CONTROL if high < level else BATCH
            axes.plot([low, high], [place, place], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot(value, place, "|", color=colour, markersize=14, markeredgewidth=3)
            seeds = 100 * np.array(one["per_seed"])
            axes.plot(seeds, np.full(len(seeds), place), ".", color=colour, markersize=5)
        axes.axvline(level, color=SOFT, linewidth=1, linestyle="--", zorder=0)
        axes.set_yticks(range(len(rows)), [title for title, _ in rows])
        axes.invert_yaxis()
        axes.set_xlabel(label)
        _plain(axes, grid="x")
        return svg(figure)


def boxes(sets: Mapping[str, Mapping[str, float]], label: str) -> str:
    """Draw quartile boxes of scores with whiskers at 5 and 95 % (after Fig. 7)."""
    with rc_context(style(f"boxes {label}")):
        figure, axes = one_axes(WIDTH, 0.8 + 0.36 * len(sets))
        drawn = [
            {"med": one["median"], "q1": one["q1"], "q3": one["q3"], "whislo": one["p5"], "whishi": one["p95"]}
            for one in sets.values()
        ]
        line = {"color": ALIGNED}
        axes.bxp(drawn, orientation="horizontal", showfliers=False, widths=0.55, boxprops=line, whiskerprops=line,
                 capprops=line, medianprops={"color": CONTROL, "linewidth": 2})  # fmt: skip
        axes.set_yticks(range(1, len(sets) + 1), list(sets))
        axes.invert_yaxis()
        axes.set_xlabel(label)
        _plain(axes, grid="x")
        return svg(figure)


def survival(figures: Mapping[str, Any], judges: Sequence[str]) -> str:
    """Draw, by judge, the share of captions that took more than k base images, beside the null (after Fig. S4)."""
    with rc_context(style("survival")):
        figure, axes = one_axes(WIDTH, 3.3)
        draws = np.arange(1, figures["cap"])
        for judge, colour in zip(judges, (ALIGNED, CONTROL), strict=False):
            axes.step(draws, np.array(figures[judge]["survival"])[1:] * 100, where="post", color=colour, linewidth=2,
                      label=f"by {judge}")  # fmt: skip
        null = np.array(figures["null"]["survival"])[1:] * 100
        axes.plot(draws, null, color=BATCH, linestyle="--", label="policy = base: 1/(k+1)")
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
        axes.minorticks_off()
        axes.set_xlabel("k, draws of the base")
        axes.set_ylabel("not beaten by then, %")
        _plain(axes)
        figure.legend(loc="outside upper left", ncols=3, frameon=False, handlelength=1.4)
        return svg(figure)


def outcomes(kinds: Mapping[str, Mapping[str, Any]], judges: Sequence[str]) -> str:
    """Draw shares of wins, draws and losses, a bar for each kind of edit and judge."""
    rows = [(f"{kind['strength']}, by {judge}", kind[judge]) for kind in kinds.values() for judge in judges]
    with rc_context(style("outcomes")):
        figure, axes = one_axes(WIDTH, 0.9 + 0.36 * len(rows))
        start = np.zeros(len(rows))
        for name, colour in (("win", ALIGNED), ("draw", SOFT), ("loss", CONTROL)):
            shares = np.array([100 * row[name]["value"] for _, row in rows])
            axes.barh(range(len(rows)), shares, left=start, color=colour, label=name, height=0.6)
            for place, share in enumerate(shares):
                if share > 6:
                    inside = "#1c2230" if name == "draw" else "white"
                    axes.text(start[place] + share / 2, place, f"{share:.0f}", ha="center", va="center", color=inside)
            start += shares
        axes.set_yticks(range(len(rows)), [title for title, _ in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of edits, %")
        _plain(axes, grid="x")
        figure.legend(loc="outside upper left", ncols=3, frameon=False, handlelength=1.0)
        return svg(figure)


def _plain(axes: Any, grid: str = "y") -> None:
    axes.grid(axis=grid, color="#eef0f3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
