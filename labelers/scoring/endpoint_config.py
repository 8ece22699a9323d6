"""The flags of a scorer that is a model behind an http address, apart from what asks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from infra.base.places import PathText

Ask = Literal["pairwise", "pointwise"]
ENDPOINT_FLAGS = (
    "ask",
    "endpoint_model",
    "rubric",
    "answers",
    "image_side",
    "answer_tokens",
    "request_options",
    "requests_at_once",
    "requests_per_minute",
    "request_timeout",
    "request_tries",
    "token_prices",
)
LEAST = {
    "image_side": 16,
    "answer_tokens": 1,
    "requests_at_once": 1,
    "requests_per_minute": 0,
    "request_timeout": 0.01,
    "request_tries": 1,
}


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """How a model behind an address is asked, for a scorer that is an http:// or https:// address."""

    ask: Ask = "pairwise"
    """pairwise: which of two images is better, in both orders; orders that disagree are a tie. pointwise: a score for
    each image."""
    endpoint_model: str | None = None
    """Name of the model at the address; by default the only one that the server lists."""
    rubric: PathText | None = None
    """Text file with what to ask, in place of the built-in question. {caption} in it stands for the caption; the answer
    must end in {"winner": 1}, 2 or "tie", or in {"score": NUMBER}."""
    answers: PathText = "runs/answers"
    """Folder that keeps every answer, local or s3://, so that nothing is asked twice."""
    image_side: int = 1024
    """Pixels of an image's longer side, at most; larger images are reduced before they are sent."""
    answer_tokens: int = 1024
    """Tokens of an answer, at most; models that think first need more."""
    request_options: str = "{}"
    """JSON with more fields of the request, for example {"reasoning_effort": "low"}; null removes one of ours."""
    requests_at_once: int = 8
    """Requests under way at the same time, for each copy."""
    requests_per_minute: float = 0
    """Requests a minute at most, for each copy; 0 is no limit."""
    request_timeout: float = 120
    """Seconds to wait for an answer."""
    request_tries: int = 6
    """Times that a request is sent before it counts as failed. The pauses between double, or are the server's own."""
    token_prices: tuple[float, float] | None = None
    """Price of a million tokens read and of a million tokens written, for the sum at the end."""
