"""Tiny checkpoints of Stable Diffusion's safety checker, random but for one concept: red images."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from labelers.clips.safety_checker import SafetyChecker
from labelers.clips.transformers_clip import TransformersFiles

from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker  # isort: skip
from transformers import CLIPConfig, CLIPImageProcessorPil  # isort: skip

SIDE, RED_CONCEPT = 32, 5
RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def write_checker(folder: Path) -> Path:
    """Write a checker that flags red images by RED_CONCEPT, and neither green nor blue ones."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 8,
    }  # fmt: skip
    network = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8)).eval()
    for name, weight in network.named_parameters():
        if "embeds" not in name:
            weight.data = torch.randn_like(weight) / weight.shape[-1] ** 0.5
    for concepts in (network.concept_embeds, network.special_care_embeds):
        concepts.data = torch.randn_like(concepts)
    network.concept_embeds_weights.data.fill_(2.0)  # above any cosine: never shown
    network.special_care_embeds_weights.data.fill_(2.0)
    network.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder
    )
    red, *others = embeddings(folder, [Image.new("RGB", (64, 64), colour) for colour in (RED, GREEN, BLUE)])
    nearest = max(float(torch.cosine_similarity(red, other, 0)) for other in others)
    assert nearest < 0.99
    network.concept_embeds.data[RED_CONCEPT] = red
    network.concept_embeds_weights.data[RED_CONCEPT] = (1 + nearest) / 2
    network.save_pretrained(folder)
    return folder


def embeddings(folder: Path, images: list[Image.Image]) -> torch.Tensor:
    """Embed images by a checker's network, [B, 8]."""
    checkpoint = TransformersFiles(folder, folder)
    network = SafetyChecker(checkpoint, 1).network
    with torch.inference_mode():
        return network.visual_projection(
            network.vision_model(checkpoint.preprocess(images).to(network.device))[1]
        ).cpu()


def as_pipeline(folder: Path, target: Path) -> Path:
    """Lay a checker out as a diffusers pipeline of before transformers 5 has it: names one module deeper."""
    shutil.copytree(folder, target / "safety_checker")
    (target / "feature_extractor").mkdir()
    (target / "safety_checker/preprocessor_config.json").rename(target / "feature_extractor/preprocessor_config.json")
    path = target / "safety_checker/model.safetensors"
    state = {
        name.replace("vision_model.", "vision_model.vision_model."): value for name, value in load_file(path).items()
    }
    state["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(state, path)
    return target
