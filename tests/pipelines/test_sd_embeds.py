"""Words of the Stable Diffusion family as diffusers takes them: embeds, LoRA scales, clip_skip, textual inversion."""

import pytest
import torch
from safetensors.torch import save_file

from tests.pipelines.sd_models import WIDTH, inputs, sd_pipe, sdxl_pipe

NAMES = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
TEXT = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
MAKERS = {"sd": sd_pipe, "sdxl": sdxl_pipe}


@pytest.fixture(params=MAKERS)
def pipe(request, tmp_path):
    return MAKERS[request.param](tmp_path)


def run(pipe, **changes) -> torch.Tensor:
    return pipe(**{**inputs(2), **changes}).images


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_embeds_stand_in_for_words_and_need_no_text_encoder(pipe, scale):
    said = {"prompt": ["a man", "a woman"], "negative_prompt": "blur"}
    want = run(pipe, **said, guidance_scale=scale)
    embeds = pipe.encode_prompt(**said, do_classifier_free_guidance=scale > 1)
    assert len(embeds) == (2 if type(pipe).addition_embed_type is None else 4)
    assert (embeds[1] is None) is (scale == 1)
    mute = type(pipe)(**(pipe.components | {name: None for name in TEXT if name in pipe.components}))
    mute.set_progress_bar_config(disable=True)
    assert run(mute, **dict(zip(NAMES, embeds, strict=False)), guidance_scale=scale).equal(want)


def test_copies_of_embeds_lie_side_by_side(pipe):
    once = pipe.encode_prompt(["a man", "a woman"])
    twice = pipe.encode_prompt(["a man", "a woman"], num_images_per_prompt=2)
    assert all(b.equal(a.repeat_interleave(2, 0)) for a, b in zip(once, twice, strict=True))


def test_embeds_that_do_not_fit_say_so(pipe):
    embeds = dict(zip(NAMES, pipe.encode_prompt(["a man", "a woman"]), strict=False))
    pools = "pooled_prompt_embeds" in embeds
    cases = [
        ({"prompt": "a man"}, "prompt_embeds stand in for prompt and attributes"),
        ({"attributes": torch.zeros(2, 36)}, "prompt_embeds stand in for prompt and attributes"),
        ({"negative_prompt": "blur"}, "negative_prompt_embeds stand in for negative_prompt;"),
        ({"prompt_embeds": torch.zeros(1, 77, 5)}, r"prompt_embeds must be \(2, T, \d+\), got \(1, 77, 5\)"),
        ({"pooled_prompt_embeds": None if pools else torch.zeros(2, WIDTH)},
         "SDXL needs prompt_embeds and pooled_prompt_embeds" if pools else "reads no pooled_prompt_embeds"),
    ]  # fmt: skip
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            run(pipe, **(embeds | changes))
    pipe.register_modules(text_encoder=None)
    with pytest.raises(ValueError, match="must have a text_encoder, got none"):
        run(pipe, prompt="a man")


def test_clip_skip_leaves_out_the_last_layers(pipe):
    plain, none, one = (run(pipe, prompt="a man", clip_skip=skip) for skip in (None, 0, 1))
    assert none.equal(plain)
    assert not one.equal(plain)


def test_a_word_of_several_vectors_is_spelled_out(pipe):
    torch.manual_seed(0)
    vectors = torch.randn(2, WIDTH)
    pipe.load_textual_inversion(vectors, token="<face>", tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder)
    assert pipe.maybe_convert_prompt("<face>", pipe.tokenizer) == "<face> <face>_1"
    before = run(pipe, prompt="photo of <face>")
    with torch.no_grad():
        # Only who spells the word out reads its second vector.
        row = pipe.tokenizer.convert_tokens_to_ids("<face>_1")
        pipe.text_encoder.get_input_embeddings().weight[row] += 1
    assert not run(pipe, prompt="photo of <face>").equal(before)


def test_cross_attention_kwargs_reach_the_attention_and_scale_a_lora(tmp_path):
    pytest.importorskip("peft", reason="diffusers loads LoRAs through peft")
    pipe = sd_pipe(tmp_path)
    plain = run(pipe)
    noise, weights = torch.Generator().manual_seed(0), {}
    text = next(n for n, _ in pipe.text_encoder.named_modules() if n.endswith("layers.0.self_attn.q_proj"))
    for name, width in (
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q", 64),
        (f"text_encoder.{text}", WIDTH),
    ):
        weights[f"{name}.lora_A.weight"] = torch.randn(4, width, generator=noise)
        weights[f"{name}.lora_B.weight"] = torch.randn(width, 4, generator=noise)
    save_file(weights, tmp_path / "lora.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors", adapter_name="style")
    full, half, off = (run(pipe, cross_attention_kwargs={"scale": scale}) for scale in (1.0, 0.5, 0.0))
    assert torch.allclose(off, plain, atol=1e-5)
    assert torch.allclose(full, run(pipe), atol=1e-5)
    assert not torch.allclose(half, full, atol=1e-3)
    assert not torch.allclose(half, plain, atol=1e-3)
