"""The paper's experiments as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.pages.made import command_line, describe
from pipelines.paper import paper_charts as charts
from pipelines.paper.paper_experiments import JUDGED_BY, SERIES_TITLES, STEADY_TITLES
from pipelines.paper.paper_hypotheses import INDEPENDENT, LABELLED
from pipelines.paper.paper_run import DPO, FEEDBACK, SFT, WEAKER, PaperRun
from pipelines.reports.judges import judge_titles
from pipelines.reports.report_page import fill, image_pairs


@dataclass(frozen=True, kw_only=True)
class Text:
    """What is said of an experiment beside its figures."""

    title: str
    where: str  # in the paper
    paper: str
    ours: str
    note: str = ""


TEXTS = {
    "beta_ablation": Text(
        title="How large a β?",
        where="Supp. S5, Fig. S2",
        paper=(
            "Swept β for SD1.5 and SDXL with the learning rate in proportion to 1/β, and found a range in the middle "
            "good."
        ),
        ours=(
            "Four values of β, a factor of ten apart, once at one learning rate and once at a rate in proportion to "
            "1/β. AdamW divides a gradient by its own size, so it hardly notices that a larger β makes the loss "
            "steeper. At one learning rate, β alone changes. At a rate of 1/β, the step size changes too, by a factor "
            "of a thousand, and the two effects cannot be told apart."
        ),
        note=(
            "An inner β must beat both ends of the range. The intervals are wider than usual, because there are two "
            "inner values to choose from (Bonferroni)."
        ),
    ),
    "sft": Text(
        title="DPO, SFT and the base",
        where="Secs. 5.2 and 5.5",
        paper=(
            "Compared DPO with the base by the majority of five raters. As a control, fine-tuned on the winners "
            "alone, which helped SD1.5 and harmed SDXL."
        ),
        ours=(
            "Both objectives on the same pairs, for the same number of steps, from the same base, with checkpoints "
            "picked alike."
        ),
    ),
    "in_distribution": Text(
        title="Worse training images than one’s own",
        where="Sec. 5.5, Fig. 7",
        paper=(
            "SDXL draws better images than those it was trained on, and still improved. Dreamlike improved on its own "
            "images."
        ),
        ours=(
            "The base trained on pairs of its own images, and on pairs of worse images (four steps, no guidance). "
            "Boxes show quartiles of scores, whiskers the range from 5 to 95 %. The scores of the base and the "
            "policies are of the test captions."
        ),
    ),
    "feedback": Text(
        title="AI feedback",
        where="Sec. 5.4, Fig. 6",
        paper="Trained SD1.5 on the rankings of four scorers, and judged each policy by all four.",
        ours=(
            "One policy for each of four scorers’ labels, and one for the human (oracle) labels, all of the same "
            "pairs. The scorer that labelled the pairs picks the checkpoint. All four scorers, the oracle and "
            "fidelity judge each policy."
        ),
        note=(
            "This world’s PickScore and HPSv2 learned from preferences that the oracle drew, so their columns depend "
            "on its column."
        ),
    ),
    "implicit_reward": Text(
        title="The implicit reward as a judge",
        where="Sec. 5.5, Tab. 2",
        paper=(
            "Let the trained models classify the pairs of Pick-a-Pic’s validation set, by errors averaged over 10 "
            "draws."
        ),
        ours=(
            "The same on pairs of held-out captions, which the policies were not trained on. Pairs that people tied "
            "do not count. The interval of a single scorer is a bootstrap over prompts, because it has no seeds."
        ),
        note="The oracle’s own accuracy is the highest possible, because it drew the labels, with noise.",
    ),
    "rejection_sampling": Text(
        title="How many base images is one policy image worth?",
        where="Supp. S8, Fig. S4",
        paper="Counted how many images the base must draw until one beats an image of the policy.",
        ours=(
            "One image of the policy for each of several captions, and images of the base until a judge prefers one. "
            "Captions without such an image count as the cap. Two equal models would need 5.19 images on average at a "
            "cap of 100, with a median of 1, because some captions take very many."
        ),
    ),
    "sdedit": Text(
        title="Edits of given images",
        where="Sec. 5.3, Fig. 5",
        paper=(
            "Raters compared edits of TEd-Bench’s images at strength 0.6. The paper also shows edits of colour "
            "layouts at 0.98."
        ),
        ours=(
            "Both models edit the same images, from the same noise, at strength 0.6, and paint over colour layouts at "
            "0.98. By the oracle, two edits draw where their scores differ by less than the margin below which it "
            "labelled a tie. Fidelity has no such margin."
        ),
    ),
    "stability": Text(
        title="When a run falls apart",
        where="not in the paper",
        paper="Has no such experiment. Later users report runs whose images fall apart while the accuracy rises.",
        ours=(
            "Plain DPO at once, three and ten times the learning rate, and the same with the safeguard of "
            "Diffusion-SDPO, with a weight on the winner’s own error, and with a β that each step’s pairs decide."
        ),
    ),
}


def figures(name: str, experiment: Mapping[str, Any]) -> list[dict[str, str]]:
    """Draw an experiment's charts, each with a sentence on how to read it."""
    drawn = experiment["figures"]
    over = "wins over the base, %"
    bars = "Bars are 95 % intervals over seeds and prompts, dots are seeds. The dashed line marks no difference."
    match name:
        case "beta_ablation":
            return [_shown(charts.beta_chart(drawn, judge, SERIES_TITLES), bars) for judge in JUDGED_BY]
        case "sft":
            rows = _forest({"DPO": drawn[DPO], "SFT": drawn[SFT]})
        case "in_distribution":
            rates = _forest({"own images": drawn[DPO], "worse images": drawn[WEAKER]})
            scores = [_shown(charts.boxes(drawn["boxes"][judge], f"score by {judge}"), "") for judge in JUDGED_BY]
            return [_shown(charts.forest(rates, over), bars), *scores]
        case "stability":
            rows = [
                (f"{STEADY_TITLES[method]}, rate × {times}, by {judge}", one["win_rate"][judge])
                for method, points in drawn.items()
                for times, one in points.items()
                for judge in JUDGED_BY
            ]
        case "feedback":
            return []  # its matrix is a table
        case "implicit_reward":
            scorers = {row: drawn["scorers"][row] for row in (*FEEDBACK, LABELLED, INDEPENDENT)}
            rows = [("implicit reward", drawn["implicit"])]
            rows += [(row, one | {"value": one["accuracy"], "per_seed": []}) for row, one in scorers.items()]
            return [_shown(charts.forest(rows, "agrees with people’s labels, % of held-out pairs"), bars)]
        case "rejection_sampling":
            note = f"Measured on {drawn['captions']} captions with every seed."
            return [_shown(charts.survival(drawn, JUDGED_BY), note)]
        case _:
            return [
                _shown(charts.outcomes(drawn, JUDGED_BY), "Each bar is one strength and judge, the mean over seeds.")
            ]
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
        charts={name: figures(name, one) for name, one in report["experiments"].items()},
        pairs=image_pairs(first.drawn, run.base, LABELLED),
        judges={"labelled": LABELLED, "independent": INDEPENDENT},
        shown=first,
        titles=judge_titles(run.base.folder, run.judges),
        made=describe(command_line("pipelines/paper_report.py", {"run": run.folder}), {"all steps": report["seconds"]}),
    )
