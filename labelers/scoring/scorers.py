"""The scorers by name, and what a scorer is. A new one is one file and one line here."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.base.errors import UserError
from labelers.clips import weights as scorer_weights
from labelers.clips.weights import PUBLISHED, WORLD
from labelers.scoring import apart, endpoint
from labelers.scoring.endpoint_config import EndpointConfig


class Scorer(Protocol):
    """Judges images, each beside the caption that asked for it.

    A scorer that limits its text also has `truncated(captions)`, which counts the captions over the limit. One with
    weights takes `world`, `published` or a local path as its only argument, and has `check()`, which refuses bad ones.
    One that judges pairs as pairs, or says itself why a pair has no score, has `judge_pairs` (endpoint.py).
    """

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of weights, preprocessing and formula, in hex; equal ones mean equal scores."""
        ...

    @property
    def temperature(self) -> float | None:
        """Return T, where a score difference / T is a Bradley-Terry logit; None where the scorer has no such T."""
        ...

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one score per full-size, upright RGB image, [B] float32; higher is better."""
        ...


# name: module and class
SCORERS = {
    "aesthetics": "labelers.clips.aesthetics:Aesthetics",
    "clip": "labelers.clips.clip_score:ClipScore",
    "fidelity": "infra.world.fidelity:Fidelity",
    "hpsv2": "labelers.clips.human_preference:HPSv2",
    "hpsv2.1": "labelers.clips.human_preference:HPSv21",
    "hpsv2.1-antialiased": "labelers.clips.human_preference:HPSv21Antialiased",
    "implicit": "labelers.scoring.implicit:Implicit",
    "oracle": "infra.world.oracle:Oracle",
    "pickscore": "labelers.clips.pickscore:PickScore",
}


class FunctionScorer:
    """Any function of images and captions as a scorer."""

    temperature = None

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash the function's name and the file it is written in."""
        source = inspect.getsourcefile(inspect.unwrap(self.function))
        return scorer_weights.fingerprint([Path(source)] if source else [], self.name)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Call the function.

        Raises:
            ValueError: if it does not return one number per image.
        """
        scores = np.asarray(self.function(images, captions), np.float32)
        if scores.shape != (len(images),):
            raise ValueError(f"scorer {self.name}: {len(images)} images gave scores of shape {scores.shape}")
        return scores


def load(name: str, weights: str | None = None) -> Scorer:
    """Make a scorer; its model is read at the first score.

    Args:
        name: one of SCORERS, or module:function of any function from (images, captions) to [B] scores.
        weights: world (the default), published, or a local path; of a judge behind an address, its description.

    Raises:
        UserError: if there is no such scorer, or nothing where its weights should be.
    """
    if endpoint.is_address(name):
        raise UserError(f"scorer {name}: this command takes no address; relabel.py, accuracy.py and score.py do")
    if weights is not None and weights.startswith("{"):
        return apart.ApartScorer(weights) if '"python":' in weights else endpoint.EndpointScorer(weights)
    if name in apart.NAMES:
        raise UserError(
            f"scorer {name}: runs in an environment of its own; make one and give it as --scorer-python "
            f"{name}=VENV/bin/python to relabel.py, accuracy.py, score.py or evaluate_model.py (docs/scorers.md)"
        )
    named = _import_named(name)
    if not hasattr(named, "score"):
        scorer: Scorer = FunctionScorer(named, name)
    elif hasattr(named, "check"):
        return named(weights or WORLD)
    else:
        scorer = named()
    if weights not in (None, WORLD, PUBLISHED):
        raise UserError(f"--weights {name}={weights}: {name} has no weights; leave this flag out")
    return scorer


def is_toy(name: str, weights: str | None) -> bool:
    """Say whether a scorer has the embedded world's tiny weights, and so only the name of the published one."""
    if weights not in (None, WORLD) or name not in SCORERS or not scorer_weights.world_folder(name).is_dir():
        return False
    return hasattr(_import_named(name), "check")


def title(name: str, weights: str | None) -> str:
    """Name a scorer for people: one with the embedded world's weights never goes under a published one's name."""
    return f"{name} (embedded world)" if is_toy(name, weights) else name


def about(name: str, weights: str | None) -> dict[str, Any]:
    """Return what manifests say of a judge: its title, and of one elsewhere, where it is and what it was asked."""
    provenance = getattr(load(name, weights), "provenance", None)
    return {"judge": title(name, weights)} | ({"provenance": provenance} if provenance else {})


def check(name: str, weights: str | None = None, captions: Sequence[str] = ()) -> None:
    """Refuse a scorer that cannot work, from names, headers and shapes alone; published weights are fetched.

    Args:
        captions: those that the scorer is to judge.

    Raises:
        UserError: if it is unknown, its weights are missing, of another architecture, or not only tensors, or it cannot
            judge a caption.
    """
    scorer = load(name, weights)
    if hasattr(scorer, "check"):
        scorer.check()
    if hasattr(scorer, "check_captions"):
        scorer.check_captions(captions)
    if is_toy(name, weights):
        _refuse_foreign(name, captions)


def _refuse_foreign(name: str, captions: Sequence[str]) -> None:
    """Refuse captions of another world, which the oracle knows, to a scorer that has learned the embedded one alone."""
    oracle: Any = load("oracle")
    for caption in captions:
        try:
            oracle.check_captions([caption])
        except UserError:
            raise UserError(
                f"scorer {name}: its default weights know only the embedded world's images, and {caption[:80]!r} is no "
                f"caption of it; give --weights published, or {name}=PATH"
            ) from None


def weights_of(names: Sequence[str], flags: Sequence[str]) -> dict[str, str | None]:
    """Read --weights: one set for all scorers, and NAME=PATH (or NAME=SET) for single ones, which take precedence.

    Raises:
        UserError: if a flag names a scorer that was not asked for, or two sets are given for all.
    """
    single = dict(flag.split("=", 1) for flag in flags if "=" in flag)
    sets = [flag for flag in flags if "=" not in flag]
    strangers = sorted(set(single) - set(names))
    if strangers:
        raise UserError(f"--weights {strangers[0]}=...: not among the scorers asked for, {', '.join(names)}")
    if len(sets) > 1 or not set(sets) <= {WORLD, PUBLISHED}:
        raise UserError(f"--weights {' '.join(sets)}: give {WORLD}, {PUBLISHED} or NAME=PATH")
    return {name: single.get(name, sets[0] if sets else None) for name in names}


def described(
    names: Sequence[str], flags: Sequence[str], config: EndpointConfig, pythons: Sequence[str] = ()
) -> dict[str, str | None]:
    """Return what `load` needs of each scorer, by its name; a scorer that is an address gets its model's name.

    Args:
        flags: of --weights.
        config: how addresses are asked.
        pythons: of --scorer-python, NAME=PATH.

    Raises:
        UserError: as weights_of does; if a scorer elsewhere does not answer, or two scorers would have one name.
    """
    addresses = [name for name in names if endpoint.is_address(name)]
    elsewhere = dict(_of_scorer(flag, names) for flag in pythons)
    known = weights_of([name for name in names if name not in addresses], flags)
    by_name: dict[str, str | None] = {}
    for name in names:
        own = known.get(name)
        short = name
        if name in addresses:
            there = endpoint.Endpoint.find(name, config)
            short = there.name
            own = there.as_json()
        elif name in elsewhere:
            own = apart.find(name, elsewhere[name], own).as_json()
        if short in by_name:
            raise UserError(f"--scorer {' '.join(names)}: {short} is there twice; give each scorer once")
        by_name[short] = own
    return by_name


def _of_scorer(flag: str, names: Sequence[str]) -> tuple[str, str]:
    name, given, path = flag.partition("=")
    if not given or name not in names:
        raise UserError(f"--scorer-python {flag}: give NAME=PATH for one of the scorers asked for, {', '.join(names)}")
    return name, path


def in_words(weights: str | None) -> str | None:
    """Return weights as a report shows them: of a scorer elsewhere, also where."""
    if weights is None or not weights.startswith("{"):
        return weights
    known = load("", weights)
    if isinstance(known, apart.ApartScorer):
        return f"{known.apart.weights} in {known.apart.python}"
    assert isinstance(known, endpoint.EndpointScorer)
    return f"{known.endpoint.model} at {known.endpoint.address}"


def _import_named(name: str) -> Any:
    """Import the class or function that a name stands for."""
    module, _, attribute = SCORERS.get(name, name).partition(":")
    if not attribute:
        raise UserError(f"scorer {name!r}: unknown; there are {', '.join(sorted(SCORERS))}, and any module:function")
    try:
        named = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"scorer {name!r}: cannot be imported ({error})") from error
    if not callable(named):
        raise UserError(f"scorer {name!r}: {attribute} is not a function; name a function or a scorer's class")
    return named
