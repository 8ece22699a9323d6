"""A scorer that lives behind an address: a model that sees images, asked in the chat protocol.

Pairwise, the model is asked which of two images is better, once in each order. The image that both answers prefer wins;
answers that disagree are a tie. So a preference for the first image, whatever it shows, decides nothing. Pointwise, the
model gives each image a score.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.base import files
from infra.base.errors import UserError, check_least
from labelers.clips import weights
from labelers.scoring import answers_folder, endpoint_answers, endpoint_client
from labelers.scoring.endpoint_answers import RUBRICS, UNREADABLE, Answer, Question
from labelers.scoring.endpoint_client import KEY, Client, Pace
from labelers.scoring.endpoint_config import LEAST, EndpointConfig
from labelers.scoring.reasons import COUNTED, is_unanswered

VERSION = 1  # of questions and of how answers are read
Judged = tuple[npt.NDArray[np.float32], list[str | None], dict[str, npt.NDArray[np.int64]]]


def is_address(name: str) -> bool:
    """Say whether a scorer's name is an address."""
    return name.startswith(("http://", "https://"))


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Everything about a judge behind an address but the key; as JSON it goes wherever scorers are made."""

    address: str
    model: str
    rubric: str  # its text
    has_key: bool  # whether the process that began the job has one
    answers_id: str  # of the folder of answers
    config: EndpointConfig  # with an absolute path to that folder

    @classmethod
    def find(cls, address: str, config: EndpointConfig) -> Endpoint:
        """Read the rubric, and ask the server which model it has where none is named.

        Raises:
            UserError: naming the flag that does not fit, or what the server answers.
        """
        address = endpoint_client.check_address(address)
        check_least(config, LEAST)
        try:
            endpoint_answers.read_options(config.request_options)
        except ValueError as error:
            raise UserError(f"--request-options {config.request_options}: {error}; give a JSON object") from error
        rubric = RUBRICS[config.ask]
        if config.rubric:
            path = files.resolve(config.rubric)
            if not files.is_file(path):
                raise UserError(f"--rubric {config.rubric}: no such file; give a text file with what to ask")
            rubric = files.read_bytes(path).decode()
        config = replace(config, answers=answers_folder.resolve(config.answers))
        model = config.endpoint_model or _only_model(address, config)
        return cls(
            address=address,
            model=model,
            rubric=rubric,
            has_key=endpoint_client.key() is not None,
            answers_id=answers_folder.known_by(config.answers),
            config=config,
        )

    @property
    def name(self) -> str:
        """Return a short name for files and tables: the model's, in letters that a file may have."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.model.rpartition("/")[2]).strip(".-") or "endpoint"

    def as_json(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Endpoint:
        """Read what as_json wrote."""
        values = json.loads(text)
        config = values.pop("config")
        if config["token_prices"]:
            config["token_prices"] = tuple(config["token_prices"])
        return cls(**values, config=EndpointConfig(**config))


def _client(address: str, config: EndpointConfig) -> Client:
    return Client(
        address=address,
        folder=config.answers,
        timeout=config.request_timeout,
        tries=config.request_tries,
        pace=Pace(config.requests_per_minute),
    )


def _only_model(address: str, config: EndpointConfig) -> str:
    listed = _client(address, config).models()
    if len(listed) != 1:
        some = ", ".join(listed[:5]) or "none"
        raise UserError(f"scorer {address}: the server has {len(listed)} models ({some}); name one by --endpoint-model")
    return listed[0]


class EndpointScorer:
    """Scores by asking a model behind an address; made from an Endpoint's JSON."""

    temperature: float | None = None

    def __init__(self, described: str) -> None:
        self.endpoint = Endpoint.from_json(described)
        self.config = self.endpoint.config

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash address, model, rubric and what else decides an answer; the key and the pace do not."""
        config = self.config
        decisive = (config.ask, config.image_side, config.answer_tokens, config.request_options)
        endpoint = self.endpoint
        return weights.fingerprint([], "endpoint", VERSION, endpoint.address, endpoint.model, endpoint.rubric, decisive)

    @property
    def provenance(self) -> dict[str, Any]:
        """Say who judged and by which question, for manifests."""
        config = self.config
        return {
            "address": self.endpoint.address,
            "model": self.endpoint.model,
            "rubric_sha256": hashlib.sha256(self.endpoint.rubric.encode()).hexdigest(),
            "ask": config.ask,
            "image_side": config.image_side,
            "answer_tokens": config.answer_tokens,
            "request_options": config.request_options,
        }

    def check(self) -> None:
        """Refuse to begin without the key and the answers that the command was started with.

        Raises:
            UserError: naming the variable, or the folder.
        """
        answers_folder.check(self.config.answers, self.endpoint.answers_id)
        if self.endpoint.has_key and endpoint_client.key() is None:
            raise UserError(
                f"scorer {self.endpoint.address}: {KEY} is set where the command was started and not on this node; set "
                "it in the environment of the cluster's nodes"
            )

    @functools.cached_property
    def client(self) -> Client:
        """Make the client, once in each process."""
        self.check()
        return _client(self.endpoint.address, self.config)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Ask for a score of each image, [B] float32.

        Raises:
            UserError: if one is not to be had; the server has stopped answering; or it was set to compare pairs.
        """
        if self.config.ask != "pointwise":
            raise UserError(
                f"scorer {self.endpoint.address}: --ask pairwise judges pairs, and this asks for single images"
            )
        scores, answers = self._pointwise(images, captions)
        for score, answer, caption in zip(scores, answers, captions, strict=True):
            if score is None:
                reason = answer.reason or UNREADABLE
                raise UserError(f"scorer {self.endpoint.address}: no score of an image of {caption[:80]!r}: {reason}")
        return np.array(scores, np.float32)

    def judge_pairs(
        self, first: Sequence[Image.Image], second: Sequence[Image.Image], captions: Sequence[str]
    ) -> Judged:
        """Judge pairs of images, those of slot 0 and those of slot 1.

        Returns:
            Scores [2, n] float32, NaN for a pair without; why it has none; and each pair's numbers, by COUNTED's names.

        Raises:
            UserError: if the server refuses everybody, or has stopped answering.
        """
        scores = np.full((2, len(captions)), np.nan, np.float32)
        reasons: list[str | None] = []
        counted = {name: np.zeros(len(captions), np.int64) for name in COUNTED}
        if self.config.ask == "pointwise":
            values, answers = self._pointwise([*first, *second], [*captions, *captions])
            of_slots = list(zip(values[: len(captions)], values[len(captions) :], strict=True))
        else:
            of_slots, answers, counted["order_disagreements"] = self._pairwise(first, second, captions)
        for row, slots in enumerate(of_slots):
            own = (answers[row], answers[row + len(captions)])
            lacking = [answer.reason or UNREADABLE for value, answer in zip(slots, own, strict=True) if value is None]
            final = [reason for reason in lacking if not is_unanswered(reason)]
            reasons.append(next(iter([*final, *lacking]), None))
            if final or not lacking:  # else it is asked again, and all its tokens are counted then
                counted["prompt_tokens"][row] = sum(answer.prompt_tokens for answer in own)
                counted["completion_tokens"][row] = sum(answer.completion_tokens for answer in own)
            if not lacking:
                scores[:, row] = slots
        return scores, reasons, counted

    def _pointwise(
        self, images: Sequence[Image.Image], captions: Sequence[str]
    ) -> tuple[list[float | None], list[Answer]]:
        asked = [self._question(caption, [image]) for image, caption in zip(images, captions, strict=True)]
        answers = self._ask_all(asked)
        return [_read(answer, endpoint_answers.read_score) for answer in answers], answers

    def _pairwise(
        self, first: Sequence[Image.Image], second: Sequence[Image.Image], captions: Sequence[str]
    ) -> tuple[list[tuple[float | None, float | None]], list[Answer], npt.NDArray[np.int64]]:
        """Ask in both orders: all pairs with slot 0 as Image 1, then all with slot 1 as Image 1."""
        rows = list(zip(first, second, captions, strict=True))
        asked = [self._question(caption, [one, other]) for one, other, caption in rows]
        asked += [self._question(caption, [other, one]) for one, other, caption in rows]
        answers = self._ask_all(asked)
        verdicts = [_read(answer, endpoint_answers.read_verdict) for answer in answers]
        slots: list[tuple[float | None, float | None]] = []
        disagreed = np.zeros(len(rows), np.int64)
        for row, (straight, swapped) in enumerate(zip(verdicts[: len(rows)], verdicts[len(rows) :], strict=True)):
            if straight is None or swapped is None:
                slots.append((straight, swapped))
                continue
            disagreed[row] = straight != 1 - swapped
            points = 0.5 if disagreed[row] else straight
            slots.append((points, 1 - points))
        return slots, answers, disagreed

    def _question(self, caption: str, images: Sequence[Image.Image]) -> Question:
        return endpoint_answers.ask(self.endpoint.rubric, caption, images, self.config.image_side)

    def _ask_all(self, asked: Sequence[Question]) -> list[Answer]:
        """Ask several questions at once, equal ones once."""
        named = {question.key(self.fingerprint): question for question in asked}
        pool = ThreadPoolExecutor(self.config.requests_at_once)
        try:
            waiting = {name: pool.submit(self._ask, name, question) for name, question in named.items()}
            answers = {name: future.result() for name, future in waiting.items()}
        finally:
            pool.shutdown(cancel_futures=True)  # what is under way still ends, and is kept
        return [answers[question.key(self.fingerprint)] for question in asked]

    def _ask(self, name: str, question: Question) -> Answer:
        return self.client.ask(name, lambda: self._body(question))

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": question.content()}],
            "temperature": 0,
            "max_tokens": self.config.answer_tokens,
        }
        body |= endpoint_answers.read_options(self.config.request_options)
        return {name: value for name, value in body.items() if value is not None}


def _read(answer: Answer, read: Callable[[str], float | None]) -> float | None:
    return None if answer.text is None else read(answer.text)
