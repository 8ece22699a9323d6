#!/usr/bin/env bash
# What happens: SanaPipeline turns every prompt into lower case, also with clean_caption=False, and so do its Sprint,
#   ControlNet and video pipelines and PixArt's. `a sign that says "OPEN"` and `... "open"` are one text for the network.
# Versions: diffusers 0.42.1.
# Where: _text_preprocessing in pipelines/sana/pipeline_sana.py: the branch without cleaning is text.lower().strip().
#   Only the calls go through it; a trainer that tokenizes captions itself does not.
# Who meets it: trainers that encode captions with the tokenizer and the text encoder themselves: their network sees
#   other text than the sampler feeds it wherever a caption has a capital. And whoever rates lettering.
# Guess that was wrong: with clean_caption=False the prompt goes to the tokenizer as it is. Gemma's vocabulary has capitals,
#   and the pipeline's own example asks for a sign that says "Sana".
# Instead: encode captions by the pipeline's encode_prompt, and count captions that differ in case alone as one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
import transformers
from diffusers import SanaPipeline
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

torch.manual_seed(0)
words = ["<pad>", "<unk>", "a", "sign", "that", "says", "OPEN", "open"]
tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
settings = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
text_encoder = Gemma2Model(Gemma2Config(vocab_size=len(words), num_key_value_heads=1, **settings)).eval()
pipeline = SanaPipeline(tokenizer, text_encoder, None, None, None)

prompts = ["a sign that says OPEN", "a sign that says open"]
told = [tokenizer(prompt).input_ids for prompt in prompts]
embedded = [pipeline.encode_prompt(prompt, False, clean_caption=False, max_sequence_length=8)[0] for prompt in prompts]
same = torch.equal(*embedded)

print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}")
print(f"the tokenizer itself: {told[0]} and {told[1]}")
print("guess: without clean_caption the two prompts give two texts")
print(f"seen:  the pipeline's embeddings are {'equal' if same else 'different'}")
if not same or told[0] == told[1]:
    raise SystemExit("the behaviour has changed")
PYTHON
