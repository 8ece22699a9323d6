#!/usr/bin/env bash
# What happens: clip_skip=1 of SDXL's and SD3's pipelines takes an earlier layer for the prompt and not for the negative
#   prompt. With the same words as prompt and as negative prompt, guidance should do nothing: the two embeddings
#   are equal without clip_skip, and differ with it.
# Versions: diffusers 0.42.1, transformers 5.23.0.
# Where: encode_prompt in pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py reads clip_skip for the prompt
#   alone, and that of pipelines/stable_diffusion_3/pipeline_stable_diffusion_3.py passes None for the negative prompt.
#   SD1.5's also reads it for the prompt alone; with transformers 5.23.0 it raises an AttributeError first.
# Who meets it: models that were trained on an earlier layer than their kind is. Their trainers take this layer for
#   every caption, the empty one of caption dropout too, which is the prompt that guidance moves away from. The pipeline
#   then gives the network an embedding that it never saw.
# Guess that was wrong: both prompts are read from the same layer.
# Instead: encode both texts as prompts with encode_prompt(..., clip_skip=1, do_classifier_free_guidance=False), and pass
#   prompt_embeds and negative_prompt_embeds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import diffusers
import torch
import transformers
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerFast

torch.manual_seed(0)
words = ["<pad>", "<end>", "<unk>", "a", "red", "star"]
tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=8
)
config = CLIPTextConfig(
    vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
    projection_dim=16, max_position_embeddings=8, bos_token_id=0, eos_token_id=1,
)
one, two = CLIPTextModel(config).eval(), CLIPTextModelWithProjection(config).eval()
sd15 = StableDiffusionPipeline(None, one, tokenizer, None, None, None, None, requires_safety_checker=False)
network = SD3Transformer2DModel(
    sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
    num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
)
pipelines = {
    "SDXL": StableDiffusionXLPipeline(None, one, two, tokenizer, tokenizer, None, None),
    "SD3": StableDiffusion3Pipeline(network, None, None, two, tokenizer, two, tokenizer, None, None),
}


@torch.no_grad()
def apart(pipeline, clip_skip):
    """Return how far the embeddings of the same words are apart as prompt and as negative prompt."""
    text = "a red star"
    arguments = {"negative_prompt": text, "num_images_per_prompt": 1, "clip_skip": clip_skip, "device": "cpu"}
    if isinstance(pipeline, StableDiffusion3Pipeline):
        arguments |= {"prompt_2": None, "prompt_3": None}
    prompt, negative, *_ = pipeline.encode_prompt(text, do_classifier_free_guidance=True, **arguments)
    return ((prompt - negative).norm() / prompt.norm()).item()


print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}; the same words as prompt and negative prompt")
print("guess: the two embeddings are equal, with and without clip_skip")
seen = {name: [apart(pipeline, clip_skip) for clip_skip in (None, 1)] for name, pipeline in pipelines.items()}
for name, (without, skipped) in seen.items():
    print(f"seen:  {name}: {without:.1%} apart without clip_skip, {skipped:.1%} with clip_skip=1")
try:
    sd15.encode_prompt("a red star", "cpu", 1, False, clip_skip=1)
    raised = None
except AttributeError as error:
    raised = type(error).__name__
print(f"       SD1.5 raises {raised}")
if raised is None or any(without > 1e-6 or skipped < 0.01 for without, skipped in seen.values()):
    raise SystemExit("the behaviour has changed")
PYTHON
