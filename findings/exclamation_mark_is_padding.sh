#!/usr/bin/env bash
# What happens: SDXL's second tokenizer pads with "!". That makes every "!" in a caption the padding token, number 0,
#   where the same vocabulary without this setting gives 256 ("!</w>"). "wow!!! a cat" gets three of them. They are not
#   masked, decoding drops them, and the two tokenizers of one pipeline read one caption differently.
# Versions: transformers 5.23.0, tokenizers 0.23.3.
# Where: a pad token is added as a special token, and special tokens are cut out of the text before the vocabulary's
#   merges see it (transformers/tokenization_utils_tokenizers.py and tokenizers' AddedVocabulary).
# Who meets it: people's prompts are full of "!". Embeddings of the second encoder differ from those of the code that
#   SDXL was trained with, which pads with 0 after tokenizing. Compared tokenizers must share this setting.
# Guess that was wrong: a pad token only fills the end; "!" in the text stays 256.
# Instead: encode with the pipeline that will draw, and never compare embeddings across tokenizers' settings.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
import tempfile
from pathlib import Path

import tokenizers
import transformers
from transformers import CLIPTokenizer

# CLIP's layout in small: 256 bytes, the same with an end mark, merges, then the two marks of the text.
visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
letters = [chr(code) for code in visible] + [chr(256 + i) for i in range(256 - len(visible))]
merges = ["c a", "ca t</w>", "w o", "wo w</w>"]
words = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
words += ["<|startoftext|>", "<|endoftext|>"]


def opened(pad):
    folder = Path(tempfile.mkdtemp())
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": pad, "model_max_length": 12}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder)


caption = "a cat!"
first = opened("<|endoftext|>")(caption, padding="max_length")
second = opened("!")(caption, padding="max_length")
back = opened("!").decode(second["input_ids"], skip_special_tokens=True)
print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}; {caption!r}")
print("guess: the mark's number is 256 in both; only the padding differs")
print(f"seen:  pad <|endoftext|>: {first['input_ids'][:5]}")
print(f"       pad !:             {second['input_ids'][:5]}, mask {second['attention_mask'][:5]}, decoded {back!r}")
if first["input_ids"][3] != 256 or second["input_ids"][3] != 0 or second["attention_mask"][3] != 1:
    raise SystemExit("the behaviour has changed")
PYTHON
