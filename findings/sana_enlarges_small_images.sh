#!/usr/bin/env bash
# What happens: SanaPipeline of a 512-pixel model returns images of 1024 pixels if it is told no size: it draws 512 and
#   enlarges them. Told 640 x 640, a 1024-pixel model draws 1024 and shrinks them. Told 928 x 1152, it draws another
#   shape, and squeezes and crops the image. Only latents of one's own escape the drawing, and these are resized, too.
# Versions: diffusers 0.42.1.
# Where: __call__ of pipelines/sana/pipeline_sana.py has height=1024, width=1024 whatever the model, and
#   use_resolution_binning=True: the nearest of a fixed list of shapes is drawn, and resize_and_crop_tensor follows.
# Who meets it: whoever draws pairs or validation images with Sana. Images that were enlarged go to raters and scorers,
#   or are encoded again; a bucket's latents come from images of another shape than the bucket.
# Guess that was wrong: without a size a pipeline draws sample_size times the VAE's factor, as Stable Diffusion does, and
#   with one it draws that size or refuses it.
# Instead: pipeline(..., height=H, width=W, use_resolution_binning=False) with multiples of 32.
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
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

diffusers.utils.logging.disable_progress_bar()


def pipeline_of(sample_size):
    """Make a tiny Sana whose latents stand for 32 x 32 pixels each."""
    sizes = (2, 2, 2, 2, 2, 4)
    kinds = ("ResBlock",) * 6
    vae = AutoencoderDC(
        latent_channels=4,
        encoder_block_types=kinds,
        decoder_block_types=kinds,
        encoder_block_out_channels=sizes,
        decoder_block_out_channels=sizes,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
    )
    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=1,
        attention_head_dim=4,
        num_layers=1,
        num_cross_attention_heads=1,
        cross_attention_head_dim=4,
        cross_attention_dim=4,
        caption_channels=4,
        sample_size=sample_size,
    )
    solver = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipeline = SanaPipeline(None, None, vae, network, solver)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(sample_size, **size):
    """Return the height and width that the network saw, in pixels, and those of the image."""
    pipeline = pipeline_of(sample_size)
    seen = []
    hook = lambda _, given, named: seen.append(tuple(32 * side for side in given[0].shape[2:]))
    pipeline.transformer.register_forward_pre_hook(hook, with_kwargs=True)
    text = {"prompt_embeds": torch.zeros(1, 2, 4), "prompt_attention_mask": torch.ones(1, 2)}
    image = pipeline(prompt=None, num_inference_steps=1, guidance_scale=1.0, output_type="pt", **text, **size).images[0]
    return seen[0], tuple(image.shape[1:])


print(f"torch {torch.__version__}, diffusers {diffusers.__version__}; height and width drawn, and returned")
cases = {
    "512-px model, no size": draw(16),
    "1024-px model, 640 x 640": draw(32, height=640, width=640),
    "1024-px model, 928 x 1152": draw(32, height=928, width=1152),
    "the same without binning": draw(32, height=928, width=1152, use_resolution_binning=False),
}
print("guess: (512, 512) both; (640, 640) both; (928, 1152) both")
for name, (drawn, returned) in cases.items():
    print(f"seen:  {name}: {drawn} drawn, {returned} returned")
expected = [
    ((512, 512), (1024, 1024)),
    ((1024, 1024), (640, 640)),
    ((896, 1088), (928, 1152)),
    ((928, 1152), (928, 1152)),
]
if list(cases.values()) != expected:
    raise SystemExit("the behaviour has changed")
PYTHON
