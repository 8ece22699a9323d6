"""The paper's experiments as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.paper import paper_charts as charts
from pipelines.paper.paper_experiments import JUDGED_BY, SERIES_TITLES
from pipelines.paper.paper_hypotheses import INDEPENDENT, LABELLED
from pipelines.paper.paper_run import DPO, FEEDBACK, SFT, WEAKER, PaperRun
from pipelines.reports.report_page import fill, image_pairs


@dataclass(frozen=True)
class Text:
    """What is said of an experiment beside its figures."""

    title: str
    where: str  # in the paper
    paper: str
    ours: str
    note: str = ""


TEXTS = {
    "beta_ablation": Text(
        "How large a β?", "Supp. S5, Fig. S2",
        "Swept β for SD1.5 and SDXL, took the learning rate as 1/β, and found a range in the middle good.",
        "Four values of β a factor ten apart, once at one learning rate and once at a rate in proportion to 1/β. AdamW "
        "divides a gradient by its own size, so it hardly notices that a larger β makes the loss steeper: at one rate "
        "β alone changes; at 1/β so does the step size, by a factor of a thousand, and the two cannot be told apart.",
        "An inner β must beat both ends of the range, by intervals widened for the choice among two (Bonferroni).",
    ),
    "sft": Text(
        "DPO, SFT and the base", "Secs. 5.2 and 5.5",
        "Compared DPO with the base by five raters’ majority, and fine-tuned on the winners alone as a control, which "
        "helped SD1.5 and harmed SDXL.",
        "Both objectives on the same pairs, for as many steps, from the same base; checkpoints picked alike.",
    ),
    "in_distribution": Text(
        "Worse training images than one’s own", "Sec. 5.5, Fig. 7",
        "SDXL draws better images than those it was trained on, and still gained; Dreamlike gained on its own images.",
        "The base trained on pairs of its own images, and on pairs that it drew worse (four steps, no guidance). "
        "Boxes: quartiles of scores, whiskers at 5 and 95 %; the base’s and the policies’ are of the test captions.",
    ),
    "feedback": Text(
        "AI feedback", "Sec. 5.4, Fig. 6",
        "Trained SD1.5 on the rankings of four scorers, each policy judged by all four.",
        "A policy on each of the four scorers’ labels and on the human (oracle) labels of the same pairs, its "
        "checkpoint picked by the scorer that labelled; judged by all, by the oracle and by fidelity.",
        "This world’s PickScore and HPSv2 learned from preferences that the oracle drew: their columns are not "
        "independent of its column.",
    ),
    "implicit_reward": Text(
        "The implicit reward as a judge", "Sec. 5.5, Tab. 2",
        "Let the trained models classify the pairs of Pick-a-Pic’s validation set, by errors averaged over 10 draws.",
        "The same on pairs of held-out captions, which the policies were not trained on. Pairs that people tied do not "
        "count. A single scorer’s interval is a bootstrap over prompts; it has no seeds.",
        "The oracle’s own accuracy is the most that is possible: it drew the labels, with noise.",
    ),
    "rejection_sampling": Text(
        "What is a draw worth?", "Supp. S8, Fig. S4",
        "Counted how many draws of the base it takes until one beats a draw of the policy.",
        "One draw of the policy for each of a few captions, and the base’s until a judge prefers one. Captions on "
        "which none did count as the cap. Equals would need 5.19 draws on average at a cap of 100, median 1: a few "
        "captions take very many.",
    ),
    "sdedit": Text(
        "Edits of given images", "Sec. 5.3, Fig. 5",
        "Raters compared edits of TEd-Bench’s images at strength 0.6; edits of colour layouts at 0.98 were shown.",
        "Both models edit the same images, from the same noise, at strength 0.6, and paint colour layouts over at "
        "0.98. By the oracle a draw is a difference below which it called ties when it labelled; fidelity has none.",
    ),
}  # fmt: skip


def figures(name: str, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Draw an experiment's charts, each with a sentence that says how to read it."""
    drawn = found["figures"]
    over, bars = (
        "wins over the base, %",
        "Bars: 95 % intervals over seeds and prompts; dots: seeds. Dashed: no difference.",
    )
    match name:
        case "beta_ablation":
            return [_shown(charts.beta_chart(drawn, judge, SERIES_TITLES), bars) for judge in JUDGED_BY]
        case "sft":
            rows = _forest({"DPO": drawn[DPO], "SFT": drawn[SFT]})
        case "in_distribution":
            rates = _forest({"own images": drawn[DPO], "worse images": drawn[WEAKER]})
            scores = [_shown(charts.boxes(drawn["boxes"][judge], f"score by {judge}"), "") for judge in JUDGED_BY]
            return [_shown(charts.forest(rates, over), bars), *scores]
        case "feedback":
            return []  # its matrix is a table
        case "implicit_reward":
            scorers = {row: drawn["scorers"][row] for row in (*FEEDBACK, LABELLED, INDEPENDENT)}
            rows = [("implicit reward", drawn["implicit"])]
            rows += [(row, one | {"value": one["accuracy"], "per_seed": []}) for row, one in scorers.items()]
            return [_shown(charts.forest(rows, "agrees with people’s labels, % of held-out pairs"), bars)]
        case "rejection_sampling":
            note = f"Of {drawn['captions']} captions and every seed."
            return [_shown(charts.survival(drawn, JUDGED_BY), note)]
        case _:
            return [_shown(charts.outcomes(drawn, JUDGED_BY), "Strength and judge; mean over seeds.")]
    return [_shown(charts.forest(rows, over), bars)]


def _forest(rows: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(f"{row}, by {judge}", one["win_rate"][judge]) for row, one in rows.items() for judge in JUDGED_BY]


def _shown(svg: str, note: str) -> dict[str, str]:
    return {"svg": svg, "note": note}


def render(report: dict[str, Any], run: PaperRun) -> str:
    """Lay the experiments out; every text in it is escaped.

    Args:
        report: what report.json holds.
        run: whose images are shown: the base's and the main trial's of the first seed.
    """
    first = run.trials[DPO][0]
    return fill(
        "paper.html.jinja",
        report,
        texts=TEXTS,
        charts={name: figures(name, found) for name, found in report["experiments"].items()},
        pairs=image_pairs(first.drawn, run.base, LABELLED),
        judges={"labelled": LABELLED, "independent": INDEPENDENT},
        shown=first,
    )
