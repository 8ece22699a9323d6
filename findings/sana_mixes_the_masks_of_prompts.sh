#!/usr/bin/env bash
# What happens: SanaPipeline is called with two prompts and num_images_per_prompt=2. The embeddings come in the order
#   first, first, second, second, and their masks in the order first, second, first, second. The second image of the
#   first prompt then reads padding as text, and the first image of the second prompt loses its last words. One prompt
#   at a time is right, and so is one image of each.
# Versions: diffusers 0.42.1, transformers 5.23.0.
# Where: encode_prompt in pipelines/sana/pipeline_sana.py repeats the embeddings within each prompt, and the mask as a
#   whole: mask.repeat(num_images_per_prompt, 1). Lumina2's encode_prompt does the same, as is shown. The same line stands
#   in Sana's ControlNet, Sprint and video pipelines, in HunyuanDiT, Kandinsky 3, LTX and Mochi, which were only read.
#   PixArt and Chroma repeat their masks rightly.
# Who meets it: images for preference pairs, as two images of each prompt in batches of prompts are the usual way to draw
#   them. One of the two images of each prompt is drawn under another prompt's mask, so raters compare unlike things.
# Guess that was wrong: image n of a batch is what the prompt alone gives with the same noise.
# Instead: name each prompt as often as images are wanted, with num_images_per_prompt=1.
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
from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, SanaPipeline, SanaTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

torch.manual_seed(0)
words = ["<pad>", "<unk>", "a", "red", "star", "above", "the", "sea"]
tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
settings = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
text_encoder = Gemma2Model(Gemma2Config(vocab_size=len(words), num_key_value_heads=1, **settings)).eval()
transformer = SanaTransformer2DModel(
    in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
    num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16, sample_size=8,
).eval()
pipeline = SanaPipeline(tokenizer, text_encoder, None, transformer, FlowMatchEulerDiscreteScheduler(shift=3.0))
pipeline.set_progress_bar_config(disable=True)
lumina = Lumina2Pipeline(None, FlowMatchEulerDiscreteScheduler(), None, text_encoder, tokenizer)


def draw(prompt, noise, images=1):
    """Return the latents that the pipeline draws from a given noise."""
    return pipeline(
        prompt, latents=noise.clone(), num_images_per_prompt=images, num_inference_steps=4, guidance_scale=1.0,
        height=256, width=256, use_resolution_binning=False, complex_human_instruction=None, max_sequence_length=8,
        clean_caption=False, output_type="latent",
    ).images


def tokens_seen(mask):
    """Return how many tokens each row of a mask lets through."""
    return mask.sum(1).tolist()


prompts = ["a star", "a red star above the sea"]
noise = torch.randn(4, 4, 8, 8)
together = draw(prompts, noise, images=2)
rows = []
for place in range(4):
    alone = draw(prompts[place // 2], noise[place : place + 1])[0]
    rows.append(((together[place] - alone).norm() / alone.norm()).item())
common = {"do_classifier_free_guidance": False, "num_images_per_prompt": 2}
sana_mask = pipeline.encode_prompt(prompts, clean_caption=False, max_sequence_length=8, **common)[1]
lumina_mask = lumina.encode_prompt(prompts, max_sequence_length=64, **common)[1]
one_each = draw(prompts, noise[::2])
right = max((one_each[place] - draw(prompts[place], noise[2 * place : 2 * place + 1])[0]).norm() for place in range(2))
print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}; prompts of 2 and 6 tokens, two images each")
print("guess: tokens read [2, 2, 6, 6]; each image as its prompt alone gives it")
print(f"seen:  tokens read by Sana {tokens_seen(sana_mask)}, by Lumina2 {tokens_seen(lumina_mask)} with its own text before")
print(f"       Sana's images differ from those of the prompt alone by {[f'{row:.1%}' for row in rows]}")
if tokens_seen(sana_mask) != [2, 6, 2, 6] or len(set(tokens_seen(lumina_mask)[:2])) != 2 or right > 1e-4:
    raise SystemExit("the behaviour has changed")
if max(rows[0], rows[3]) > 1e-4 or min(rows[1], rows[2]) < 1e-3:
    raise SystemExit("the behaviour has changed")
PYTHON
