#!/usr/bin/env bash
# What happens: transformers' CLIPTokenizer and open_clip's tokenizer, with the same vocabulary, give different token
#   numbers for captions as people type them: a curly apostrophe or quotation mark, HTML entities, ligatures.
# Versions: transformers 5.23.0, open_clip_torch 3.3.0.
# Where: open_clip's basic_clean (open_clip/tokenizer.py) runs ftfy and html.unescape twice; transformers' converter
#   normalises to NFC, squeezes white space, lowers the case and does no more.
# Who meets it: PickScore reads captions through transformers, HPSv2 and CLIP through open_clip. Phones and word
#   processors type the curly apostrophe, so the judges read different texts, and one model moved from one library to
#   the other scores differently.
# Guess that was wrong: one vocabulary, one list of numbers.
# Instead: use the tokenizer that a scorer's published figures come from; clean captions once, before all scorers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 ftfy==6.3.1 regex==2026.11.15
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps open_clip_torch==3.3.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import gzip
import importlib.metadata
import importlib.util
from pathlib import Path

from transformers import CLIPTokenizer

# The tokenizer's file alone: the package itself wants torchvision, which plays no part here.
room = Path(str(importlib.metadata.distribution("open_clip_torch").locate_file("open_clip")))
spec = importlib.util.spec_from_file_location("open_clip_tokenizer", room / "tokenizer.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
theirs = module.SimpleTokenizer()

marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
vocabulary = {marks.get(word, word): number for word, number in theirs.encoder.items()}
lines = gzip.open(room / "bpe_simple_vocab_16e6.txt.gz").read().decode().split("\n")
merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
ours = CLIPTokenizer(vocab=vocabulary, merges=merges)

captions = ["a cat", "it's a dog", "it’s a dog", "“smart” quotes", "Tom &amp; Jerry", "ﬁne art", "café, 1920's"]
names = {package: importlib.metadata.version(package) for package in ("transformers", "open_clip_torch")}
print(names)
print("guess: the same numbers for every caption")
different = []
for caption in captions:
    left = ours(caption)["input_ids"][1:-1]
    right = theirs.encode(caption)
    if left != right:
        different.append(caption)
    print(f"seen:  {caption!r:18} {'same' if left == right else 'different'}  {left}  {right}")
if different != ["it’s a dog", "“smart” quotes", "Tom &amp; Jerry", "ﬁne art"]:
    raise SystemExit("the behaviour has changed")
PYTHON
