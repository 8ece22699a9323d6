#!/usr/bin/env bash
# What happens: where a CLIP's config says `eos_token_id: 2`, the pooled embedding is taken at the largest token number.
#   A word added by textual inversion has a larger number than the end mark. The pooled text is then the added word's,
#   and nothing after it counts.
# Versions: transformers 5.23.0.
# Where: transformers/models/clip/modeling_clip.py keeps the older way (argmax of the numbers) for a config of 2.
# Who meets it: both text encoders of published SDXL folders say 2, and SDXL conditions on the second one's pooled
#   text. Prompts with a learned word, and stores encoded by such a folder, lose the rest of the caption there.
# Guess that was wrong: pooling finds the end mark of the tokenizer, whatever the config of five years ago says.
# Instead: set `eos_token_id` of the config to the tokenizer's before adding words; then the end mark is found.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

START, END, ADDED = 49406, 49407, 49408
caption = torch.tensor([[START, 320, ADDED, 2368, END, END]])  # "a <learned> cat", padded with the end mark


def place_of_the_pooled_text(eos_token_id):
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=49409,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        eos_token_id=eos_token_id,
    )
    model = CLIPTextModelWithProjection(config).eval()
    with torch.no_grad():
        output = model(caption)
        places = model.text_projection(output.last_hidden_state)[0]
    return int((places - output.text_embeds[0]).abs().amax(dim=1).argmin())


old, new = place_of_the_pooled_text(2), place_of_the_pooled_text(END)
print(f"transformers {transformers.__version__}; tokens {caption[0].tolist()}")
print("guess: pooled at the end mark, place 4, in both")
print(f"seen:  eos_token_id 2: place {old}, the added word;  eos_token_id {END}: place {new}")
if (old, new) != (2, 4):
    raise SystemExit("the behaviour has changed")
PYTHON
