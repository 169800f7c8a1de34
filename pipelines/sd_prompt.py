"""Puts attributes into words, and words into what a unet with text conditioning reads."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.utils import USE_PEFT_BACKEND, scale_lora_layers, unscale_lora_layers

from .conditioning import ATTRIBUTE_NAMES, FIELDS, attribute_vector
from .inputs import repeat

Values = Mapping[str, float | None]

# Name, test, words: said in this order when the test holds.
PHRASES = (
    ("glasses", lambda v: v > 0.5, "wearing glasses"),
    ("facial_hair", lambda v: v > 0.5, "with a beard"),
    ("sunglasses", lambda v: v > 0.5, "wearing sunglasses"),
    ("smile", lambda v: v > 0.6, "smiling"),
    ("mouth_open", lambda v: v > 0.5, "mouth open"),
    ("eyes_open", lambda v: v < 0.25, "eyes closed"),
    ("brow_raise", lambda v: v > 0.8, "raised eyebrows"),
    ("yaw_deg", lambda v: v < -15, "head turned to the left"),
    ("yaw_deg", lambda v: v > 15, "head turned to the right"),
    ("pitch_deg", lambda v: v < -12, "head lowered"),
    ("pitch_deg", lambda v: v > 12, "head raised"),
    ("gaze_x", lambda v: v < -0.3, "looking left"),
    ("gaze_x", lambda v: v > 0.3, "looking right"),
    ("gaze_y", lambda v: v < -0.3, "looking down"),
    ("gaze_y", lambda v: v > 0.3, "looking up"),
    ("light_x", lambda v: v < -0.2, "soft light from the left"),
    ("light_x", lambda v: v > 0.2, "soft light from the right"),
    ("light_y", lambda v: v < -0.2, "light from below"),
    ("light_y", lambda v: v > 0.4, "light from above"),
)
# Individual typology angle in degrees, lower end of each class (Chardon et al. 1991).
SKIN = ((55, "very light"), (41, "light"), (28, "medium"), (10, "tan"), (-30, "brown"), (-91, "dark"))


def read_attributes(attributes: Any, batch: int) -> list[Values]:
    """One mapping for all, one a face, (B, 2A) of `attribute_vector`, or None -> one checked mapping a face.

    Raises:
        ValueError: another number of faces, an unknown name, or a value out of range.
    """
    if isinstance(attributes, torch.Tensor):
        if attributes.shape != (batch, 2 * len(FIELDS)):
            raise ValueError(f"attributes must be ({batch}, {2 * len(FIELDS)}), got {tuple(attributes.shape)}")
        return [values_of(row) for row in attributes.detach().float().cpu()]
    rows = [attributes or {}] * batch if isinstance(attributes, Mapping | None) else list(attributes)
    if len(rows) != batch:
        raise ValueError(f"need one mapping of attributes a face, got {len(rows)} for {batch} faces")
    attribute_vector(rows)  # its checks: unknown names, values out of range
    return rows


def values_of(row: torch.Tensor) -> dict[str, float]:
    """(2A,) scaled values and validity bits -> the valid ones by name, in real units."""
    scaled, valid = row.chunk(2)
    pairs = zip(ATTRIBUTE_NAMES, scaled.tolist(), valid.tolist(), strict=True)
    return {name: v * FIELDS[name].scale + FIELDS[name].centre for name, v, known in pairs if known > 0.5}


def describe(values: Values) -> str:
    """Attributes in real units -> "portrait photo of a 60 year old person, smiling, looking left"."""
    known = {name: value for name, value in values.items() if value is not None}
    age = f"{round(known['age'])} year old " if "age" in known else ""
    article = "an" if age[:1] == "8" or age[:2] in ("11", "18") else "a"
    words = [f"portrait photo of {article} {age}{noun(known)}", *skin_words(known)]
    words += [text for name, test, text in PHRASES if name in known and test(known[name])]
    return ", ".join(words)


def noun(known: Mapping[str, float]) -> str:
    """What to call a face of this presented gender and age; "person" unless it is plain."""
    male, young = known.get("male", 0.5), known.get("age", 35) < 14
    if male > 0.7:
        return "boy" if young else "man"
    if male < 0.3:
        return "girl" if young else "woman"
    return "child" if young else "person"


def skin_words(known: Mapping[str, float]) -> list[str]:
    """The class of the skin's individual typology angle, when lightness and yellowness are both known."""
    if "skin_l" not in known or "skin_b" not in known:
        return []
    angle = math.degrees(math.atan2(known["skin_l"] - 50, max(known["skin_b"], 1e-3)))
    return [next(f"{word} skin" for low, word in SKIN if angle > low)]


def write_prompts(prompt: str | Sequence[str] | None, values: Sequence[Values]) -> list[str]:
    """The caller's words, then what the attributes say: one text a face.

    Args:
        prompt: one for all, one a face, or None.
        values: of each face, in real units.

    Raises:
        ValueError: another number of prompts than faces.
    """
    # Bare attributes {} say only "portrait photo of a person", which the caller's own words say better.
    return [
        ", ".join(filter(None, (text, describe(v) if v or not text else "")))
        for text, v in zip(one_a_face(prompt, len(values), "prompt"), values, strict=True)
    ]


def one_a_face(texts: str | Sequence[str] | None, faces: int, name: str) -> list[str]:
    """One text for all, one a face, or None for empty ones -> one a face.

    Args:
        texts: as a caller gave them.
        faces: how many there are.
        name: of the argument, for the error.

    Raises:
        ValueError: another number of texts than faces.
    """
    found = [texts or ""] * faces if texts is None or isinstance(texts, str) else list(texts)
    if len(found) != faces:
        raise ValueError(f"need one {name}, or one a face: got {len(found)} for {faces} faces")
    return found


def encode(
    tokenizer: Any,
    text_encoder: torch.nn.Module,
    prompts: Sequence[str],
    device: torch.device | str,
    hidden: int | None = None,
) -> tuple[torch.Tensor, Any]:
    """Texts -> (B, T, C) token features and the encoder's whole output.

    Args:
        tokenizer, text_encoder: a CLIP pair.
        prompts: cut at the tokenizer's length.
        device: where the encoder runs.
        hidden: which hidden layer to read; None for the last one with its norm (Stable Diffusion 1), -2 for SDXL.
    """
    length = tokenizer.model_max_length
    tokens = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    output = text_encoder(tokens.input_ids.to(device), output_hidden_states=hidden is not None)
    return (output.last_hidden_state if hidden is None else output.hidden_states[hidden]), output


@contextmanager
def lora_scaled(text_encoders: Sequence[torch.nn.Module | None], scale: float | None) -> Iterator[None]:
    """Text encoders with their LoRA layers at another weight, for as long as it is open.

    Args:
        text_encoders: None among them are left out.
        scale: the weight; None leaves them as they are.
    """
    scaled = [model for model in text_encoders if model is not None and scale is not None and USE_PEFT_BACKEND]
    for model in scaled:
        scale_lora_layers(model, scale)
    try:
        yield
    finally:
        for model in scaled:
            unscale_lora_layers(model, scale)


class PromptEncoder:
    """Mixin of the pipelines: texts to embeds, by the `encode_texts` that each has."""

    # Of the pipeline that it becomes a part of.
    addition_embed_type: str | None
    encode_texts: Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
    _execution_device: torch.device

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        negative_pooled_prompt_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[torch.Tensor | None, ...]:
        """Texts -> what `__call__` takes as embeds; those that are given stay as they are.

        Args:
            prompt, negative_prompt: one text, or one a face.
            device: where the text encoders run; the pipeline's by default.
            num_images_per_prompt: copies of each, side by side.
            do_classifier_free_guidance: False for no negative embeds.
            prompt_embeds, negative_prompt_embeds: (B, T, C), instead of texts.
            pooled_prompt_embeds, negative_pooled_prompt_embeds: (B, P), SDXL only.
            lora_scale: weight of the text encoders' LoRA layers.
            clip_skip: layers of the text encoders that are left out at their end.

        Returns:
            prompt_embeds and negative_prompt_embeds; for SDXL then both pooled ones. None without guidance.

        Raises:
            ValueError: another number of negative prompts than of faces.
        """
        device = device or self._execution_device
        encoders = [getattr(self, name, None) for name in ("text_encoder", "text_encoder_2")]
        with lora_scaled(encoders, lora_scale):
            if prompt_embeds is None:
                prompts = [prompt or ""] if prompt is None or isinstance(prompt, str) else list(prompt)
                prompt_embeds, pooled_prompt_embeds = self.encode_texts(prompts, device, clip_skip)
            if do_classifier_free_guidance and negative_prompt_embeds is None:
                texts = one_a_face(negative_prompt, len(prompt_embeds), "negative_prompt")
                negative_prompt_embeds, negative_pooled_prompt_embeds = self.encode_texts(texts, device, clip_skip)
        if not do_classifier_free_guidance:
            negative_prompt_embeds = negative_pooled_prompt_embeds = None
        embeds = [prompt_embeds, negative_prompt_embeds]
        if self.addition_embed_type is not None:
            embeds += [pooled_prompt_embeds, negative_pooled_prompt_embeds]
        return tuple(repeat(value, num_images_per_prompt) for value in embeds)
