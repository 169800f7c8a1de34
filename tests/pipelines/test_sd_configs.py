"""Shapes of the published full-size checkpoints, end to end, on the meta device: nothing is computed or stored."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from deid_diffusion.pipelines.inputs import Crops
from deid_diffusion.pipelines.repulsion import Repulsion
from deid_diffusion.pipelines.sd_checks import check_components
from deid_diffusion.pipelines.sd_face_inpaint import StableDiffusionFaceInpaintPipeline
from deid_diffusion.pipelines.sdxl_face_inpaint import StableDiffusionXLFaceInpaintPipeline
from tests.pipelines.sd_models import id_encoder, mesh, scheduler, tokenizer

FACTS = json.loads((Path(__file__).parent / "sd_published.json").read_text())
MAKERS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "controlnet": ControlNetModel,
    "preview_vae": AutoencoderTiny,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


@cache
def component(checkpoint: str, name: str) -> torch.nn.Module:
    config = FACTS[checkpoint][name]
    with torch.device("meta"):
        if name.startswith("text_encoder"):
            return MAKERS[name](CLIPTextConfig(**config))
        return MAKERS[name].from_config(config)


def build(checkpoint: str, folder: Path, controlnet: str | None = None):
    parts = {name: component(checkpoint, name) for name in MAKERS if name in FACTS[checkpoint]}
    words = tokenizer(folder)
    parts |= {"tokenizer": words, "scheduler": scheduler(), "preview_vae": component("taesd", "preview_vae")}
    parts["id_encoder"] = id_encoder().to("meta")
    if controlnet is not None:
        parts["controlnet"] = component(controlnet, "controlnet")
    if "text_encoder_2" in parts:
        return StableDiffusionXLFaceInpaintPipeline(**parts, tokenizer_2=words)
    return StableDiffusionFaceInpaintPipeline(**parts)


@pytest.mark.parametrize(
    ("checkpoint", "name"), [(c, n) for c, facts in FACTS.items() if c != "about" for n in facts.get("parameters", ())]
)
def test_the_written_down_configuration_is_the_published_model(checkpoint, name):
    counted = sum(weight.numel() for weight in component(checkpoint, name).parameters())
    assert counted == FACTS[checkpoint]["parameters"][name]


@pytest.mark.parametrize(
    ("checkpoint", "controlnet", "style"),
    [
        ("sd15_inpaint", "controlnet_mediapipe_sd15", "mediapipe"),
        ("sd15_inpaint", "controlnet_dlib68_sd15", "dlib68"),
        ("sdxl_inpaint", None, None),
    ],
)
def test_shapes_end_to_end(tmp_path, checkpoint, controlnet, style):
    pipe = build(checkpoint, tmp_path, controlnet)
    check_components(pipe)
    size, batch = pipe.size, 2
    assert size == {"sd15_inpaint": 512, "sdxl_inpaint": 1024}[checkpoint]
    crop, mask = (torch.zeros(batch, channels, size, size, device="meta") for channels in (3, 1))
    crops = Crops(crop, crop, mask)
    embeds = pipe.encode_prompt(["a", "b"], device="meta")
    cond, uncond, _ = pipe.prepare_branches(embeds, (None, None, None), crops)
    width = {"sd15_inpaint": 768, "sdxl_inpaint": 2048}[checkpoint]
    assert cond.text.shape == uncond.text.shape == (batch, 77, width)
    scene = pipe.prepare_scene(crops, 1, None if style is None else mesh(batch) * 8, style or "mediapipe")
    assert scene.known.shape == (batch, 4, size // 8, size // 8)
    assert scene.cells.shape == (batch, 1, size // 8, size // 8)
    output = pipe.forward_unet(torch.zeros_like(scene.known), torch.zeros((), device="meta"), scene, cond)
    assert output.shape == scene.known.shape
    assert pipe.show(output, scene).shape == crop.shape
    source = torch.zeros(batch, 16, device="meta")
    for energy in pipe.prepare_energies(crops, 1, Repulsion(), source, source, ()):
        assert energy.function(pipe.show(output, scene)).shape == (batch,)
    assert pipe.decode_latents(output, pipe.vae).shape == crop.shape


@pytest.mark.parametrize(
    ("checkpoint", "controlnet", "message"),
    [
        ("sd15_inpaint", "controlnet_mediapipe_sd21", "cross_attention_dim must be 768 for this unet, got 1024"),
        ("sdxl_inpaint", "controlnet_mediapipe_sd15", "cross_attention_dim must be 2048 for this unet, got 768"),
    ],
)
def test_a_controlnet_of_another_base_is_refused(tmp_path, checkpoint, controlnet, message):
    with pytest.raises(ValueError, match=message):
        check_components(build(checkpoint, tmp_path, controlnet))
