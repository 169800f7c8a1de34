import diffusers
import numpy as np
import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from PIL import Image

from deid_diffusion.pipelines.id_encoder import embed, in_float32
from deid_diffusion.pipelines.inputs import read_crops
from deid_diffusion.pipelines.repulsion import Energy
from tests.pipelines.sd_models import DIM, SIZE, inputs, mesh, sd_pipe, sdxl_pipe, tiny_vae, unet

MAKERS = {"sd": sd_pipe, "sdxl": sdxl_pipe}
PUSH = {"scale": 300.0, "margin": -1.0, "stop": 1.0}


@pytest.fixture(scope="module", params=["sd-9", "sd-4", "sdxl-9", "sdxl-4"])
def pipe(request, tmp_path_factory):
    family, channels = request.param.split("-")
    return MAKERS[family](tmp_path_factory.mktemp("words"), int(channels), control=True)


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return sd_pipe(tmp_path_factory.mktemp("words"), control=True)


def run(pipe, batch: int = 1, **changes) -> torch.Tensor:
    return pipe(**{**inputs(batch), **changes}).images


def similarity(pipe, painted: torch.Tensor) -> float:
    source = torch.from_numpy(inputs()["image"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return (embed(pipe.id_encoder, painted * 2 - 1) * embed(pipe.id_encoder, source)).sum().item()


def test_known_pixels_are_bit_equal_and_masked_ones_are_new(pipe):
    painted = pipe(**{**inputs(2), "output_type": "pil"}).images
    before, after = inputs(2)["image"], np.stack([np.asarray(p) for p in painted])
    outside = inputs(2)["mask_image"][:, 0].numpy() == 0
    assert (after[outside] == before[outside]).all()
    assert (after[~outside] != before[~outside]).mean() > 0.9


def test_no_masked_pixel_reaches_the_result(pipe):
    call = {**inputs(), "repulsion": PUSH, "source_embedding": torch.ones(1, DIM)}
    changed = inputs()["image"].copy()
    changed[:, 13:50, 10:45] = 255 - changed[:, 13:50, 10:45]
    first, second = pipe(**call).images, pipe(**{**call, "generator": inputs()["generator"], "image": changed}).images
    assert first.equal(second)


def test_a_batch_of_two_is_two_batches_of_one(pipe):
    one = inputs(2)
    both = run(pipe, 2, landmarks=mesh(2))
    for face in range(2):
        single = {**one, "image": one["image"][face : face + 1], "mask_image": one["mask_image"][face : face + 1]}
        single["generator"] = [inputs(2)["generator"][face]]
        alone = pipe(**single, landmarks=mesh(2)[face : face + 1]).images
        assert torch.allclose(both[face : face + 1], alone, atol=1e-4)


def test_same_seed_same_bytes_other_seed_other_face(pipe):
    assert run(pipe).equal(run(pipe))
    assert not run(pipe).equal(run(pipe, generator=torch.Generator().manual_seed(5)))


def test_each_argument_moves_the_result(pipe):
    plain = run(pipe)
    for change in (
        {"landmarks": mesh()},
        {"attributes": {"age": 70.0, "smile": 1.0}},
        {"prompt": "bronze statue"},
        {"negative_prompt": "blurry"},
        {"identity": torch.ones(1, DIM)},
        {"guidance_scale": 1.0},
    ):
        assert not plain.equal(run(pipe, **change)), change


@pytest.mark.parametrize("changes", [{}, {"views": 3}, {"through_unet": True}], ids=["detached", "views", "through"])
def test_repulsion_lowers_similarity(pipe, changes):
    assert similarity(pipe, run(pipe, repulsion={**PUSH, **changes})) < similarity(pipe, run(pipe)) - 1e-4


def test_repulsion_through_the_full_vae(tmp_path):
    pipe = sd_pipe(tmp_path, preview_vae=None)
    assert similarity(pipe, run(pipe, repulsion=PUSH)) < similarity(pipe, run(pipe)) - 1e-4


def test_identity_attracts(tmp_path):
    sd = sd_pipe(tmp_path, preview_vae=None)
    target = torch.randn(1, DIM, generator=torch.Generator().manual_seed(3))

    def near(painted: torch.Tensor) -> float:
        return torch.cosine_similarity(embed(sd.id_encoder, painted * 2 - 1), target).item()

    assert near(run(sd, identity=target)) > near(run(sd)) + 1e-4


def test_own_energies_are_minimised(tmp_path):
    sd = sd_pipe(tmp_path, preview_vae=None)

    def bright(x0: torch.Tensor) -> torch.Tensor:
        return (x0[..., 13:50, 10:45] + 1).mean((1, 2, 3))

    # With no repulsion at all, and beside one: an energy is nobody's but its own.
    for repulsion in (None, {"scale": 0.0}, {"scale": 30.0}):
        darker = run(sd, energies=[Energy(bright, scale=300.0, stop=1.0)], repulsion=repulsion)
        assert bright(darker) < bright(run(sd)) - 1e-3


def test_repulsion_of_scale_zero_changes_nothing(sd):
    assert run(sd, repulsion={"scale": 0.0}).equal(run(sd))


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "FlowMatchEulerDiscreteScheduler",
    ],
)
@pytest.mark.parametrize("channels", [4, 9])
def test_any_scheduler(tmp_path, name, channels):
    pipe = sd_pipe(tmp_path, channels)
    maker = getattr(diffusers, name)
    own = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    pipe.scheduler = maker() if name.startswith("Flow") else maker.from_config(pipe.scheduler.config, **own)
    painted = run(pipe, repulsion=PUSH, guidance_scale=1.0)
    assert painted.isfinite().all()
    assert not painted.equal(run(pipe, guidance_scale=1.0))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_repulsion_under_every_prediction_type(tmp_path, kind):
    pipe = sd_pipe(tmp_path, preview_vae=None)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    assert similarity(pipe, run(pipe, repulsion=PUSH)) < similarity(pipe, run(pipe))


def test_surroundings_of_a_plain_unet_are_the_crops(tmp_path):
    pipe = sd_pipe(tmp_path, 4)
    seen = []

    def keep(pipe, step, t, tensors):
        seen.append(tensors["latents"])
        return {}

    run(pipe, callback_on_step_end=keep)
    scene = pipe.prepare_scene(read_crops(inputs()["image"], inputs()["mask_image"], 8), 1)
    known, cells = scene.known, scene.cells
    assert torch.allclose(seen[-1] * (1 - cells), known * (1 - cells), atol=1e-5)
    assert len(seen) == 3


def test_callback_gets_what_it_asked_for_and_may_change_it(sd):
    def stop(pipe, step, t, tensors):
        assert set(tensors) == {"latents", "x0"}
        return {"latents": torch.zeros_like(tensors["latents"])}

    frozen = run(sd, callback_on_step_end=stop, callback_on_step_end_tensor_inputs=["latents", "x0"])
    assert frozen.equal(run(sd, callback_on_step_end=stop, callback_on_step_end_tensor_inputs=["latents", "x0"]))
    assert not frozen.equal(run(sd))


def test_forms_in_and_forms_out(sd):
    call = {**inputs(), "return_dict": False}
    (tensor,) = sd(**call)
    pil = {"image": Image.fromarray(call["image"][0]), "generator": inputs()["generator"]}
    mask = Image.fromarray((call["mask_image"][0, 0].numpy() * 255).astype(np.uint8))
    (array,) = sd(**{**call, **pil, "mask_image": mask, "output_type": "np"})
    assert array.shape == (1, SIZE, SIZE, 3)
    assert np.allclose(array, tensor.permute(0, 2, 3, 1), atol=1e-6)


def test_diffusers_own_guider_is_plain_guidance(sd):
    same = run(sd, guider=ClassifierFreeGuidance(guidance_scale=5.0))
    assert torch.allclose(same, run(sd, guidance_scale=5.0), atol=1e-5)


def test_half_precision_leaves_the_recogniser_in_float32(tmp_path):
    pipe = sd_pipe(tmp_path, control=True).to(torch.bfloat16)
    painted = run(pipe, repulsion=PUSH, landmarks=mesh(), guidance_scale=1.0)
    assert painted.isfinite().all()
    assert painted.dtype == torch.float32
    assert next(in_float32(pipe.id_encoder).parameters()).dtype == torch.float32
    assert next(pipe.id_encoder.parameters()).dtype == torch.bfloat16


def test_tiny_autoencoder_may_be_the_vae_itself(tmp_path):
    pipe = sd_pipe(tmp_path, vae=tiny_vae(), preview_vae=None)
    assert run(pipe, repulsion=PUSH).isfinite().all()


def test_a_narrow_vae_that_overflows_is_widened_and_put_back(tmp_path):
    pipe = sd_pipe(tmp_path)
    pipe.vae.register_to_config(force_upcast=True)
    pipe.vae.to(torch.float16)
    assert run(pipe).isfinite().all()
    assert pipe.vae.dtype == torch.float16


def test_attention_is_sdpa_without_a_gpu_and_says_so(sd, caplog):
    with caplog.at_level("INFO"):
        assert sd.use_best_attention() == "sdpa"
    assert "attention: sdpa (no xformers operators for cpu)" in caplog.text
    assert sd.attention == "sdpa"


def test_attention_names_xformers_when_it_runs(sd, monkeypatch):
    class XFormersAttnProcessor:
        pass

    monkeypatch.setattr(type(sd.unet), "attn_processors", {"a": XFormersAttnProcessor()})
    assert sd.attention == "xformers"


def test_components_are_left_as_found(sd):
    before = {name: (part.training, part.dtype) for name, part in sd.components.items() if hasattr(part, "training")}
    run(sd, repulsion=PUSH, landmarks=mesh())
    after = {name: (part.training, part.dtype) for name, part in sd.components.items() if hasattr(part, "training")}
    assert before == after
    assert all(weight.grad is None for weight in sd.unet.parameters())


def test_numbers_that_overflow_give_no_picture(tmp_path):
    pipe = sd_pipe(tmp_path)
    torch.nn.init.constant_(pipe.vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(RuntimeError, match=r"need finite pixels, got NaN .* load with dtype=torch.bfloat16"):
        run(pipe)


def test_offload_knows_its_components(pipe):
    named = {*pipe.model_cpu_offload_seq.split("->"), *pipe._exclude_from_cpu_offload}
    assert named <= set(pipe.components)
    models = {name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert models - named <= {"controlnet"}  # moved on its own, when it is called


def test_other_sizes_run(tmp_path):
    pipe = sd_pipe(tmp_path, unet=unet(9, sample_size=4))
    assert pipe.size == 32
    assert run(pipe).shape[-1] == SIZE
