#!/usr/bin/env bash
# What happens: FluxImg2ImgPipeline.from_pipe(first) turns the weights of `first` itself into float32. Both pipelines
#   share them, so a bfloat16 pipeline takes twice its memory afterwards and computes in float32, without a word.
#   AutoPipelineForImage2Image.from_pipe(first) leaves them in bfloat16. torch_dtype=None does not help.
# Versions: diffusers 0.42.1, torch 2.13.0, transformers 5.23.0.
# Where: DiffusionPipeline.from_pipe in diffusers/pipelines/pipeline_utils.py moves the new pipeline to torch_dtype, by
#   default float32; the components are the old pipeline's own objects.
# Who meets it: who draws with a trained pipeline and then makes edits (SDEdit) with the same weights.
# Guess that was wrong: the new pipeline shares the weights, and they stay as they are.
# Instead: name the dtype, from_pipe(first, torch_dtype=torch.bfloat16), or take the Auto class.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
    transformers==5.23.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers import AutoPipelineForImage2Image, FluxImg2ImgPipeline, FluxPipeline, FluxTransformer2DModel

diffusers.logging.set_verbosity_error()
ABSENT = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))


def first():
    network = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(**ABSENT, transformer=network.to(torch.bfloat16))


def dtype_after(make):
    pipeline = first()
    make(pipeline)
    return str(pipeline.transformer.dtype).removeprefix("torch.")


seen = [
    dtype_after(FluxImg2ImgPipeline.from_pipe),
    dtype_after(AutoPipelineForImage2Image.from_pipe),
    dtype_after(lambda one: FluxImg2ImgPipeline.from_pipe(one, torch_dtype=torch.bfloat16)),
]
print(f"torch {torch.__version__}, diffusers {diffusers.__version__}")
print("guess: the first pipeline's weights stay bfloat16 each time")
print(f"seen:  {seen[0]} after the class's from_pipe, {seen[1]} after the Auto class's, {seen[2]} with torch_dtype")
if seen != ["float32", "bfloat16", "bfloat16"]:
    raise SystemExit("the behaviour has changed")
PYTHON
