"""Tiny random pipelines of the real classes: what the tests of backbones encode with, train, sample and score."""

from __future__ import annotations

from pathlib import Path

import torch

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from support.tiny_texts import (
    clip,
    clip_tokenizer,
    gemma_2,
    gemma_tokenizer,
    mistral_3,
    pixtral_processor,
    qwen_2_5_vl,
    qwen_3,
    qwen_tokenizer,
    t5,
    t5_tokenizer,
)

import diffusers  # isort: skip

OLDER = ("sd-v", "sdxl", "sdxl-turbo", "sd3", "sd3-without-t5", "flux")  # whose captions have CLIP's or T5's length
NEW = ("qwen-image", "z-image", "flux2-klein", "flux2-dev", "sana")  # whose captions go through a language model
KINDS = (*OLDER, *NEW)
TOKENS = dict.fromkeys(("sd3", "flux", *NEW), 77)  # that the tests give captions, where a number can be chosen
RESOLUTIONS = {"z-image": 64, "sana": 32}  # side in pixels of images whose latents have 8 x 8; 16 of all others


def vae(channels: int, shift: float | None = None, halvings: int = 1) -> diffusers.AutoencoderKL:
    """Make a VAE that halves the side; SD3's and FLUX's kind has a shift and no quant convolutions."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * (halvings + 1),
        down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
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


def qwen_image() -> diffusers.QwenImagePipeline:
    """Make Qwen-Image's kind: a VAE of videos that halves the side once, means per channel, shift, last level."""
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=4, z_dim=16, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True]
        ),
        text_encoder=qwen_2_5_vl(16),
        tokenizer=qwen_tokenizer(),
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=64,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(2, 2, 4),
        ),
    )


def z_image() -> diffusers.ZImagePipeline:
    """Make Z-Image's kind: shift 3, a VAE of three halvings, Qwen3's hidden states of 16, tokens that pad."""
    transformer = diffusers.ZImageTransformer2DModel(
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[2, 2, 4],
        axes_lens=[1024, 512, 512],
    )
    torch.nn.init.normal_(transformer.cap_pad_token)  # zeros, until trained
    torch.nn.init.normal_(transformer.x_pad_token)
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(16, shift=0.12, halvings=3),
        text_encoder=qwen_3(16, 3),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )


def flux2_vae() -> diffusers.AutoencoderKLFlux2:
    """Make FLUX.2's VAE, which halves the side once, with statistics of 2x2 squares of latents."""
    autoencoder = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=16,
    )
    autoencoder.bn.running_mean.uniform_(-0.5, 0.5)
    autoencoder.bn.running_var.uniform_(0.5, 2.0)
    return autoencoder


def flux2_network(guidance: bool) -> diffusers.Flux2Transformer2DModel:
    """Make a FLUX.2 of one double and two single blocks, which joins three texts of 16."""
    return diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=guidance,
    )


def flux2_klein() -> diffusers.Flux2KleinPipeline:
    """Make FLUX.2-klein's kind: three of Qwen3's 27 layers, no guidance."""
    return diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=qwen_3(16, 27),
        tokenizer=qwen_tokenizer(),
        transformer=flux2_network(guidance=False),
    )


def flux2_dev() -> diffusers.Flux2Pipeline:
    """Make FLUX.2-dev's kind: three of Mistral's 30 layers behind a processor of images, guidance."""
    return diffusers.Flux2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=mistral_3(16, 30),
        tokenizer=pixtral_processor(),
        transformer=flux2_network(guidance=True),
    )


def sana() -> diffusers.SanaPipeline:
    """Make Sana's kind: a VAE without a distribution that halves the side twice, flow_shift 3, no positions."""
    blocks = ("ResBlock", "ResBlock", "EfficientViTBlock")
    return diffusers.SanaPipeline(
        tokenizer=gemma_tokenizer(),
        text_encoder=gemma_2(16),
        vae=diffusers.AutoencoderDC(
            latent_channels=16,
            attention_head_dim=2,
            encoder_block_types=blocks,
            decoder_block_types=blocks,
            encoder_block_out_channels=(8, 8, 16),
            decoder_block_out_channels=(8, 8, 16),
            encoder_qkv_multiscales=((), (), (5,)),
            decoder_qkv_multiscales=((), (), (5,)),
            encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            scaling_factor=0.41407,
        ),
        transformer=diffusers.SanaTransformer2DModel(
            in_channels=16,
            out_channels=16,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=8,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
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
        "qwen-image": qwen_image,
        "z-image": z_image,
        "flux2-klein": flux2_klein,
        "flux2-dev": flux2_dev,
        "sana": sana,
    }
    make[kind]().save_pretrained(folder, safe_serialization=True)
    return folder
