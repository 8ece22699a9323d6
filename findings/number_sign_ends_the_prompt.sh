#!/usr/bin/env bash
# What happens: dynamicprompts takes "#" for the beginning of a comment: "a mug that says #1 dad" becomes "a mug that says
#   ", and "C# book" becomes "C". Nothing is said. "$" and "%" raise a ParseException, and braces are taken away.
# Versions: dynamicprompts 0.31.0.
# Where: dynamicprompts/parser/parse.py: literals end at "#", and what follows up to the end of the line is a comment.
# Who meets it: plain captions, of PartiPrompts for example, that are sent through a RandomPromptGenerator beside
#   templates. The image is drawn of the cut text, and judged by the whole one.
# Guess that was wrong: a prompt without braces comes back as it is.
# Instead: send only templates through it, and compare the text of the others.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check dynamicprompts==0.31.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

from dynamicprompts.generators import CombinatorialPromptGenerator, RandomPromptGenerator

prompts = ["a mug that says #1 dad", "C# book on a desk", "a cat // a dog", "a | b", "a price of $5", "50% grey", "a {red} star"]


def drawn(prompt):
    """Return what each generator makes of a prompt, or its error."""
    try:
        return RandomPromptGenerator().generate(prompt, 1)[0], next(iter(CombinatorialPromptGenerator().generate(prompt, 1)))
    except Exception as error:
        return type(error).__name__, type(error).__name__


found = {prompt: drawn(prompt) for prompt in prompts}
print(f"dynamicprompts {importlib.metadata.version('dynamicprompts')}")
print("guess: the prompts as they are")
for prompt, (random, combined) in found.items():
    print(f"seen:  {prompt!r} -> {random!r}, {combined!r}")
wanted = ["a mug that says ", "C", "a cat // a dog", "a | b", "ParseException", "ParseException", "a red star"]
if [list(pair) for pair in found.values()] != [[text, text] for text in wanted]:
    raise SystemExit("the behaviour has changed")
PYTHON
