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
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

LENGTH = 16  # of the embedded world's CLIP tokenizer
KINDS = ("sd-v", "sdxl", "sdxl-turbo", "sd3", "sd3-without-t5", "flux", "qwen-image", "z-image", "flux2-klein")
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


TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} <|im_end|> {% endfor %}"
    "<|im_start|> assistant{% if enable_thinking is false %} <think>{% endif %}"
)


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Make a word tokenizer with Qwen's marks and chat template; Qwen-Image drops 34 tokens before a caption."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*marks, "user", "assistant", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    parts = [
        pre_tokenizers.Split(" ", "removed"),
        pre_tokenizers.Split("\n", "isolated"),
        pre_tokenizers.Punctuation(),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>", "<think>"],
        chat_template=TEMPLATE,
        model_max_length=4096,
    )


def qwen_sizes(width: int, layers: int) -> dict[str, object]:
    """Return the sizes that Qwen's language models share."""
    return {
        "vocab_size": len(qwen_tokenizer()),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def qwen_3(width: int, layers: int) -> Qwen3ForCausalLM:
    """Make a Qwen3."""
    return Qwen3ForCausalLM(Qwen3Config(head_dim=8, **qwen_sizes(width, layers))).eval()


def qwen_2_5_vl(width: int) -> Qwen2_5_VLForConditionalGeneration:
    """Make a Qwen2.5-VL of two layers, with an eye of one."""
    rope = {"type": "mrope", "mrope_section": [1, 1, 2]}
    eye = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": width}
    config = Qwen2_5_VLConfig(text_config={**qwen_sizes(width, 2), "rope_scaling": rope}, vision_config=eye)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


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


def flux2_klein() -> diffusers.Flux2KleinPipeline:
    """Make FLUX.2-klein's kind: statistics of 2x2 squares of latents, three of Qwen3's 27 layers of 16, both blocks."""
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
    return diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder,
        text_encoder=qwen_3(16, 27),
        tokenizer=qwen_tokenizer(),
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=16,
            axes_dims_rope=(2, 2, 2, 2),
            guidance_embeds=False,
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
    }
    make[kind]().save_pretrained(folder, safe_serialization=True)
    return folder
