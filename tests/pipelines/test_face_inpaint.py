import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from deid_diffusion import Settings
from deid_diffusion.methods.sampling import check_settings
from deid_diffusion.pipelines.conditioning import FEWEST, FIELDS
from deid_diffusion.pipelines.face_inpaint import FaceInpaintPipeline
from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.pipelines.repulsion import Energy
from tests.tiny import DIM, tiny_pipeline, tiny_unet

SIZE = 64


@pytest.fixture(scope="module")
def pipe() -> FaceInpaintPipeline:
    return tiny_pipeline(SIZE)


def inputs(count: int = 2) -> dict:
    rng = np.random.default_rng(0)
    crops = torch.from_numpy(rng.uniform(0, 1, (count, 3, SIZE, SIZE)).astype(np.float32))
    mask = torch.zeros(count, 1, SIZE, SIZE)
    mask[..., 16:52, 14:50] = 1
    return {
        "image": crops,
        "mask_image": mask,
        "landmarks": rng.uniform(0, SIZE, (count, 478, 3)),
        "attributes": [{"age": 30.0 + n, "smile": 0.5} for n in range(count)],
        "identity": torch.from_numpy(rng.normal(size=(count, DIM)).astype(np.float32)),
        "num_inference_steps": 3,
        "output_type": "pt",
    }


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in numbers]


@pytest.mark.parametrize("repulsion", [None, {"scale": 60.0}, {"scale": 60.0, "through_unet": True, "views": 2}])
def test_pixels_off_the_mask_come_back_to_the_bit(pipe, repulsion):
    given = inputs()
    out = pipe(**given, repulsion=repulsion, generator=seeds(1, 2)).images
    off = given["mask_image"].expand_as(out) == 0
    assert torch.equal(out[off], given["image"][off])
    assert not torch.allclose(out[~off], given["image"][~off], atol=0.1)
    assert out.min() >= 0
    assert out.max() <= 1


def test_what_lies_under_the_mask_is_not_seen(pipe):
    given = inputs()
    first = pipe(**given, generator=seeds(1, 2)).images
    given["image"] = torch.where(given["mask_image"] > 0, torch.zeros(()), given["image"])
    assert torch.equal(pipe(**given, generator=seeds(1, 2)).images, first)


def test_same_seed_same_bytes_other_seed_other_face(pipe):
    given = inputs()
    first, again, other = (pipe(**given, generator=seeds(*s)).images for s in ((1, 2), (1, 2), (3, 2)))
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], other[0], atol=1e-2)
    assert torch.allclose(first[1], other[1], atol=1e-4)


def test_a_batch_of_two_equals_two_batches_of_one(pipe):
    given = inputs()
    both = pipe(**given, repulsion={"scale": 60.0}, generator=seeds(1, 2)).images
    for n in range(2):
        one = {
            k: v[n : n + 1] if hasattr(v, "__len__") and len(v) == 2 and k != "output_type" else v
            for k, v in given.items()
        }
        alone = pipe(**one, repulsion={"scale": 60.0}, generator=seeds(n + 1)).images
        assert torch.allclose(both[n], alone[0], atol=1e-4)


@pytest.mark.parametrize("form", [{}, {"through_unet": True}, {"views": 3}])
def test_repulsion_lowers_the_similarity_to_the_source(pipe, form):
    given = inputs()
    # The source to move away from is what the model paints by itself: the worst case.
    plain = pipe(**given, generator=seeds(1, 2)).images
    source = embed(pipe.id_encoder, plain * 2 - 1).detach()
    pushed = pipe(**given, source_embedding=source, repulsion={"scale": 600.0, "margin": -1.0, "stop": 1.0, **form},
                  generator=seeds(1, 2)).images  # fmt: skip
    similarity = (embed(pipe.id_encoder, pushed * 2 - 1) * source).sum(-1)
    assert (similarity < 0.999).all()
    assert (similarity < (embed(pipe.id_encoder, plain * 2 - 1) * source).sum(-1)).all()


def test_more_energies_are_minimised_too(pipe):
    given = inputs()
    plain = pipe(**given, generator=seeds(1, 2)).images
    brightness = Energy(lambda x0: (x0 + 1).mean((1, 2, 3)), stop=1.0)
    dark = pipe(**given, generator=seeds(1, 2), energies=[brightness]).images
    assert dark.mean() < plain.mean() - 1e-3
    bare = pipe(**given, generator=seeds(1, 2), energies=[brightness.function]).images
    assert not torch.equal(bare, plain)
    assert not torch.equal(bare, dark)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_energies_act_at_their_own_steps_whatever_the_repulsion(pipe, steps):
    """An energy is asked once at each step of its window, and at no other."""
    given = inputs() | {"num_inference_steps": steps}
    for window in ({}, {"stop": 1.0}, {"start": 0.5, "stop": 1.0}, {"scale": 0.0}):
        for repulsion in (None, {"scale": 0.0}, {"start": 0.9, "stop": 1.0}):
            asked = []
            energy = Energy(lambda x0, asked=asked: (asked.append(1), x0.square().mean((1, 2, 3)))[1], **window)
            pipe(**given, generator=seeds(1, 2), energies=[energy], repulsion=repulsion)
            assert len(asked) == len(energy.steps(steps)), (window, repulsion)


def test_repulsion_acts_at_one_step_too(pipe):
    given = inputs() | {"num_inference_steps": 1}
    plain = pipe(**given, generator=seeds(1, 2)).images
    source = embed(pipe.id_encoder, plain * 2 - 1)
    pushed = pipe(**given, generator=seeds(1, 2), source_embedding=source, repulsion={}).images
    assert (torch.cosine_similarity(embed(pipe.id_encoder, pushed * 2 - 1), source) < 1 - 1e-6).all()


def test_conditions_change_the_face_and_none_is_allowed(pipe):
    given = inputs()
    first = pipe(**given, generator=seeds(1, 2)).images
    for name in ("landmarks", "attributes", "identity"):
        other = pipe(**(given | {name: None}), generator=seeds(1, 2)).images
        assert not torch.equal(first, other), name


def test_at_noise_scale_zero_every_seed_is_the_same_face(pipe):
    given = inputs()
    cold, again = (pipe(**given, noise_scale=0.0, generator=seeds(*s)).images for s in ((1, 2), (3, 4)))
    assert torch.equal(cold, again)
    assert not torch.equal(cold, pipe(**given, generator=seeds(1, 2)).images)


def test_guidance_is_one_call_of_twice_the_batch(pipe, monkeypatch):
    sizes, forward = [], pipe.unet.forward
    monkeypatch.setattr(
        pipe.unet, "forward", lambda x, *args, **named: (sizes.append(len(x)), forward(x, *args, **named))[1]
    )
    one, two = (pipe(**inputs(), guidance_scale=g, generator=seeds(1, 2)).images for g in (1.0, 2.0))
    assert sizes == [2] * 3 + [4] * 3
    assert not torch.allclose(one, two, atol=1e-3)


@pytest.mark.parametrize("kind", ["pil", "list", "numpy"])
def test_every_accepted_form_gives_the_same(pipe, kind):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((1, SIZE, SIZE), np.uint8)
    mask[:, 10:40, 10:40] = 255
    forms = {
        "numpy": (array, mask),
        "pil": (Image.fromarray(array[0]), Image.fromarray(mask[0])),
        "list": ([Image.fromarray(array[0])], [Image.fromarray(mask[0])]),
    }
    out = pipe(*forms[kind], num_inference_steps=2, generator=seeds(5), output_type="pil").images
    want = pipe(*forms["numpy"], num_inference_steps=2, generator=seeds(5), output_type="np").images
    assert isinstance(out[0], Image.Image)
    assert np.abs(np.asarray(out[0]) / 255 - want[0]).max() < 1 / 255
    assert (np.asarray(out[0])[mask[0] == 0] == array[0][mask[0] == 0]).all()


def test_callbacks_see_every_step_and_may_change_latents(pipe):
    seen = []

    def watch(_, step, timestep, tensors):
        seen.append((step, float(timestep), tensors["x0"].shape))
        return {"latents": tensors["latents"] * 0} if step == 2 else {}

    given = inputs()
    names = ("latents", "x0")
    out = pipe(**given, generator=seeds(1, 2), callback_on_step_end=watch, callback_on_step_end_tensor_inputs=names)
    assert [s for s, _, _ in seen] == [0, 1, 2]
    assert seen[0][1] > seen[2][1]
    assert (out.images[given["mask_image"].expand_as(out.images) > 0] == 0.5).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(2, 3, 32, 32), "mask_image": torch.zeros(2, 1, 32, 32)}, "must be 64 x 64"),
        ({"image": torch.zeros(3, 64, 64)}, r"tensors must be \(B, 3, S, S\)"),
        ({"image": torch.full((2, 3, 64, 64), 200.0)}, r"must lie in \[0, 1\] or \[-1, 1\]"),
        ({"mask_image": torch.zeros(2, 1, 32, 32)}, "as large as image"),
        ({"mask_image": torch.zeros(1, 1, 64, 64)}, "one mask a crop"),
        ({"landmarks": np.zeros((5, 2))}, "landmarks must be"),
        ({"attributes": torch.zeros(2, 3)}, "attributes must be"),
        ({"attributes": {"beauty": 1.0}}, "unknown attribute"),
        ({"identity": torch.zeros(2, 3)}, "identity must be"),
        ({"noise_scale": -1.0}, "noise_scale must be >= 0"),
        ({"generator": seeds(1)}, "one generator a face"),
        ({"repulsion": {"scale": 10.0}, "source_embedding": torch.zeros(1, DIM)}, "one source_embedding a face"),
        ({"callback_on_step_end_tensor_inputs": ("noise",)}, "callbacks can get"),
    ],
)
def test_wrong_input_says_what_was_wanted(pipe, change, message):
    with pytest.raises(ValueError, match=message):
        pipe(**(inputs() | change))


def test_repulsion_without_a_guide_is_refused():
    pipe = tiny_pipeline(SIZE)
    pipe.register_modules(id_encoder=None)
    with pytest.raises(ValueError, match="needs the identity encoder"):
        pipe(**inputs(), repulsion={"scale": 1.0})
    assert len(pipe(**inputs(), generator=seeds(1, 2)).images) == 2


def test_another_kind_of_scheduler_is_refused():
    pipe = tiny_pipeline(SIZE)
    pipe.register_modules(scheduler=DDIMScheduler())
    with pytest.raises(ValueError, match="rectified-flow"):
        pipe(**inputs())


def test_components_are_left_as_found(pipe):
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    pipe(**inputs(), repulsion={"scale": 60.0, "through_unet": True}, generator=seeds(1, 2))
    assert not pipe.unet.training
    assert all(p.grad is None for p in pipe.unet.parameters())
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())


def test_a_unet_from_before_an_attribute_leaves_it_out():
    pipe = tiny_pipeline(SIZE)
    pipe.unet = tiny_unet(SIZE, attributes=FEWEST)
    assert (pipe.attribute_count, pipe.identity_dim) == (FEWEST, DIM)
    images = [
        pipe(**inputs(1) | {"attributes": given}, generator=seeds(0)).images
        for given in ({"age": 40.0, "sunglasses": 1.0}, {"age": 40.0})
    ]
    assert torch.equal(*images)
    assert tiny_pipeline().attribute_count == len(FIELDS)
    with pytest.raises(ValueError, match="before there was sunglasses"):
        check_settings(pipe, Settings(attributes={"sunglasses": 1.0}))
