#!/usr/bin/env bash
# What happens: CLIPImageProcessor given a float picture in [0, 1] divides it by 255 once more and says nothing. What
#   the model sees is nearly black: its spread falls to 0.004 of what it was. Scores come out, all close together.
# Versions: transformers 5.23.0, without torchvision and with it.
# Where: do_rescale is on by default and unconditional. Up to transformers 4 the processor looked whether the picture
#   was scaled already and warned.
# Who meets it: a pipeline's output_type="np" or "pt" is float in [0, 1], and rewards are computed from it in the loop.
#   PickScore then judges black pictures; win rates look like chance.
# Guess that was wrong: it warns, as it did.
# Instead: do_rescale=False for floats, or hand over PIL or uint8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
import transformers
from transformers import CLIPImageProcessor

said = []
logger = transformers.utils.logging.get_logger("transformers")
logger.addFilter(lambda record: said.append(record.getMessage()) or True)
transformers.utils.logging.set_verbosity_info()
small = {"shortest_edge": 32}
crop = {"height": 32, "width": 32}
processor = CLIPImageProcessor(size=small, crop_size=crop)
said.clear()
pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    right = processor(pixels, return_tensors="np")["pixel_values"][0]
    floats = processor((pixels / 255).astype(np.float32), return_tensors="np")["pixel_values"][0]
spread = [float(part.std(axis=(1, 2)).mean()) for part in (right, floats)]
heard = [str(one.message) for one in warned] + said

print(f"transformers {transformers.__version__}, {type(processor).__mro__[1].__name__}")
print("guess: a warning that the picture was scaled already")
print(f"seen:  spread {spread[0]:.4f} from uint8, {spread[1]:.4f} from the same as floats; heard {heard}")
if spread[1] > 0.01 * spread[0] or heard:
    raise SystemExit("the behaviour has changed")
PYTHON
