import diffusers
import numpy as np
import pytest
import torch

from tests.pipelines.sd_models import (
    DIM,
    SIZE,
    controlnet,
    inputs,
    mesh,
    sd_pipe,
    sdxl_pipe,
    text_encoder,
    tiny_vae,
    unet,
    vae,
    xl_unet,
)


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return sd_pipe(tmp_path_factory.mktemp("words"))


def wide_vae():
    model = vae()
    model.register_to_config(latent_channels=16)
    return model


def wide_preview():
    model = tiny_vae()
    model.register_to_config(latent_channels=16)
    return model


@pytest.mark.parametrize(
    ("maker", "part", "value", "message"),
    [
        (sd_pipe, "unet", lambda: unet(5), r"must read 4 \(text to image\) or 9 \(inpainting\) .* got 5 and 4; take"),
        (sd_pipe, "unet", xl_unet, "an SDXL unet: use StableDiffusionXLFaceInpaintPipeline"),
        (sdxl_pipe, "unet", unet, r"'text_time', got None; that is another family: use StableDiffusionFaceInpaint"),
        (sd_pipe, "unet", lambda: unet(cross_attention_dim=64), "reads words of width 64, the text encoders write 32"),
        (sdxl_pipe, "text_encoder_2", None, "must have a text_encoder_2, got none"),
        (sd_pipe, "text_encoder", None, "must have a text_encoder, got none; load one"),
        (sd_pipe, "vae", wide_vae, "for latents of 16 channels the unet must read 16 .* or 33"),
        (sd_pipe, "preview_vae", wide_preview, "preview_vae must decode latents of 4 channels, got 16"),
        (
            sd_pipe,
            "controlnet",
            lambda: controlnet(xl_unet()),
            "ControlNet's cross_attention_dim must be 32 .* got 64",
        ),
        (
            sd_pipe,
            "controlnet",
            lambda: controlnet(unet(block_out_channels=(32, 32))),
            r"ControlNet's block_out_channels must be .*32, 64.* got .*32, 32.*; take one trained for this base",
        ),
        (sd_pipe, "unet", lambda: unet(time_cond_proj_dim=8), "use an LCM LoRA"),
        (sd_pipe, "scheduler", diffusers.EDMEulerScheduler, "needs a scheduler .* got EDMEulerScheduler; take"),
        (
            sd_pipe,
            "scheduler",
            lambda: diffusers.DDIMScheduler.from_config({"prediction_type": "score"}),
            "prediction_type in .* got DDIMScheduler with 'score'",
        ),
    ],
)
def test_components_that_are_no_family_say_so(tmp_path, maker, part, value, message):
    pipe = maker(tmp_path)
    pipe.register_modules(**{part: None if value is None else value()})
    with pytest.raises(ValueError, match=message):
        pipe(**inputs())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"landmarks": mesh()}, "landmarks need a face-landmark ControlNet; load with controlnet="),
        ({"image": torch.zeros(1, 3, SIZE, SIZE + 8)}, "image must be square .* got 72 x 64"),
        ({"image": torch.zeros(1, 3, 60, 60)}, "multiple of 8 pixels, got 60 x 60; resize it"),
        ({"image": torch.full((1, 3, SIZE, SIZE), 200.0)}, r"image values must lie in \[0, 1\] or \[-1, 1\], got 200"),
        ({"image": np.zeros((1, SIZE, SIZE, 3), np.int32)}, r"image arrays must be \(B, S, S, 3\) uint8 or float"),
        ({"mask_image": torch.zeros(1, 1, 32, 32)}, "mask_image must be as large as image"),
        ({"mask_image": torch.zeros(2, 1, SIZE, SIZE)}, "need one mask a crop, got 2 masks and 1 crops"),
        ({"mask_image": torch.full((1, 1, SIZE, SIZE), 255.0)}, r"mask_image values must lie in \[0, 1\], got 255"),
        ({"generator": [torch.Generator()] * 3}, "need one generator a face, got 3 for 1"),
        (
            {"identity": torch.zeros(1, DIM + 1)},
            r"identity must be \(B, 16\) in the id_encoder's space, got \(1, 17\)",
        ),
        ({"identity": torch.zeros(2, DIM)}, "need one identity a face, got 2 for 1"),
        ({"repulsion": {}, "source_embedding": torch.zeros(2, DIM)}, "need one source_embedding a face, got 2 for 1"),
        ({"repulsion": {"scale": -1.0}}, "scale must be >= 0"),
        ({"prompt": ["a", "b"]}, "need one prompt, or one a face: got 2 for 1"),
        ({"negative_prompt": ["a", "b"]}, "need one negative_prompt"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, r"callbacks can get .* got \['noise'\]"),
    ],
)
def test_arguments_that_do_not_fit_say_so(sd, changes, message):
    with pytest.raises(ValueError, match=message):
        sd(**{**inputs(), **changes})


@pytest.mark.parametrize(("argument", "value"), [("repulsion", {}), ("identity", torch.zeros(1, DIM))])
def test_without_an_identity_encoder_nothing_is_repelled(tmp_path, argument, value):
    with pytest.raises(ValueError, match=f"{argument} need the identity encoder; load with id_encoder="):
        sd_pipe(tmp_path, id_encoder=None)(**inputs(), **{argument: value})


def test_half_precision_that_the_cpu_lacks_says_so(tmp_path, monkeypatch):
    pipe = sd_pipe(tmp_path)
    pipe.unet.to(torch.float16)

    def refuse(*_args, **_options):
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    with pytest.raises(ValueError, match=r"this CPU cannot run torch.float16: .* load with dtype=torch.float32"):
        pipe(**inputs())


def test_text_encoder_of_another_width(tmp_path):
    pipe = sdxl_pipe(tmp_path)
    pipe.text_encoder_2 = text_encoder(projected=True)
    pipe.text_encoder_2.config.hidden_size = 48
    with pytest.raises(ValueError, match="words of width 64, the text encoders write 80"):
        pipe(**inputs())
