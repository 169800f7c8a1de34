import pytest
import torch
from diffusers import LCMScheduler
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.pipelines.sd_models import WIDTH, inputs, sd_pipe

FACE = 24


def adapter(unet) -> dict:
    """An IP-Adapter's file for this unet: a projection of one face to two tokens, and each cross-attention's keys."""
    noise = torch.Generator().manual_seed(8)
    tokens = 4
    image = {
        "proj.weight": torch.randn(tokens * WIDTH, FACE, generator=noise),
        "proj.bias": torch.zeros(tokens * WIDTH),
        "norm.weight": torch.ones(WIDTH),
        "norm.bias": torch.zeros(WIDTH),
    }
    keys, number = {}, 1
    for name, processor in unet.attn_processors.items():
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for part in ("to_k_ip", "to_v_ip"):
                keys[f"{number}.{part}.weight"] = torch.randn(width, WIDTH, generator=noise) * 0.3
        number += isinstance(processor, object) and name.endswith("attn2.processor") and 2
    return {"image_proj": image, "ip_adapter": keys}


@pytest.fixture
def pipe(tmp_path):
    pipe = sd_pipe(tmp_path)
    torch.manual_seed(6)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    config.projection_dim = FACE
    pipe.register_modules(
        image_encoder=CLIPVisionModelWithProjection(config).eval(),
        feature_extractor=CLIPImageProcessor(size=32, crop_size=32),
    )
    pipe.unet._load_ip_adapter_weights([adapter(pipe.unet)])
    return pipe


def run(pipe, **changes) -> torch.Tensor:
    return pipe(**{**inputs(), **changes}).images


def face(seed: int) -> torch.Tensor:
    return torch.randn(1, 1, FACE, generator=torch.Generator().manual_seed(seed))


def test_image_embeds_move_the_result(pipe):
    assert not run(pipe, ip_adapter_image_embeds=face(0)).equal(run(pipe, ip_adapter_image_embeds=[face(1)]))


def test_pictures_become_embeds(pipe):
    embeds = pipe.embed_image(inputs(2)["image"])
    assert embeds.shape == (2, 1, FACE)
    assert not torch.allclose(embeds[0], embeds[1])


def test_identity_branch_steers_off_the_source(pipe):
    plain = run(pipe, guidance_scale=3.0, ip_adapter_image_embeds=torch.zeros(1, 1, FACE))
    off = {"guidance_scale": 3.0, "identity_scale": 0.0}
    source = {"source_image_embeds": face(2)}
    assert torch.allclose(run(pipe, guider=off, **source), plain, atol=1e-5)
    assert not torch.allclose(run(pipe, guider={**off, "identity_scale": 3.0}, **source), plain, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "this unet holds an IP-Adapter and needs ip_adapter_image_embeds"),
        ({"ip_adapter_image_embeds": torch.zeros(1, FACE)}, r"must be \(1, N, D\), got \(1, 24\)"),
        ({"guider": {}, "ip_adapter_image_embeds": torch.zeros(1, 1, FACE)}, "needs source_image_embeds"),
    ],
)
def test_embeds_that_do_not_fit_say_so(pipe, changes, message):
    with pytest.raises(ValueError, match=message):
        run(pipe, **changes)


def test_embeds_without_an_adapter_say_so(tmp_path):
    with pytest.raises(ValueError, match=r"need an IP-Adapter; call load_ip_adapter\(...\) first"):
        run(sd_pipe(tmp_path), ip_adapter_image_embeds=face(0))
    with pytest.raises(ValueError, match="embed_image needs image_encoder"):
        sd_pipe(tmp_path).embed_image(inputs()["image"])


def test_few_step_lora_with_guidance_off(tmp_path):
    pytest.importorskip("peft", reason="diffusers loads LoRAs through peft")
    pipe = sd_pipe(tmp_path)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    plain = run(pipe, num_inference_steps=2, guidance_scale=1.0)
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    width = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q.in_features
    noise = torch.Generator().manual_seed(0)
    weights = {
        f"{name}.lora_A.weight": torch.randn(4, width, generator=noise),
        f"{name}.lora_B.weight": torch.randn(width, 4, generator=noise),
    }
    save_file(weights, tmp_path / "lora.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors", adapter_name="fast")
    fast = run(pipe, num_inference_steps=2, guidance_scale=1.0, repulsion={"scale": 100.0})
    assert fast.isfinite().all()
    assert not torch.allclose(fast, plain, atol=1e-4)
    pipe.unload_lora_weights()
    assert torch.allclose(run(pipe, num_inference_steps=2, guidance_scale=1.0), plain, atol=1e-5)
