#!/usr/bin/env bash
# What happens: open_clip loads weights for 77 tokens into a model with force_context_length=32 by stretching the 77
#   positions over 32, so every word of a short caption gets another place. In a small random model the embedding of "a red
#   cat" then has cosine 0.86 with the one before, and 0.96 with a context of 128. Cut off at 32 it stays the same.
# Versions: open_clip_torch 3.3.0, torch 2.13.0, torchvision 0.28.0.
# Where: `resize_text_pos_embed` in open_clip/model.py, which `load_checkpoint` calls; it says so at the log level INFO.
# Who meets it: a shorter context for speed, or a longer one for long captions: all scores change.
# Guess that was wrong: an error of the shapes, or the first positions are kept, which is the same for short captions, as
#   the text tower looks back alone.
# Instead: keep the context, and cut `model.positional_embedding` and `model.attn_mask` after loading.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 \
  open_clip_torch==3.3.0
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import json
from pathlib import Path

import torch

if torch.version.cuda is None:  # a torchvision built for CUDA asks for these operators, which nothing here calls
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import open_clip
from safetensors.torch import save_file

text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
vision = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
Path("small.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
open_clip.add_model_config("small.json")
torch.manual_seed(0)
model = open_clip.create_model("small").eval()
save_file(model.state_dict(), "weights.safetensors")
tokenizer = open_clip.get_tokenizer("small")


@torch.no_grad()
def embedding(of, length):
    return of.encode_text(tokenizer(["a red cat"], context_length=length))[0]


whole = embedding(model, 77)
loaded = {}
for length in (77, 32, 128):
    other = open_clip.create_model("small", pretrained="weights.safetensors", force_context_length=length).eval()
    loaded[length] = torch.cosine_similarity(embedding(other, length), whole, dim=0).item()
cut = open_clip.create_model("small", pretrained="weights.safetensors").eval()
cut.positional_embedding = torch.nn.Parameter(cut.positional_embedding[:32])
cut.attn_mask = cut.attn_mask[:32, :32]
kept = torch.cosine_similarity(embedding(cut, 32), whole, dim=0).item()
print(f"open_clip {open_clip.__version__}; cosine of a caption's embedding with that of context 77")
print("guess: an error, or 1.00")
print(f"seen:  {', '.join(f'{value:.2f} at {length}' for length, value in loaded.items())}; {kept:.2f} cut off at 32")
if loaded[77] < 0.999 or kept < 0.999 or loaded[32] > 0.95 or loaded[128] > 0.98:
    raise SystemExit("the behaviour has changed")
PYTHON
