"""Says what does not fit together, before a step is made: components, then the arguments of a call."""

from collections.abc import Sequence
from typing import Any

import torch

from .repulsion import Repulsion
from .schedule import prediction_kind


def check_components(pipe: Any, encodes: bool = True) -> None:
    """Refuses components that are not of one family.

    Args:
        pipe: of the Stable Diffusion family.
        encodes: whether it must read texts; False where all embeds are given.

    Raises:
        ValueError: what was wanted, what came, and what to do.
    """
    for name, component in pipe.components.items():
        needless = name in pipe._optional_components or (not encodes and name.startswith(("text_enc", "tokenizer")))
        if component is None and not needless:
            raise ValueError(f"the checkpoint must have a {name}, got none; load one and pass {name}=...")
    check_family(pipe, encodes)
    latent = pipe.vae.config.latent_channels
    unet = pipe.unet.config
    if unet.in_channels not in (latent, 2 * latent + 1) or unet.out_channels != latent:
        raise ValueError(
            f"for latents of {latent} channels the unet must read {latent} (text to image) or {2 * latent + 1} "
            f"(inpainting) and write {latent}, got {unet.in_channels} and {unet.out_channels}; take a unet and a vae "
            f"of the same checkpoint"
        )
    if pipe.preview_vae is not None and pipe.preview_vae.config.latent_channels != latent:
        raise ValueError(
            f"preview_vae must decode latents of {latent} channels, got {pipe.preview_vae.config.latent_channels}; "
            f"take the tiny autoencoder of this family"
        )
    if pipe.controlnet is not None:
        check_controlnet(pipe.controlnet.config, unet, latent)
    if unet.get("time_cond_proj_dim") is not None:
        raise ValueError(
            "the unet wants its guidance scale embedded (a distilled LCM unet), which is not built; use an LCM LoRA"
        )
    prediction_kind(pipe.scheduler)
    check_precision(pipe.unet.dtype, pipe._execution_device)


def check_family(pipe: Any, encodes: bool) -> None:
    """Refuses words that are not as wide as the unet reads them, and other extra conditions.

    Args:
        pipe: of the Stable Diffusion family.
        encodes: whether it must read texts.

    Raises:
        ValueError: they differ.
    """
    wants, kind = pipe.unet.config.cross_attention_dim, pipe.unet.config.get("addition_embed_type")
    if kind != pipe.addition_embed_type:
        family = {"text_time": "an SDXL unet: use StableDiffusionXLFaceInpaintPipeline (pipeline='sdxl')"}
        raise ValueError(
            f"{type(pipe).__name__} wants a unet with addition_embed_type {pipe.addition_embed_type!r}, got {kind!r}; "
            f"that is {family.get(kind, 'another family: use StableDiffusionFaceInpaintPipeline (pipeline=`sd`)')}"
        )
    if encodes and pipe.text_width != wants:
        raise ValueError(
            f"the unet reads words of width {wants}, the text encoders write {pipe.text_width}; "
            f"take both from one checkpoint"
        )


def check_controlnet(control: Any, unet: Any, latent: int) -> None:
    """A ControlNet is a copy of the unet's first half: widths and words must agree.

    Args:
        control, unet: configs of both.
        latent: channels of the latents.

    Raises:
        ValueError: they differ.
    """
    for name, wants in (
        ("cross_attention_dim", unet.cross_attention_dim),
        ("block_out_channels", unet.block_out_channels),
        ("in_channels", latent),
    ):
        got = control[name]
        if (tuple(got) if isinstance(got, list | tuple) else got) != (
            tuple(wants) if isinstance(wants, list | tuple) else wants
        ):
            raise ValueError(
                f"the ControlNet's {name} must be {wants} for this unet, got {got}; "
                f"take one trained for this base model"
            )


def check_precision(dtype: torch.dtype, device: torch.device) -> None:
    """Refuses a precision in which this processor has no convolution.

    Args:
        dtype: the unet's.
        device: where it runs; GPUs are not tried.

    Raises:
        ValueError: it has none.
    """
    if dtype == torch.float32 or torch.device(device).type != "cpu":
        return
    try:
        torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4, dtype=dtype), torch.ones(1, 1, 3, 3, dtype=dtype))
    except RuntimeError as error:
        raise ValueError(
            f"this CPU cannot run {dtype}: {error}; load with dtype=torch.float32 or use a GPU"
        ) from error


def check_identity(pipe: Any, repulsion: Repulsion, identity: torch.Tensor | None) -> None:
    """Repulsion and target identity need the identity encoder.

    Args:
        pipe: of the Stable Diffusion family.
        repulsion: scale 0 needs none.
        identity: (B, D), or None.

    Raises:
        ValueError: there is no identity encoder, or D is not its own.
    """
    wanted = [] if identity is None else ["identity"]
    if repulsion.scale > 0:
        wanted.append("repulsion")
    if wanted and pipe.id_encoder is None:
        raise ValueError(f"{' and '.join(wanted)} need the identity encoder; load with id_encoder=..., or pass None")
    dim = None if pipe.id_encoder is None else pipe.id_encoder.config.num_labels
    if identity is not None and (identity.ndim != 2 or identity.shape[1] != dim):
        raise ValueError(f"identity must be (B, {dim}) in the id_encoder's space, got {tuple(identity.shape)}")


def check_landmarks(pipe: Any, landmarks: Any) -> None:
    """Landmarks need a ControlNet that reads them.

    Args:
        pipe: of the Stable Diffusion family.
        landmarks: None needs nothing.

    Raises:
        ValueError: there is none.
    """
    if landmarks is not None and pipe.controlnet is None:
        raise ValueError(
            "landmarks need a face-landmark ControlNet; load with controlnet=..., or pass landmarks=None and leave "
            "the pose to the surroundings and the attributes"
        )


def check_embeds(
    pipe: Any, batch: int, words: Sequence[Any], given: Sequence[torch.Tensor | None], branch: str = ""
) -> None:
    """Words or embeds, not both; embeds in the shapes that the unet reads.

    Args:
        pipe: of the Stable Diffusion family.
        batch: faces.
        words: what the embeds would stand in for, None or empty where it was not given.
        given: embeds and pooled embeds, or None.
        branch: "" or "negative_".

    Raises:
        ValueError: both, other shapes, or pooled embeds that are missing or too many.
    """
    (embeds, pooled), pools = given, pipe.addition_embed_type is not None
    name, pooled_name = f"{branch}prompt_embeds", f"{branch}pooled_prompt_embeds"
    # Not by their truth: attributes may be a tensor.
    said = any(value is not None and not (isinstance(value, str) and value == "") for value in words)
    if embeds is not None and said:
        also = "" if branch else " and attributes"
        raise ValueError(f"{name} stand in for {branch}prompt{also}; pass one or the other")
    width = pipe.unet.config.cross_attention_dim
    if embeds is not None and (embeds.ndim != 3 or embeds.shape[0] != batch or embeds.shape[2] != width):
        raise ValueError(f"{name} must be ({batch}, T, {width}), got {tuple(embeds.shape)}")
    if pools and (embeds is None) != (pooled is None):
        raise ValueError(f"SDXL needs {name} and {pooled_name} together; `encode_prompt` gives both")
    if pooled is not None and not pools:
        raise ValueError(f"Stable Diffusion 1 reads no {pooled_name}; leave them out")
    if pooled is not None and len(pooled) != batch:
        raise ValueError(f"need one row of {pooled_name} a face, got {len(pooled)} for {batch} faces")


def check_image_embeds(unet: Any, embeds: Sequence[torch.Tensor] | None, batch: int) -> None:
    """IP-Adapter embeds and a unet that reads them come together.

    Args:
        unet: with an adapter or without.
        embeds: (B, N, D) an adapter, or None.
        batch: B.

    Raises:
        ValueError: one without the other, or another shape.
    """
    # diffusers sets it as an attribute of the config when an adapter is loaded, not as an item.
    reads = getattr(unet.config, "encoder_hid_dim_type", None) == "ip_image_proj"
    if embeds is None and reads:
        raise ValueError(
            "this unet holds an IP-Adapter and needs ip_adapter_image_embeds; pass them, or call unload_ip_adapter()"
        )
    if embeds is None:
        return
    if not reads:
        raise ValueError("ip_adapter_image_embeds need an IP-Adapter; call load_ip_adapter(...) first, or pass None")
    for number, value in enumerate(embeds):
        if value.ndim != 3 or len(value) != batch:
            raise ValueError(f"ip_adapter_image_embeds[{number}] must be ({batch}, N, D), got {tuple(value.shape)}")
