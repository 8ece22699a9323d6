"""Tiny random text encoders of the real classes, and word tokenizers with the marks of theirs."""

from __future__ import annotations

import torch

from infra.base import (
    torchvision_guard,  # noqa: F401  (before transformers)
)
from support.material import MODEL

from tokenizers import Tokenizer, models, pre_tokenizers, processors  # isort: skip
from transformers import (  # isort: skip
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

LENGTH = 16  # of the embedded world's CLIP tokenizer
WORDS = ["a", "big", "small", "red", "teal", "white", "black", "circle", "star", "cross", "ring", "on", "background"]


def clip_tokenizer() -> CLIPTokenizer:
    """Open the embedded world's tokenizer."""
    return CLIPTokenizer.from_pretrained(MODEL, subfolder="tokenizer")


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Make a word tokenizer with T5's special tokens: every caption ends with </s>, and pads follow."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def clip(width: int, pooled: bool, projection: int = 0) -> torch.nn.Module:
    """Make a two-layer CLIP text encoder, with or without a projection of its pooled output."""
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if pooled else CLIPTextModel)(config)


def t5(width: int) -> T5EncoderModel:
    """Make a one-layer T5 encoder."""
    config = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0
    )
    return T5EncoderModel(config)


TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} <|im_end|> {% endfor %}"
    "<|im_start|> assistant{% if enable_thinking is false %} <think>{% endif %}"
)


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Make a word tokenizer with Qwen's marks and chat template; Qwen-Image drops 34 tokens before a caption."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*marks, "user", "assistant", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    parts = [
        pre_tokenizers.Split(" ", "removed"),
        pre_tokenizers.Split("\n", "isolated"),
        pre_tokenizers.Punctuation(),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>", "<think>"],
        chat_template=TEMPLATE,
        model_max_length=4096,
    )


def qwen_sizes(width: int, layers: int) -> dict[str, object]:
    """Return the sizes that Qwen's language models share."""
    return {
        "vocab_size": len(qwen_tokenizer()),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def qwen_3(width: int, layers: int) -> Qwen3ForCausalLM:
    """Make a Qwen3."""
    return Qwen3ForCausalLM(Qwen3Config(head_dim=8, **qwen_sizes(width, layers))).eval()


def qwen_2_5_vl(width: int) -> Qwen2_5_VLForConditionalGeneration:
    """Make a Qwen2.5-VL of two layers, with an eye of one."""
    rope = {"type": "mrope", "mrope_section": [1, 1, 2]}
    eye = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": width}
    config = Qwen2_5_VLConfig(text_config={**qwen_sizes(width, 2), "rope_scaling": rope}, vision_config=eye)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


MISTRAL_TEMPLATE = (
    "<s>{% for message in messages %}{% if message['role'] == 'system' %} [SYS] {% else %} [INST] {% endif %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %} [/INST] {% endfor %}"
)


def pixtral_processor() -> PixtralProcessor:
    """Make a processor of images and words with a word tokenizer of Mistral's marks; every text begins with <s>."""
    marks = ["<pad>", "</s>", "<s>", "<unk>", "[SYS]", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    vocabulary = {token: index for index, token in enumerate([*marks, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
        additional_special_tokens=marks[4:],
        padding_side="left",
    )
    return PixtralProcessor(PixtralImageProcessor(), words, chat_template=MISTRAL_TEMPLATE)


def mistral_3(width: int, layers: int) -> Mistral3ForConditionalGeneration:
    """Make a Mistral 3, with an eye of one layer."""
    sizes = {name: value for name, value in qwen_sizes(width, layers).items() if not name.endswith("token_id")}
    text = {**sizes, "model_type": "mistral", "vocab_size": len(pixtral_processor().tokenizer), "head_dim": 8}
    eye = {"model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    eye |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14, "head_dim": 4}
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=eye)).eval()


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """Make a word tokenizer with Gemma's marks: every text begins with <bos>, and nothing ends it."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


def gemma_2(width: int) -> Gemma2Model:
    """Make a Gemma 2 of two layers."""
    config = Gemma2Config(
        vocab_size=len(gemma_tokenizer()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return Gemma2Model(config).eval()
