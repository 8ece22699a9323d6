#!/usr/bin/env bash
# What happens: one network draws other images through PNDM when it predicts velocities than when it predicts the same
#   thing as noise. With DDIM, Euler, DPM-Solver and UniPC the two are equal but for rounding.
# Versions: diffusers 0.42.1.
# Where: step_plms of scheduling_pndm.py adds up the model's outputs of several timesteps, with weights, and
#   _get_prev_sample then turns the sum into noise with the sample and the noise level of one timestep. Velocities of
#   different timesteps have different shares of image and noise. UniPC's convert_model_output turns each by itself.
# Who meets it: models of velocities in SD1.5's or SD2's kind that are drawn with PNDM, which SD1.5's files name, and
#   comparisons of such a model with one that predicts noise.
# Guess that was wrong: a scheduler turns the prediction into one form first, so its form does not matter.
# Instead: DDIM, Euler or DPM-Solver for models of velocities.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { tail -n 5 log >&2; exit 1; }
import diffusers
import torch

torch.manual_seed(0)
noise = torch.randn(1, 4, 32, 32)
middle = torch.randn(1, 4, 32, 32)
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
levels = (1 - torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)).sqrt()


def predict(sample, timestep, form):
    """Return what the best network for images spread by 0.5 around one predicts, in one of two forms."""
    place = float(timestep)
    low = int(place)
    level = levels[low] + (place - low) * (levels[min(low + 1, 999)] - levels[low])
    signal = (1 - level**2).sqrt()
    expected = level * (sample - signal * middle) / (level**2 + 0.25 * signal**2)
    if form == "epsilon":
        return expected
    return (expected - level * sample) / signal


def draw(name, form, **settings):
    """Return what a scheduler makes of the noise in 20 steps."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(**SCHEDULE, prediction_type=form, **settings)
    scheduler.set_timesteps(20)
    sample = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        given = scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(predict(given, timestep, form), timestep, sample, return_dict=False)[0]
    return sample


def apart(name, **settings):
    """Return how far apart the two forms' images are, as a share of them."""
    one = draw(name, "epsilon", **settings)
    other = draw(name, "v_prediction", **settings)
    return ((one - other).norm() / one.norm()).item()


others = {name: apart(name) for name in ("DDIM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep")}
plain = apart("PNDM", skip_prk_steps=True)
prk = apart("PNDM")
print(f"diffusers {diffusers.__version__}; the same network as noise and as velocity, 20 steps")
print("guess: equal but for rounding, with each scheduler")
print("seen:  " + ", ".join(f"{name} {share:.4%}" for name, share in others.items()))
print(f"       PNDM {plain:.1%} with skip_prk_steps, as SD's files have it, and {prk:.1%} without")
if max(others.values()) > 1e-3 or plain < 0.005:
    raise SystemExit("the behaviour has changed")
PYTHON
