"""How many draws of the base one draw of the policy is worth: `python pipelines/rejection_sampling.py --model ...`.

The paper's S8, Fig. S4: for each caption the policy draws once, and the base draws until a scorer prefers its image. N
is the first base draw that beats the policy's, capped; captions on which none did count as the cap. Were the policy the
base, the k + 1 images of k draws would come in any order of merit alike, so P(N > k) = 1 / (k + 1): the null.

The base draws in waves, only for captions that are not beaten yet: 4 images, then 8, 16 and so on. One folder: policy/,
wave-N/ and rejection_sampling.json. Resumable, as each wave is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.stats import bootstrap

from infra.base import begun, files, models, next_step, object_storage, one_writer
from infra.base.config_files import save_config
from infra.base.errors import check_least
from labelers.scoring import scorers
from pipelines.drawing import generate, generate_config
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.drawing.image_sets import describe_captions
from pipelines.drawing.prompts import read_prompts
from pipelines.experiments.rejection_config import RejectionConfig
from pipelines.judging import score, score_files

RESULT = "rejection_sampling.json"
SCHEMA_VERSION = 1
FIRST_WAVE = 4


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What the captions' N say, and what they would be under the null."""

    captions: int
    cap: int
    mean: float  # of min(N, cap)
    low: float  # 95 %, over captions
    high: float
    median: float
    censored: int  # captions that no draw of the base won
    survival: list[float]  # share of captions with N > k, for k from 0 below cap
    null_mean: float
    null_median: float
    null_survival: list[float]
    beyond_null: str  # yes, no or undecided: whether the interval lies above the null's mean, below it, or around it


def waves(cap: int) -> list[int]:
    """Return how many images per caption each wave draws: twice as many every time, `cap` in all."""
    sizes: list[int] = []
    while sum(sizes) < cap:
        sizes.append(min(cap - sum(sizes), FIRST_WAVE << len(sizes)))
    return sizes


def first_better(base: npt.NDArray[np.floating], policy: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Find the first base draw that scores higher than the policy's; a tie does not beat.

    Args:
        base: [captions, draws] scores, in the order drawn.
        policy: [captions] scores.

    Returns:
        [captions]: 1 for the first draw; 0 where none is better.
    """
    better = base > policy[:, None]
    return np.where(better.any(1), better.argmax(1) + 1, 0)


def null_survival(cap: int) -> npt.NDArray[np.float64]:
    """Return P(N > k) = 1 / (k + 1) for k = 0 .. cap - 1; the sum, the capped mean, is the cap-th harmonic number."""
    return 1 / np.arange(1, cap + 1)


def summarise(draws: npt.NDArray[np.int64], cap: int) -> Draws:
    """Summarise N [captions], 0 where the base gave up; the mean's interval is a BCa bootstrap over captions."""
    capped = np.where(draws == 0, cap, draws)
    mean = float(capped.mean())
    low = mean
    high = mean
    if capped.std() > 0:  # else nothing varies, and a bootstrap has no interval to give
        interval = bootstrap((capped,), np.mean, rng=np.random.default_rng(0), n_resamples=4999).confidence_interval
        low = float(interval.low)
        high = float(interval.high)
    expected = null_survival(cap)
    verdict = "yes" if low > expected.sum() else "no" if high < expected.sum() else "undecided"
    return Draws(
        captions=len(draws),
        cap=cap,
        mean=mean,
        low=low,
        high=high,
        median=float(np.median(capped)),
        censored=int((draws == 0).sum()),
        survival=[float(((draws == 0) | (draws > k)).mean()) for k in range(cap)],
        null_mean=float(expected.sum()),
        null_median=1.0,  # P(N > 1) is a half
        null_survival=[float(p) for p in expected],
        beyond_null=verdict,
    )


def main(config: RejectionConfig) -> None:
    """Count how many draws of the base it takes to beat one draw of the policy."""
    check_least(config, {"cap": 1})
    generate_config.check_config(config.draw)
    models.Model(config.base, config.base_revision).folder(flag="--base")  # else refused when the policy has drawn
    output = files.resolve(config.output)
    object_storage.check("--output", output)
    captions = list(dict.fromkeys(read_prompts(files.resolve(config.draw.prompts))[: config.draw.limit]))
    weights = scorers.weights_of((config.scorer,), config.weights)[config.scorer]
    scorers.check(config.scorer, weights, captions)
    with one_writer.writer_lock(output):
        one = draw_and_score(config, config.draw, captions, files.join(output, "policy"))
        scores = dict(zip(one["caption"].to_pylist(), one[config.scorer].to_pylist(), strict=True))
        policy = {caption: scores[caption] for caption in captions}
        draws = beat(config, policy, output)
        result = summarise(np.array([draws[caption] for caption in captions]), config.cap)
        about = {"schema_version": SCHEMA_VERSION, "config": asdict(config)}
        save_config(output, config)
        files.write_json(files.join(output, RESULT), about | {"result": asdict(result), "draws": draws})
    print(f"\nby {scorers.title(config.scorer, weights)}\n{table(result)}\n{files.join(output, RESULT)}", flush=True)


def beat(config: RejectionConfig, policy: dict[str, float], output: str) -> dict[str, int]:
    """Let the base draw until it beats the policy's score on each caption; returns N per caption, 0 for none."""
    base = models.Model(config.base, config.base_revision)
    draws = dict.fromkeys(policy, 0)
    before = 0
    for number, size in enumerate(waves(config.cap), 1):
        left = [caption for caption, first in draws.items() if not first]
        if not left:
            break
        print(f"\n[wave {number}: {size} draws of the base for {len(left)} captions]", flush=True)
        seed = config.draw.seed + number  # the policy's own seed would give the base its start noise
        drawing = replace(config.draw, model=base.name, revision=base.revision, lora=None, seed=seed)
        drawing = replace(drawing, images_per_prompt=size)
        scores = draw_and_score(config, drawing, left, files.join(output, f"wave-{number}"))
        drawn: dict[str, list[float]] = {caption: [] for caption in left}
        for row in scores.sort_by("image_index").to_pylist():
            drawn[row["caption"]].append(row[config.scorer])
        targets = np.array([policy[caption] for caption in left])
        for caption, first in zip(left, first_better(np.array(list(drawn.values())), targets), strict=True):
            draws[caption] = before + int(first) if first else 0
        before += size
    return draws


@next_step.of_another_command()
def draw_and_score(config: RejectionConfig, drawing: GenerateConfig, captions: Sequence[str], folder: str) -> pa.Table:
    """Draw images of captions into a folder, score them, and return their scores."""
    prompts = files.join(folder, "captions.jsonl")
    if files.exists(prompts):
        before = {"captions": describe_captions(read_prompts(prompts))}
        now = {"captions": describe_captions(captions)}
        begun.refuse_other_settings(folder, before, now, "give another --output")
    files.write_bytes(prompts, "".join(json.dumps({"caption": caption}) + "\n" for caption in captions).encode())
    generate.main(replace(drawing, prompts=prompts, limit=None, output=folder))
    weights = scorers.weights_of((config.scorer,), config.weights)
    fingerprint = scorers.load(config.scorer, weights[config.scorer]).fingerprint
    settings = score.ScoreConfig(images=(folder,), scorers=(config.scorer,), weights=config.weights)
    score.score_folder(settings, folder, {config.scorer: fingerprint}, weights)
    return score_files.read_scores(folder)


def table(result: Draws) -> str:
    """Lay the result out for the terminal, the null beside it."""
    lines = [
        ("", "measured", "policy = base"),
        ("mean draws", f"{result.mean:.2f} ({result.low:.2f} to {result.high:.2f})", f"{result.null_mean:.2f}"),
        ("median draws", f"{result.median:g}", f"{result.null_median:g}"),
        *(
            (f"more than {k}", f"{result.survival[k]:.3f}", f"{result.null_survival[k]:.3f}")
            for k in (1, 10, 50)
            if k < result.cap
        ),
        (f"not in {result.cap}", f"{result.censored / result.captions:.3f}", f"{1 / (result.cap + 1):.3f}"),
        ("beyond the null", result.beyond_null, ""),
    ]
    return "\n".join(f"{name:<16}  {ours:<24}  {null}".rstrip() for name, ours, null in lines)
