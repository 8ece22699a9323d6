#!/usr/bin/env bash
# What happens: compel weighs the words of "a (cat)1.3" and takes the marks out of the text, as it should. SDXL's pooled
#   embedding, which compel returns with it, is that of the literal text: brackets, figures and all. So a word's weight
#   changes the pooled embedding by other tokens, a weight of 1.0 too, and takes room of the 77 tokens.
# Versions: compel 2.5.1, transformers 5.23.0, torch 2.13.0.
# Where: `Compel.build_conditioning_tensor` in compel/compel.py passes the text as it was given to
#   `get_pooled_embeddings`. Reported as its issue 96.
# Who meets it: images for preference pairs or evaluations of SDXL that are drawn of weighted prompts. The pooled
#   embedding reaches every block of the network with the time.
# Guess that was wrong: the pooled embedding is that of the text without its marks.
# Instead: pool the plain text by the pipeline's `encode_prompt`, and take only the other embeddings from compel.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0 compel==2.5.1
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import importlib.metadata
import json
from pathlib import Path

import torch
from compel import Compel, ReturnedEmbeddingsType
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

# CLIP's layout in small: 256 bytes, the same with an end mark, merges, then the two marks of the text.
visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
letters = [chr(code) for code in visible] + [chr(256 + i) for i in range(256 - len(visible))]
merges = ["c a", "ca t</w>"]
words = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
words += ["<|startoftext|>", "<|endoftext|>"]
Path("vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
Path("merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": 77}
Path("tokenizer_config.json").write_text(json.dumps(settings))
tokenizer = CLIPTokenizer.from_pretrained(".")
torch.manual_seed(0)
encoder = CLIPTextModelWithProjection(CLIPTextConfig(
    vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    projection_dim=16, max_position_embeddings=77, bos_token_id=len(words) - 2, eos_token_id=len(words) - 1,
)).eval()
compel = Compel(
    tokenizer=tokenizer, text_encoder=encoder, requires_pooled=True,
    returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
)


@torch.no_grad()
def pooled_of(text):
    """Return the encoder's pooled embedding of a text as it stands."""
    ids = tokenizer(text, padding="max_length", return_tensors="pt").input_ids
    return encoder(ids).text_embeds


def apart(one, other):
    """Return the distance of two embeddings, as a share of the second."""
    return ((one - other).norm() / other.norm()).item()


plain = "a cat"
rows = []
with torch.no_grad():
    words_of_plain, pooled_plain = compel(plain)
    for weighted in ("a (cat)1.0", "a (cat)1.3"):
        embeddings, pooled = compel(weighted)
        rows.append((weighted, apart(embeddings, words_of_plain), apart(pooled, pooled_plain),
                     apart(pooled, pooled_of(weighted))))
print(f"compel {importlib.metadata.version('compel')}; pooled embedding against that of {plain!r}")
print("guess: 0.0% away, whatever the weight")
for weighted, of_words, away, literal in rows:
    print(f"seen:  {away:.1%} away for {weighted!r}, and {literal:.1%} from that of its literal text; "
          f"the words' embeddings move by {of_words:.1%}")
if apart(pooled_plain, pooled_of(plain)) > 1e-5 or rows[0][1] > 1e-5:
    raise SystemExit("the behaviour has changed")
if any(away < 0.01 or literal > 1e-5 for _, _, away, literal in rows):
    raise SystemExit("the behaviour has changed")
PYTHON
