#!/usr/bin/env bash
# What happens: pipeline("a red star"), which every other text-to-image pipeline takes, gives FLUX.2's pipelines the text
#   as an image. They answer that neither prompt nor prompt_embeds was given.
# Versions: diffusers 0.42.1.
# Where: __call__ of Flux2Pipeline and Flux2KleinPipeline in diffusers/pipelines/flux2/ has image before prompt.
# Who meets it: whoever runs the usual line of a model card, or one script over pipelines of several families.
# Guess: prompt is the first parameter of every text-to-image pipeline. A model card's line failed in a test.
# Instead: name the parameter, pipeline(prompt="a red star").
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 accelerate numpy==2.4.6 pillow==13.0.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import inspect

import diffusers

names = ["StableDiffusionPipeline", "FluxPipeline", "QwenImagePipeline", "ZImagePipeline"]
names += ["Flux2Pipeline", "Flux2KleinPipeline"]
first = {name: list(inspect.signature(getattr(diffusers, name).__call__).parameters)[1] for name in names}

print(f"diffusers {diffusers.__version__}, first parameter of the call")
print("expected: prompt, of all")
for name, parameter in first.items():
    print(f"seen:     {parameter:<8} {name}")
if {first["Flux2Pipeline"], first["Flux2KleinPipeline"]} != {"image"} or first["FluxPipeline"] != "prompt":
    raise SystemExit("the behaviour has changed")
PYTHON
