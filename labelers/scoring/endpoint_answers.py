"""What a judge behind an address is asked, and what its answers mean: plain functions of text and images.

A question is one message of the chat protocol that OpenAI's servers, vLLM, SGLang, llama.cpp and others speak: the
rubric with the caption, and the images as PNG. An answer is read for its verdict alone, whatever stands before it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from infra.base import json_text

CAPTION = "{caption}"
RUBRICS = {
    "pairwise": (
        "Two images were drawn for the caption below. Decide which one a careful person would prefer: first by how "
        "completely and exactly it shows what the caption asks for, then by how free it is of visible faults, then by "
        "its looks. Say tie only where no difference matters. End with one line of JSON: "
        '{"winner": 1}, {"winner": 2} or {"winner": "tie"}.\n\nCaption: {caption}'
    ),
    "pointwise": (
        "An image was drawn for the caption below. Rate from 0 to 10 how much a careful person would like it: first by "
        "how completely and exactly it shows what the caption asks for, then by how free it is of visible faults, then "
        'by its looks. Use decimals. End with one line of JSON: {"score": 7.5}.\n\nCaption: {caption}'
    ),
}
UNREADABLE = "no verdict in the answer"
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_SCORE = re.compile(rf'"score"\s*:\s*"?{_NUMBER}', re.IGNORECASE)
_FINAL = re.compile(rf"\b(?:final|overall|total)\s+score[^\d\n:]*(?:\([^)\n]*\))?\W*:\W*{_NUMBER}", re.IGNORECASE)
_ASPECT = re.compile(rf"\bscore\s*(?:\([^)\n]*\))?\W*:\W*{_NUMBER}", re.IGNORECASE)
_WINNER = re.compile(r'"?winner"?\s*[:=]\s*"?(?:image\s*)?(1|2|tie)\b', re.IGNORECASE)
_BETTER = re.compile(r"\bimage\s*([12])\s+(?:is\s+(?:\w+\s+)?better|wins)\b", re.IGNORECASE)
_SHARE = re.compile(rf"\bimage\s*([12])\s*:\s*{_NUMBER}", re.IGNORECASE)
_THOUGHT = re.compile(r".*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """One message to the judge."""

    text: str
    images: tuple[Image.Image, ...]

    def key(self, fingerprint: str) -> str:
        """Hash the question to a judge of this fingerprint, SHA-256 in hex: equal ones are asked once."""
        digest = hashlib.sha256(f"{fingerprint}\n{self.text}".encode())
        for image in self.images:
            digest.update(f"\n{image.width}x{image.height}".encode() + image.tobytes())
        return digest.hexdigest()

    def content(self) -> list[dict[str, Any]]:
        """Return the message's parts: the text, then each image, numbered where there are several."""
        parts: list[dict[str, Any]] = [{"type": "text", "text": self.text}]
        for number, image in enumerate(self.images, 1):
            if len(self.images) > 1:
                parts.append({"type": "text", "text": f"Image {number}:"})
            parts.append({"type": "image_url", "image_url": {"url": data_url(image)}})
        return parts


def ask(rubric: str, caption: str, images: Sequence[Image.Image], side: int) -> Question:
    """Put a caption into a rubric, and images beside it that are at most `side` pixels long."""
    text = rubric.replace(CAPTION, caption) if CAPTION in rubric else f"{rubric.rstrip()}\n\nCaption: {caption}"
    return Question(text, tuple(_reduced(image, side) for image in images))


def _reduced(image: Image.Image, side: int) -> Image.Image:
    longer = max(image.size)
    if longer <= side:
        return image
    size = (max(1, round(image.width * side / longer)), max(1, round(image.height * side / longer)))
    return image.resize(size, Image.Resampling.LANCZOS)


def data_url(image: Image.Image) -> str:
    """Write an image as PNG into a URL, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def read_score(text: str) -> float | None:
    """Read the score that an answer ends in; None where there is none.

    JSON counts first, then a line of a final, overall or total score. Otherwise several scores, of several aspects as
    UnifiedReward gives them, count by their mean.
    """
    said = _THOUGHT.sub("", text)
    for pattern in (_SCORE, _FINAL):
        numbers = pattern.findall(said)
        if numbers:
            return _finite(float(numbers[-1]))
    aspects = [float(number) for number in _ASPECT.findall(said)]
    if aspects:
        return _finite(sum(aspects) / len(aspects))
    alone = re.fullmatch(rf"{_NUMBER}(?:\s*/\s*\d+)?\.?", said.strip())
    return _finite(float(alone[1])) if alone else None


def read_verdict(text: str) -> float | None:
    """Read an answer's verdict on Image 1: 1.0 it is better, 0.0 it is worse, 0.5 a tie; None where there is none.

    JSON counts first, then the words "Image 1 is better". Otherwise shares such as "Image 1: 0.4", one for each aspect
    as UnifiedReward 2.0 gives them, count by their sums.
    """
    said = _THOUGHT.sub("", text)
    for pattern in (_WINNER, _BETTER):
        winners = pattern.findall(said)
        if winners:
            return {"1": 1.0, "2": 0.0}.get(winners[-1], 0.5)
    shares = _SHARE.findall(said)
    sums = [math.fsum(float(value) for image, value in shares if image == one) for one in "12"]
    count = sum(image == "1" for image, _ in shares)
    if not shares or 2 * count != len(shares):
        return None
    return 0.5 if sums[0] == sums[1] else float(sums[0] > sums[1])


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server said to one question."""

    text: str | None  # None where it said nothing that counts
    reason: str | None  # why not
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Answer:
        """Read a reply of the chat protocol.

        Raises:
            ValueError: if it is none.
        """
        try:
            choice = reply["choices"][0]
            message = choice["message"]
            text = message.get("content")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError("no chat completion") from error
        if isinstance(text, list):  # some servers answer in parts, as they are asked
            text = "".join(part.get("text", "") for part in text if isinstance(part, dict))
        reason = None
        if message.get("refusal") or choice.get("finish_reason") == "content_filter":
            reason = "the model refused to answer"
        elif choice.get("finish_reason") == "length":
            reason = "the answer was cut off at --answer-tokens"
        elif not isinstance(text, str) or not text.strip():
            reason = "the answer is empty"
        usage = reply.get("usage")
        used = usage if isinstance(usage, dict) else {}
        return cls(
            text=text if reason is None else None,
            reason=reason,
            prompt_tokens=_count(used.get("prompt_tokens")),
            completion_tokens=_count(used.get("completion_tokens")),
        )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def read_options(text: str) -> dict[str, Any]:
    """Read --request-options.

    Raises:
        ValueError: if it is no JSON object, or has a field that is not the user's to choose.
    """
    options = json_text.parse(text)
    if not isinstance(options, dict):
        raise ValueError("it is no JSON object")
    ours = sorted({"messages", "model", "stream", "n"} & options.keys())
    if ours:
        raise ValueError(f"{ours[0]} is not yours to choose")
    return options
