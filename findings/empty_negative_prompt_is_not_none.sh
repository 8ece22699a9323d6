#!/usr/bin/env bash
# What happens: on an SDXL folder with `force_zeros_for_empty_prompt: true`, as the base model has it, no negative prompt
#   gives zeros and `negative_prompt=""` gives the encoded empty text. The two draw different images from one seed. An
#   empty *prompt* is encoded in both cases, so zeros are never what the network was conditioned on there.
# Versions: diffusers 0.42.1, transformers 5.23.0.
# Where: `encode_prompt` in diffusers/pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py asks for
#   `negative_prompt is None`, in spite of the setting's name.
# Who meets it: two tools that draw the same prompts for a win rate, one of which passes "" as a default (web interfaces
#   and batch scripts do), compare guidance as well as models.
# Guess that was wrong: an empty negative prompt and none are the same.
# Instead: pass the same one of the two for every model of a comparison, and note which.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import json
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

torch.manual_seed(0)
letters = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256)]]
letters += [chr(256 + number) for number in range(256 - len(letters))]
words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
Path("vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
Path("merges.txt").write_text("#version: 0.2\n")
Path("tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16}))
tokenizer = CLIPTokenizer.from_pretrained(".")
text = CLIPTextConfig(
    vocab_size=len(words),
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=16,
    projection_dim=16,
    bos_token_id=len(words) - 2,
    eos_token_id=len(words) - 1,
)
unet = UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(32, 32),
    layers_per_block=1,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=32,
    attention_head_dim=8,
    norm_num_groups=8,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=16 + 6 * 8,
)
pipeline = StableDiffusionXLPipeline(
    vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4),
    text_encoder=CLIPTextModel(text),
    text_encoder_2=CLIPTextModelWithProjection(text),
    tokenizer=tokenizer,
    tokenizer_2=tokenizer,
    unet=unet,
    scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    force_zeros_for_empty_prompt=True,  # as the published folder has it
    add_watermarker=False,
)
pipeline.set_progress_bar_config(disable=True)


def drawn(**settings):
    """Return the latents drawn from one seed."""
    noise = torch.Generator().manual_seed(7)
    return pipeline("cat", num_inference_steps=4, output_type="latent", generator=noise, **settings).images


def size(**settings):
    """Return the largest value of the text that guidance leads away from."""
    return pipeline.encode_prompt("cat", do_classifier_free_guidance=True, **settings)[1].abs().max().item()


apart = (drawn() - drawn(negative_prompt="")).abs().max().item()
print(f"diffusers {diffusers.__version__}")
print('guess: no negative prompt and "" give the same text and the same image')
print(f'seen:  largest value of the text: {size():.2f} and {size(negative_prompt=""):.2f}; latents {apart:.3f} apart')
if size() != 0 or size(negative_prompt="") == 0 or apart < 1e-3:
    raise SystemExit("the behaviour has changed")
PYTHON
