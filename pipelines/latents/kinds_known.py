"""The kinds of pipelines that are trained, one entry each: all that the rest of the project knows of a kind.

A new kind is one entry here, its class of training/backbones, which the entry names, and where its text is laid out in
a new way, a layout of text_columns.py. CONTRIBUTING.md says how.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

VAE = "vae"
VAE_CLASSES = ("AutoencoderKL",)
CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
T5_TOKENIZERS = ("T5Tokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
QWEN_TOKENIZERS = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
QWEN_3 = ("Qwen3Model", "Qwen3ForCausalLM")
GEMMA_TOKENIZERS = ("GemmaTokenizer", "GemmaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
# Schedulers whose noise levels DDPMScheduler makes too, from the same settings (training/backbones/diffusion.py).
DIFFUSION_SCHEDULERS = tuple(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "LMSDiscrete", "EulerDiscrete"),
        *("EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete"),
        *("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver", "LCM", "TCD"),
    )
)
FLOW_MATCH_SCHEDULERS = tuple(f"FlowMatch{name}Scheduler" for name in ("EulerDiscrete", "HeunDiscrete", "LCM"))
# These sample a flow with use_flow_sigmas, and call its shift flow_shift.
SOLVERS_OF_FLOWS = tuple(
    f"{name}Scheduler"
    for name in ("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver")
)
FLOW_SCHEDULERS = (*FLOW_MATCH_SCHEDULERS, *SOLVERS_OF_FLOWS)
# Ends of the names of attention projections, of which a network has some: those of UNets and of transformers' images,
# then those of the text's side of transformers.
ATTENTION = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
)
# FLUX.2's single blocks compute their projections together with the first half of the feed-forward layer.
FLUX_2_LORA = (*ATTENTION, "to_qkv_mlp_proj", "attn.to_out")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is known of a pipeline by its class."""

    network: str  # the part that is trained
    parts: Mapping[str, tuple[str, ...]]  # the classes of each of its parts that are known
    backbone: str  # what trains it: a module and a class of training/backbones
    text: str  # how its captions become columns, by its name in text_columns.LAYOUTS
    text_encoders: tuple[str, ...]  # in the pipeline's own order
    sized: str | None = None  # which of them gives captions a length that can be chosen: a T5 or a language model
    sized_optional: bool = False  # its place may be filled with zeros
    tokens: int = 0  # diffusers' own length
    patch: int = 1  # side of the patches that the network cuts the VAE's latents into
    shift_steps: int = 0  # sampling steps that the shift of the noise levels is taken at, where it depends on them
    packed: int = 1  # channels of the VAE's own latent's squares that the network is given as one token's
    variants: tuple[tuple[str, Any, str], ...] = ()  # settings of a variant's network: name, value here, whose it is
    optional: tuple[str, ...] = ()  # parts that may lack, beyond those that diffusers calls so
    resolution: int = 0  # side of the images in pixels, where no part's settings tell
    binned: bool = False  # it draws at one of its own shapes and resizes, unless use_resolution_binning=False is given
    templated: bool = False  # captions are put into a chat template that the tokenizer's files hold
    lora: tuple[str, ...] = ATTENTION  # ends of the names of the layers that get adapters, where none are chosen

    def frozen(self, with_sized: bool = True) -> tuple[str, ...]:
        """Name the parts whose outputs a store holds."""
        return (VAE, *(name for name in self.text_encoders if with_sized or name != self.sized))

    def frozen_in(self, store: Collection[str]) -> tuple[str, ...]:
        """Name the parts that a store must hold the outputs of, by those that it names; only SD3's T5 may lack."""
        return self.frozen(with_sized=self.sized in store or not self.sized_optional)


KINDS = {
    "StableDiffusionPipeline": Kind(
        network="unet",
        text_encoders=("text_encoder",),
        parts={
            "scheduler": DIFFUSION_SCHEDULERS,
            "vae": VAE_CLASSES,
            "unet": ("UNet2DConditionModel",),
            "text_encoder": ("CLIPTextModel",),
            "tokenizer": CLIP_TOKENIZERS,
        },
        backbone="training.backbones.diffusion:StableDiffusion",
        text="clip",
    ),
    "StableDiffusionXLPipeline": Kind(
        network="unet",
        text_encoders=("text_encoder", "text_encoder_2"),
        parts={
            "scheduler": DIFFUSION_SCHEDULERS,
            "vae": VAE_CLASSES,
            "unet": ("UNet2DConditionModel",),
            "text_encoder": ("CLIPTextModel",),
            "text_encoder_2": ("CLIPTextModelWithProjection",),
            "tokenizer": CLIP_TOKENIZERS,
            "tokenizer_2": CLIP_TOKENIZERS,
        },
        backbone="training.backbones.diffusion:StableDiffusionXL",
        text="two-clips",
    ),
    "StableDiffusion3Pipeline": Kind(
        network="transformer",
        text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
        sized="text_encoder_3",
        sized_optional=True,
        tokens=256,
        patch=2,
        parts={
            "scheduler": FLOW_SCHEDULERS,
            "vae": VAE_CLASSES,
            "transformer": ("SD3Transformer2DModel",),
            "text_encoder": ("CLIPTextModelWithProjection",),
            "text_encoder_2": ("CLIPTextModelWithProjection",),
            "text_encoder_3": ("T5EncoderModel",),
            "tokenizer": CLIP_TOKENIZERS,
            "tokenizer_2": CLIP_TOKENIZERS,
            "tokenizer_3": T5_TOKENIZERS,
        },
        backbone="training.backbones.flow:StableDiffusion3",
        text="clips-and-t5",
        optional=("text_encoder_3", "tokenizer_3"),
    ),
    "FluxPipeline": Kind(
        network="transformer",
        text_encoders=("text_encoder", "text_encoder_2"),
        sized="text_encoder_2",
        tokens=512,
        patch=2,
        parts={
            "scheduler": FLOW_SCHEDULERS,
            "vae": VAE_CLASSES,
            "transformer": ("FluxTransformer2DModel",),
            "text_encoder": ("CLIPTextModel",),
            "text_encoder_2": ("T5EncoderModel",),
            "tokenizer": CLIP_TOKENIZERS,
            "tokenizer_2": T5_TOKENIZERS,
        },
        backbone="training.backbones.flow:Flux",
        text="pooled-and-t5",
        packed=4,
    ),
    "QwenImagePipeline": Kind(
        network="transformer",
        text_encoders=("text_encoder",),
        sized="text_encoder",
        tokens=512,
        patch=2,
        parts={
            "scheduler": FLOW_SCHEDULERS,
            "vae": ("AutoencoderKLQwenImage",),
            "transformer": ("QwenImageTransformer2DModel",),
            "text_encoder": ("Qwen2_5_VLForConditionalGeneration",),
            "tokenizer": QWEN_TOKENIZERS,
        },
        backbone="training.backbones.qwen_image:QwenImage",
        text="qwen-image",
        packed=4,
        variants=(
            ("guidance_embeds", False, "a model that is told its guidance"),
            ("zero_cond_t", False, "an edit model"),
            ("use_additional_t_cond", False, "a layered model"),
            ("use_layer3d_rope", False, "a layered model"),
        ),
    ),
    "ZImagePipeline": Kind(
        network="transformer",
        text_encoders=("text_encoder",),
        sized="text_encoder",
        tokens=512,
        patch=2,
        resolution=1024,
        parts={
            "scheduler": FLOW_SCHEDULERS,
            "vae": VAE_CLASSES,
            "transformer": ("ZImageTransformer2DModel",),
            "text_encoder": QWEN_3,
            "tokenizer": QWEN_TOKENIZERS,
        },
        backbone="training.backbones.z_image:ZImage",
        text="z-image",
        templated=True,
        variants=(("siglip_feat_dim", None, "the Omni model, which sees images beside the words"),),
    ),
    "Flux2KleinPipeline": Kind(
        network="transformer",
        text_encoders=("text_encoder",),
        sized="text_encoder",
        tokens=512,
        patch=2,
        shift_steps=50,  # diffusers' own number
        parts={
            "scheduler": FLOW_SCHEDULERS,
            "vae": ("AutoencoderKLFlux2",),
            "transformer": ("Flux2Transformer2DModel",),
            "text_encoder": QWEN_3,
            "tokenizer": QWEN_TOKENIZERS,
        },
        backbone="training.backbones.flux2:Flux2Klein",
        text="flux2-klein",
        packed=4,
        templated=True,
        lora=FLUX_2_LORA,
        variants=(("guidance_embeds", False, "FLUX.2 [dev], which is told its guidance and is a Flux2Pipeline"),),
    ),
    "Flux2Pipeline": Kind(
        network="transformer",
        text_encoders=("text_encoder",),
        sized="text_encoder",
        tokens=512,
        patch=2,
        shift_steps=50,  # diffusers' own number
        parts={
            "scheduler": FLOW_SCHEDULERS,
            "vae": ("AutoencoderKLFlux2",),
            "transformer": ("Flux2Transformer2DModel",),
            "text_encoder": ("Mistral3ForConditionalGeneration",),
            "tokenizer": ("PixtralProcessor",),
        },
        backbone="training.backbones.flux2:Flux2Dev",
        text="flux2-dev",
        packed=4,
        templated=True,
        lora=FLUX_2_LORA,
        variants=(("guidance_embeds", True, "FLUX.2 [klein], whose class is Flux2KleinPipeline"),),
    ),
    "SanaPipeline": Kind(
        network="transformer",
        text_encoders=("text_encoder",),
        sized="text_encoder",
        tokens=300,
        parts={
            "scheduler": FLOW_SCHEDULERS,
            "vae": ("AutoencoderDC",),
            "transformer": ("SanaTransformer2DModel",),
            "text_encoder": ("Gemma2Model",),
            "tokenizer": GEMMA_TOKENIZERS,
        },
        backbone="training.backbones.sana:Sana",
        text="sana",
        binned=True,
        variants=(("guidance_embeds", False, "Sana-Sprint, which is told its guidance"),),
    ),
}
