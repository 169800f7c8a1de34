"""The detail stage as a component of the embedded model's pipeline, with tiny real networks."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.compositing.grain import crispen
from deid_diffusion.faces.align import crop_faces
from deid_diffusion.methods.sampling import gets_detail
from deid_diffusion.models.backends import use_backend
from deid_diffusion.pipelines.detail import lay
from deid_diffusion.pipelines.face_inpaint import FaceInpaintPipeline
from deid_diffusion.types import Outcome
from tests.test_anonymizer import FAST, NEVER, covered, face, picture
from tests.tiny import tiny_bank, tiny_detail, tiny_estimator, tiny_pipeline

SIZE = 64  # of the crops; the base sees half of it


@pytest.fixture(scope="module")
def pipe() -> FaceInpaintPipeline:
    return tiny_pipeline(SIZE // 2, tiny_detail(SIZE))


def given(batch: int = 2, **changes) -> dict:
    noise = torch.Generator().manual_seed(9)
    mask = torch.zeros(batch, 1, SIZE, SIZE)
    mask[:, :, 13:50, 11:45] = 1  # its edges are no edges of the base's pixels
    return {
        "image": torch.rand(batch, 3, SIZE, SIZE, generator=noise), "mask_image": mask, "num_inference_steps": 2,
        "generator": [torch.Generator().manual_seed(100 + row) for row in range(batch)], "output_type": "pt",
    } | changes  # fmt: skip


def test_crops_are_of_the_size_of_the_detail_stage_and_known_pixels_keep_their_bits(pipe):
    assert (pipe.size, pipe.base_size) == (SIZE, SIZE // 2)
    one = given()
    images = pipe(**one).images
    outside = (one["mask_image"] == 0).expand_as(images)
    assert torch.equal(images[outside], one["image"][outside])
    with pytest.raises(ValueError, match="64 x 64 pixels, got"):
        pipe(**given(image=one["image"][..., ::2, ::2], mask_image=one["mask_image"][..., ::2, ::2]))


def test_nothing_under_the_mask_is_read(pipe):
    one = given()
    other = torch.where(one["mask_image"] > 0, 1 - one["image"], one["image"])
    assert torch.equal(pipe(**one).images, pipe(**given(image=other)).images)


def test_it_is_saved_and_loaded_with_the_pipeline_and_without_it_the_base_is_what_it_was(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = FaceInpaintPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.allclose(loaded(**given()).images, pipe(**given()).images, atol=1e-5)
    bare = FaceInpaintPipeline.from_pretrained(tmp_path, detail=None)
    bare.set_progress_bar_config(disable=True)
    assert bare.size == SIZE // 2
    small = {name: given()[name][..., ::2, ::2].contiguous() for name in ("image", "mask_image")}
    assert torch.equal(bare(**given(**small)).images, tiny_pipeline(SIZE // 2)(**given(**small)).images)


def test_faces_that_get_none_are_the_base_enlarged_whatever_the_others_get(pipe):
    one = given(output_type="latent", with_detail=[True, False])
    mixed = pipe(**one).images
    both, none = (pipe(**given(output_type="latent", with_detail=flag)).images for flag in (True, False))
    assert torch.allclose(mixed[0], both[0], atol=1e-5)
    assert torch.equal(mixed[1], none[1])
    assert not torch.allclose(both[1], none[1], atol=1e-2)
    steps = []
    pipe(**given(callback_on_step_end=lambda *step: steps.append(step[3]["latents"])))
    image = one["image"] * 2 - 1
    assert torch.equal(none, lay(steps[-1], image, one["mask_image"]))
    with pytest.raises(ValueError, match="one with_detail a face"):
        pipe(**given(with_detail=[True]))


def test_a_face_is_the_same_in_any_batch_with_points_in_the_pixels_of_its_crop(pipe):
    points = torch.rand(2, 27, 2, generator=torch.Generator().manual_seed(1)) * SIZE
    both = given(landmarks=points)
    together = pipe(**both).images
    alone = given(1, landmarks=points[1:], generator=[torch.Generator().manual_seed(101)])
    alone |= {name: both[name][1:] for name in ("image", "mask_image")}
    assert torch.allclose(pipe(**alone).images, together[1:], atol=1e-5)
    small = tiny_pipeline(SIZE // 2)
    image, mask = F.avg_pool2d(both["image"], 2), F.max_pool2d(both["mask_image"], 2)
    base = small(**given(image=image, mask_image=mask, landmarks=points / 2, output_type="latent")).images
    laid = pipe(**given(landmarks=points, output_type="latent", with_detail=False)).images
    assert torch.allclose(laid, lay(base, both["image"] * 2 - 1, both["mask_image"]), atol=1e-5)


def test_the_unet_may_run_on_onnx_while_the_detail_stage_stays_with_torch(pipe):
    pytest.importorskip("onnxruntime")
    mixed = tiny_pipeline(SIZE // 2, tiny_detail(SIZE))
    assert use_backend(mixed, "onnx").startswith("onnxruntime")
    assert torch.allclose(mixed(**given()).images, pipe(**given()).images, atol=1e-3)


def test_only_faces_that_are_large_in_their_picture_get_it():
    """Also: what the anonymizer makes of them holds nothing of the source."""
    faces = [face(400, 300, 120), face(80, 90, 30)]
    image = picture(640, 800)
    pipe = tiny_pipeline(256, tiny_detail(512))
    anonymize = FaceAnonymizer(pipe, tiny_estimator(), tiny_bank(), NEVER, detect=lambda image: faces)
    assert anonymize.size == 512
    flags = [gets_detail(pipe, crop) for crop in crop_faces(image, faces, anonymize.estimator, 512)]
    assert flags == [True, False]
    assert not gets_detail(tiny_pipeline(256), crop_faces(image, faces, anonymize.estimator)[0])
    asked = []
    call = FaceInpaintPipeline.__call__

    class Watched(FaceInpaintPipeline):
        def __call__(self, *args, **more):
            asked.append(more["with_detail"])
            return call(self, *args, **more)

    pipe.__class__ = Watched
    Watched.__call__.__signature__ = inspect.signature(call)
    result = anonymize(image, settings=FAST, candidates=1)
    assert asked == [[True, False]]
    assert [one.outcome for one in result.faces] == [Outcome.REPLACED] * 2
    assert all(covered(image, result.image, one) for one in faces)


def test_what_was_enlarged_gets_the_contrast_that_it_would_have_had_before():
    rng = np.random.default_rng(0)
    small = rng.uniform(60, 190, (32, 32, 3)).astype(np.float32)
    everywhere = np.ones((64, 64), bool)
    large = np.kron(small, np.ones((2, 2, 1), np.float32))
    gain = crispen(large, everywhere, 2.0) - large
    wanted = crispen(small, everywhere[:32, :32]) - small
    shrunk = gain.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.corrcoef(shrunk[4:-4, 4:-4].ravel(), wanted[4:-4, 4:-4].ravel())[0, 1] > 0.95
    plain = crispen(large, everywhere) - large
    assert np.abs(plain.reshape(32, 2, 32, 2, 3).mean((1, 3))).mean() < 0.5 * np.abs(shrunk).mean()
