"""What stands around a caption where a language model reads it: the pipelines' own templates and instructions.

`NAME_whole` puts captions into a template, by which cut captions are counted: it returns the texts that are tokenized,
and how many tokens of each are not counted against the limit. `NAME_beside` tells, of a pipeline of settings alone, how
many tokens the encoder reads beyond the limit.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any


def instruction(pipeline: Any) -> list[str]:
    """Return the lines that Sana's pipeline puts before a caption, where its user names none."""
    lines: list[str] = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
    return lines


def sana_whole(pipeline: Any, tokenizer: Any, captions: Sequence[str]) -> tuple[list[str], int]:
    """Put captions behind the instruction; all but two of its tokens come on top of the limit, as in the pipeline."""
    before = "\n".join(instruction(pipeline))
    return [before + one.lower().strip() for one in captions], len(tokenizer.encode(before)) - 2


def sana_beside(pipeline: Any) -> int:
    """Count the instruction by its words, marks and line breaks, as settings alone have no vocabulary.

    They are 205 in diffusers 0.42.1, of 166 words.
    """
    pieces = re.findall(r"\w+|[^\w\s]|\n", "\n".join(instruction(pipeline)))
    return 1 + len(pieces) - 2  # the mark that begins a text, and what sana_whole leaves of the limit


def qwen_image_beside(pipeline: Any) -> int:
    """Return the number of the template's first tokens, which come on top of the limit."""
    return int(pipeline.prompt_template_encode_start_idx)


def qwen_image_whole(pipeline: Any, _: Any, captions: Sequence[str]) -> tuple[list[str], int]:
    """Put captions into the pipeline's template, whose first tokens are dropped."""
    return [pipeline.prompt_template_encode.format(one) for one in captions], pipeline.prompt_template_encode_start_idx


def chat_whole(_: Any, tokenizer: Any, captions: Sequence[str], thinks: bool) -> tuple[list[str], int]:
    """Put captions into the tokenizer's chat template, all of which counts."""
    turns = [[{"role": "user", "content": one}] for one in captions]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinks}
    return [tokenizer.apply_chat_template(turn, **options) for turn in turns], 0


def flux_2_dev_whole(pipeline: Any, tokenizer: Any, captions: Sequence[str]) -> tuple[list[str], int]:
    """Put captions behind the pipeline's system message; the template has the mark that begins a text already."""
    from diffusers.pipelines.flux2.pipeline_flux2 import format_input

    turns = format_input([*captions], pipeline.system_message)
    texts = [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=False) for turn in turns]
    return texts, len(tokenizer("").input_ids)
