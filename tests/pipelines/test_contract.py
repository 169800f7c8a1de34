"""What diffusers asks of every pipeline, asked of ours: the contract of its own test suite, on tiny components."""

import inspect
import io
from contextlib import redirect_stderr

import numpy as np
import pytest
import torch
from PIL import Image

from deid_diffusion.pipelines.inputs import read_crops
from tests.pipelines.sd_models import SIZE, sd_pipe, sdxl_pipe
from tests.tiny import tiny_pipeline

FAMILIES = ("face", "sd", "sdxl")
GUIDED = {"guidance_scale": 2.0, "attributes": {"age": 70.0}}


@pytest.fixture(scope="module")
def pipes(tmp_path_factory) -> dict:
    """One pipeline of each family; components that nothing here needs are left out of two."""
    words = tmp_path_factory.mktemp("words")
    return {"face": tiny_pipeline(SIZE), "sd": sd_pipe(words), "sdxl": sdxl_pipe(words, 4)}


@pytest.fixture(params=FAMILIES)
def pipe(request, pipes):
    return pipes[request.param]


def given(batch: int = 1, **changes) -> dict:
    """Fresh arguments of a call, in [0, 1] as diffusers hands tensors round."""
    noise = torch.Generator().manual_seed(9)
    mask = torch.zeros(batch, 1, SIZE, SIZE)
    mask[:, :, 13:50, 10:45] = 1
    own = {
        "image": torch.rand(batch, 3, SIZE, SIZE, generator=noise),
        "mask_image": mask,
        "num_inference_steps": 2,
        "generator": [torch.Generator().manual_seed(100 + face) for face in range(batch)],
        "output_type": "pt",
    }
    return own | changes


def run(pipe, batch: int = 1, **changes) -> torch.Tensor:
    return pipe(**given(batch, **changes)).images


def test_the_call_has_the_arguments_that_diffusers_names(pipe):
    names = {"image", "mask_image", "num_inference_steps", "num_images_per_prompt", "generator", "latents"}
    names |= {"output_type", "return_dict", "guidance_scale", "strength", "callback_on_step_end"}
    names |= {"callback_on_step_end_tensor_inputs"}
    if hasattr(pipe, "tokenizer"):
        names |= {"prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds", "clip_skip"}
        names |= {"cross_attention_kwargs", "ip_adapter_image_embeds"}
    taken = inspect.signature(type(pipe).__call__).parameters
    assert names <= set(taken)
    assert all(one.annotation is not inspect.Parameter.empty for name, one in taken.items() if name != "self")
    assert not [one for one in taken.values() if one.kind is inspect.Parameter.VAR_KEYWORD]


def test_components_are_those_of_the_constructor(pipe):
    takes = set(inspect.signature(type(pipe).__init__).parameters) - {"self"}
    settings = {name for name in takes if isinstance(pipe.config.get(name), bool | int)}
    assert set(pipe.components) == takes - settings
    again = type(pipe)(**pipe.components)
    again.set_progress_bar_config(disable=True)
    assert run(again).equal(run(pipe))


def test_what_is_saved_without_its_optional_components_loads_without_them(pipe, tmp_path):
    parts = {name: None if name in pipe._optional_components else part for name, part in pipe.components.items()}
    bare = type(pipe)(**parts)
    bare.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path)
    for one in (bare, loaded):
        one.set_progress_bar_config(disable=True)
    assert all(getattr(loaded, name) is None for name in pipe._optional_components)
    assert torch.allclose(run(loaded), run(bare), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_taken_saved_and_loaded(family, tmp_path):
    make = {"face": lambda: tiny_pipeline(SIZE), "sd": lambda: sd_pipe(tmp_path), "sdxl": lambda: sdxl_pipe(tmp_path)}
    pipe = make[family]().to(torch.float16)
    pipe.save_pretrained(tmp_path / "half")
    loaded = type(pipe).from_pretrained(tmp_path / "half", dtype=torch.float16)
    for one in (pipe, loaded):
        one.set_progress_bar_config(disable=True)
        assert {part.dtype for part in one.components.values() if hasattr(part, "dtype")} == {torch.float16}
    if torch.cuda.is_available():
        pictures = [run(one.to("cuda"), repulsion={}) for one in (pipe, loaded)]
        assert torch.allclose(*pictures, atol=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="two devices are needed to go from one to the other")
def test_to_another_device_and_back(pipe):
    plain = run(pipe)
    assert torch.allclose(run(pipe.to("cuda")).cpu(), plain, atol=1e-2)
    assert run(pipe.to("cpu")).equal(plain)


@pytest.mark.parametrize("changes", [{}, GUIDED, {"repulsion": {}}], ids=["plain", "guided", "repelled"])
def test_a_face_is_the_same_in_any_batch(pipe, changes):
    both = given(2, **changes)
    together = pipe(**both).images
    for face in range(2):
        one = {name: both[name][face : face + 1] for name in ("image", "mask_image")}
        alone = run(pipe, **changes, **one, generator=[torch.Generator().manual_seed(100 + face)])
        # Gradients of random networks are small beside their rounding, and are brought to one length.
        assert torch.allclose(together[face : face + 1], alone, atol=3e-3 if "repulsion" in changes else 1e-4)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("copies", [1, 3])
def test_num_images_per_prompt_gives_each_crop_so_many_faces(pipe, batch, copies):
    seeds = [torch.Generator().manual_seed(face) for face in range(batch * copies)]
    call = given(batch, generator=seeds, repulsion={}, **GUIDED) | {
        "attributes": [{"age": 20.0 + 50 * face} for face in range(batch)]
    }
    faces = pipe(**call, num_images_per_prompt=copies).images
    assert len(faces) == batch * copies
    spread = {name: call[name].repeat_interleave(copies, 0) for name in ("image", "mask_image")}
    spread["attributes"] = [row for row in call["attributes"] for _ in range(copies)]
    spread["generator"] = [torch.Generator().manual_seed(face) for face in range(batch * copies)]
    assert torch.allclose(faces, pipe(**(call | spread)).images, atol=1e-4)
    assert copies == 1 or not torch.allclose(faces[0], faces[1], atol=1e-3)


def test_guidance_is_on_above_one_and_off_below(pipe):
    seen = []

    def look(pipe, step, t, tensors):
        seen.append((pipe.do_classifier_free_guidance, pipe.guidance_scale))
        return {}

    off, none, on = (
        run(pipe, **(GUIDED | {"guidance_scale": scale}), callback_on_step_end=look) for scale in (1.0, 0.0, 7.5)
    )
    assert off.equal(none)
    assert off.shape == on.shape
    assert not off.equal(on)
    assert seen == [(False, 1.0)] * 2 + [(False, 0.0)] * 2 + [(True, 7.5)] * 2


def test_a_callback_may_change_the_guidance_of_the_steps_to_come(pipe):
    scales = []

    def raise_it(pipe, step, t, tensors):
        pipe._guidance_scale += 1.0
        scales.append(pipe.guidance_scale)
        return tensors

    names = pipe._callback_tensor_inputs
    raised = run(pipe, **GUIDED, callback_on_step_end=raise_it, callback_on_step_end_tensor_inputs=names)
    assert scales == [3.0, 4.0]
    assert pipe.guidance_scale == 2.0 + pipe.num_timesteps
    assert not raised.equal(run(pipe, **GUIDED))


def test_a_callback_gets_what_it_names_and_may_change_latents_up_to_the_last_step(pipe):
    def blank(pipe, step, t, tensors):
        assert set(tensors) == set(pipe._callback_tensor_inputs)
        if step == pipe.num_timesteps - 1:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    names = pipe._callback_tensor_inputs
    for changes in ({}, GUIDED):
        options = {"callback_on_step_end": blank, "callback_on_step_end_tensor_inputs": names, **changes}
        assert not run(pipe, **options, output_type="latent").any()
    assert not run(pipe, output_type="latent").equal(torch.zeros(()))


def test_a_callback_may_interrupt_and_the_next_call_starts_anew(pipe):
    steps = []

    def stop(pipe, step, t, tensors):
        steps.append(step)
        pipe._interrupt = step == 0

    cut = run(pipe, num_inference_steps=4, callback_on_step_end=stop)
    assert steps == [0]
    assert cut.isfinite().all()
    whole = run(pipe, num_inference_steps=4)
    assert not pipe.interrupt
    assert not whole.equal(cut)


def test_the_progress_bar_counts_steps_and_can_be_silenced(pipe):
    for disable in (False, True):
        pipe.set_progress_bar_config(disable=disable)
        with redirect_stderr(io.StringIO()) as shown:
            run(pipe, num_inference_steps=3)
        assert ("3/3" in shown.getvalue()) is not disable
    assert shown.getvalue() == ""


def test_a_tuple_holds_what_the_output_holds(pipe):
    (images,) = pipe(**given(), return_dict=False)
    assert images.equal(pipe(**given()).images)


def test_no_argument_is_changed(pipe):
    call = given(2, repulsion={"scale": 30.0}, attributes={"age": 30.0}, init_image=torch.rand(2, 3, SIZE, SIZE))
    call["latents"] = torch.randn(run(pipe, 2, output_type="latent").shape)
    kept = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in call.items()}
    pipe(**call)
    for name, value in kept.items():
        assert value.equal(call[name]) if isinstance(value, torch.Tensor) else value == call[name], name
    assert call["repulsion"] == {"scale": 30.0}
    assert call["attributes"] == {"age": 30.0}


def test_all_output_types_show_the_same_in_0_to_1(pipe):
    tensor = run(pipe)
    assert tensor.dtype == torch.float32
    assert (tensor.min() >= 0) & (tensor.max() <= 1)
    array, (picture,) = run(pipe, output_type="np"), run(pipe, output_type="pil")
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.abs(np.asarray(picture) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6


def test_known_pixels_keep_their_bits_in_either_range(pipe):
    call = given()
    known = call["mask_image"].expand(-1, 3, -1, -1) == 0
    assert pipe(**call).images[known].equal(call["image"][known])
    signed = call["image"] * 2 - 1
    assert run(pipe, image=signed)[known].equal((signed / 2 + 0.5)[known])


def test_all_forms_of_input_mean_the_same(pipe):
    levels = (given()["image"] * 255).round().byte()
    unit, mask = levels / 255, given()["mask_image"]
    array, mask_array = levels.permute(0, 2, 3, 1).numpy(), mask.permute(0, 2, 3, 1).numpy()
    want = run(pipe, image=unit)
    for image, hole in (
        (unit * 2 - 1, mask),
        ([unit], [mask]),
        ([unit[0]], [mask[0]]),
        (array, (mask_array * 255).astype(np.uint8)),
        (array / np.float32(255), mask_array[..., 0]),
        ([array[0]], [mask_array[0] > 0]),
        (Image.fromarray(array[0]), Image.fromarray((mask_array[0, ..., 0] * 255).astype(np.uint8))),
        ([Image.fromarray(array[0])], [Image.fromarray((mask_array[0, ..., 0] * 255).astype(np.uint8))]),
    ):
        assert torch.allclose(run(pipe, image=image, mask_image=hole), want, atol=1e-5)


def test_a_mask_is_cut_at_a_half(pipe):
    call = given()
    soft = torch.where(call["mask_image"] > 0, 0.5, 0.499)
    assert run(pipe, mask_image=soft).equal(pipe(**call).images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.full((1, 3, SIZE, SIZE), 255.0)}, r"must lie in \[0, 1\] or \[-1, 1\], got 255.00"),
        ({"image": torch.full((1, 3, SIZE, SIZE), -2.0)}, r"got -2.00 to -2.00; divide them"),
        ({"image": torch.full((1, 3, SIZE, SIZE), float("nan"))}, "got nan"),
        ({"image": []}, "at least one image"),
        ({"mask_image": torch.full((1, 1, SIZE, SIZE), -1.0)}, r"mask_image values must lie in \[0, 1\], got -1"),
        ({"num_inference_steps": 0}, "num_inference_steps must be >= 1, got 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be >= 1, got 0"),
        ({"num_images_per_prompt": 2}, "one generator a face, got 1 for 2"),
        ({"latents": torch.zeros(1, 1, 8, 8)}, r"latents must be \(1, .*\), got \(1, 1, 8, 8\)"),
        ({"strength": 0.0}, r"strength must lie in \(0, 1\], got 0.0"),
        ({"strength": 0.4, "init_image": torch.zeros(1, 3, SIZE, SIZE)}, "0.4 of 2 steps leaves none"),
        ({"init_image": torch.zeros(2, 3, SIZE, SIZE)}, "init_image must be like image"),
        ({"repulsion": {"strength": 2}}, "repulsion takes scale, .*; got 'strength'"),
        ({"repulsion": 30.0}, "repulsion must be a Repulsion"),
    ],
)
def test_what_does_not_fit_says_so(pipe, changes, message):
    with pytest.raises(ValueError, match=message):
        run(pipe, **changes)


def test_latents_are_the_noise_that_the_generator_would_draw(pipe):
    shape = run(pipe, output_type="latent").shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(100))
    assert run(pipe, latents=noise).equal(run(pipe))
    assert not run(pipe, latents=-noise).equal(run(pipe))


def test_a_painted_face_is_taken_up_at_its_noise_level(pipe, monkeypatch):
    """What the unet first sees is that face, as noisy as the scheduler has it at that step, and nothing under it."""
    call = given(num_inference_steps=4)
    init = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    starts, sample = [], type(pipe).sample

    def look(self, model, latents, timesteps, *rest):
        starts.append((latents, timesteps))
        return sample(self, model, latents, timesteps, *rest)

    monkeypatch.setattr(type(pipe), "sample", look)
    out = pipe(**call, init_image=init, strength=0.5).images
    latents, timesteps = starts[-1]
    assert pipe.num_timesteps == len(timesteps) == 2
    assert timesteps.equal(pipe.scheduler.timesteps[2:])
    face = torch.where(call["mask_image"] > 0, init, call["image"]) * 2 - 1
    face = pipe.encode_pixels(face) if hasattr(pipe, "vae") else face
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(100))
    add = getattr(pipe.scheduler, "add_noise", None) or (lambda x, n, t: pipe.scheduler.scale_noise(x, t, n))
    assert torch.allclose(latents, add(face, noise, timesteps[:1]), atol=1e-5)
    # Of the init only what lies under the mask is read, and of the source nothing that does.
    inside = call["mask_image"] > 0
    again = {"init_image": torch.where(inside, init, 0), "image": torch.where(inside, 0, call["image"])}
    assert run(pipe, num_inference_steps=4, strength=0.5, **again).equal(out)


def test_at_full_strength_the_painted_face_is_forgotten(pipe):
    init = torch.rand(1, 3, SIZE, SIZE)
    assert run(pipe, init_image=init, strength=1.0).equal(run(pipe))


def test_the_crop_is_the_callers_in_both_ranges():
    unit = torch.rand(1, 3, 8, 8)
    crops = read_crops(unit, torch.ones(1, 1, 8, 8), 8)
    assert crops.unit.equal(unit)
    assert crops.image.equal(unit * 2 - 1)
    signed = read_crops(crops.image, torch.ones(1, 1, 8, 8), 8)
    assert signed.image.equal(crops.image)
