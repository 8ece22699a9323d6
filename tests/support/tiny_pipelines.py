"""Tiny random pipelines of the real classes: what the tests of backbones encode with, train, sample and score."""

from __future__ import annotations

from pathlib import Path

import torch

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from support.material import MODEL

import diffusers  # isort: skip
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

LENGTH = 16  # of the embedded world's CLIP tokenizer
KINDS = ("sd-v", "sdxl", "sdxl-turbo", "sd3", "sd3-without-t5", "flux")
WORDS = ["a", "big", "small", "red", "teal", "white", "black", "circle", "star", "cross", "ring", "on", "background"]


def clip_tokenizer() -> CLIPTokenizer:
    """Open the embedded world's tokenizer."""
    return CLIPTokenizer.from_pretrained(MODEL, subfolder="tokenizer")


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Make a word tokenizer with T5's special tokens: every caption ends with </s>, and pads follow."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def clip(width: int, pooled: bool, projection: int = 0) -> torch.nn.Module:
    """Make a two-layer CLIP text encoder, with or without a projection of its pooled output."""
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if pooled else CLIPTextModel)(config)


def t5(width: int) -> T5EncoderModel:
    """Make a one-layer T5 encoder."""
    config = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0
    )
    return T5EncoderModel(config)


def vae(channels: int, shift: float | None = None) -> diffusers.AutoencoderKL:
    """Make a VAE that halves the side once; SD3's and FLUX's kind has a shift and no quant convolutions."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=channels,
        sample_size=16,
        scaling_factor=1.5 if shift else 0.18,
        shift_factor=shift,
        use_quant_conv=not shift,
        use_post_quant_conv=not shift,
    )


def unet(cross: int, **settings: object) -> diffusers.UNet2DConditionModel:
    """Make a UNet of two levels for 8x8 latents."""
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=cross,
        **settings,
    )


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def stable_diffusion_v() -> diffusers.StableDiffusionPipeline:
    """Make SD2.1's kind: velocity, one text encoder."""
    return diffusers.StableDiffusionPipeline(
        vae=vae(4),
        text_encoder=clip(8, pooled=False),
        tokenizer=clip_tokenizer(),
        unet=unet(8),
        scheduler=diffusers.DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(turbo: bool) -> diffusers.StableDiffusionXLPipeline:
    """Make SDXL's kind: 8 and 12 wide encoders side by side, the second's 10 wide projection, six time ids of 4."""
    kind = diffusers.EulerAncestralDiscreteScheduler if turbo else diffusers.EulerDiscreteScheduler
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(4),
        text_encoder=clip(8, pooled=False),
        text_encoder_2=clip(12, pooled=True, projection=10),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            20,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=10 + 6 * 4,
            transformer_layers_per_block=(1, 1),
            use_linear_projection=True,
        ),
        scheduler=kind(**BETAS, timestep_spacing="trailing" if turbo else "leading"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def stable_diffusion_xl_refiner() -> diffusers.StableDiffusionXLImg2ImgPipeline:
    """Make SDXL's refiner's kind: the second text encoder alone, and an aesthetic score among five ids of 4."""
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=vae(4),
        text_encoder=None,
        text_encoder_2=clip(12, pooled=True, projection=10),
        tokenizer=None,
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            12,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=10 + 5 * 4,
            transformer_layers_per_block=(1, 1),
            use_linear_projection=True,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def stable_diffusion_3(with_t5: bool) -> diffusers.StableDiffusion3Pipeline:
    """Make SD3's kind: CLIPs of 8 and 12, padded to T5's 24; both pooled; 16 channels; shift 3."""
    return diffusers.StableDiffusion3Pipeline(
        vae=vae(16, shift=0.06),
        text_encoder=clip(8, pooled=True),
        text_encoder_2=clip(12, pooled=True),
        text_encoder_3=t5(24) if with_t5 else None,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer() if with_t5 else None,
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            num_layers=2,
            attention_head_dim=4,
            num_attention_heads=2,
            joint_attention_dim=24,
            caption_projection_dim=8,
            pooled_projection_dim=20,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux() -> diffusers.FluxPipeline:
    """Make FLUX.1-dev's kind: T5 of 24, CLIP's pooled 8, guidance, shift by the number of tokens."""
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(16, shift=0.12),
        text_encoder=clip(8, pooled=False),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(24),
        tokenizer_2=t5_tokenizer(),
        transformer=diffusers.FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=8,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        ),
    )


def write_pipeline(kind: str, folder: Path) -> Path:
    """Write a tiny pipeline as a diffusers folder, its random weights the same each time."""
    torch.manual_seed(0)
    make = {
        "sd-v": stable_diffusion_v,
        "sdxl": lambda: stable_diffusion_xl(turbo=False),
        "sdxl-turbo": lambda: stable_diffusion_xl(turbo=True),
        "sdxl-refiner": stable_diffusion_xl_refiner,
        "sd3": lambda: stable_diffusion_3(with_t5=True),
        "sd3-without-t5": lambda: stable_diffusion_3(with_t5=False),
        "flux": flux,
    }
    make[kind]().save_pretrained(folder, safe_serialization=True)
    return folder
