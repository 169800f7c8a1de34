"""What a portrait is labelled as, and for what it is left out."""

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from deid_diffusion.faces.estimator import FaceEstimator
from deid_diffusion.faces.facemesh import FaceMesh
from deid_diffusion.faces.geometry import FIVE
from deid_diffusion.faces.lenses import lens_shade
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.training.face_labels import MEASURED, Labeller, load_net


@pytest.fixture(scope="module")
def label(weights) -> Labeller:
    from transformers import ResNetForImageClassification

    guide = ResNetForImageClassification.from_pretrained(weights / "face256" / "id_encoder", dtype=torch.float32)
    return Labeller(FaceEstimator.from_pretrained(weights / "face_estimator"), guide.eval())


@pytest.fixture(scope="module")
def portrait(astronaut) -> np.ndarray:
    """(1024, 1024, 3): her face as large as the generator paints them."""
    return np.asarray(Image.fromarray(astronaut[:300, 70:370]).resize((1024, 1024), Image.Resampling.LANCZOS))


def test_a_portrait_is_cut_out_and_described(label, portrait):
    face = label(portrait)
    assert face.fault in ("", "unlike photos")  # enlarged three times
    assert face.large.shape == (512, 512, 3)
    assert face.small.shape == (256, 256, 3)
    assert face.landmarks.shape == (478, 3)
    eyes = face.landmarks[list(FIVE[:2]), 1]
    assert abs(eyes[0] - eyes[1]) < 8  # upright
    assert 400 < face.native_side < 1024
    named = dict(zip(ATTRIBUTE_NAMES, face.attributes.tolist(), strict=True))
    assert named["glasses"] < 0.5
    assert named["smile"] > 0.5
    measured = dict(zip(MEASURED, face.measured.tolist(), strict=True))
    assert measured["log_age"] == pytest.approx(np.log(named["age"] + 5), abs=1e-4)
    assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-4)
    assert np.isfinite(face.measured).all()


def test_a_picture_without_a_face_says_so(label):
    grain = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    assert label(grain) == "no face"


def test_a_second_face_is_a_fault(label, portrait):
    both = np.full((1024, 1024, 3), 128, np.uint8)
    half = np.asarray(Image.fromarray(portrait).resize((512, 512)))
    both[:512, :512], both[512:, 512:] = half, half
    assert label(both).fault == "second face"


def test_a_face_too_small_to_fill_a_crop_is_a_fault(label, portrait):
    far = np.full((1024, 1024, 3), 128, np.uint8)
    far[300:684, 300:684] = np.asarray(Image.fromarray(portrait).resize((384, 384)))
    assert label(far).fault == "too small"


def test_dark_lenses_are_told_from_bare_eyes_and_make_glasses(label, portrait):
    face = label(portrait)
    places = face.landmarks[list(FIVE[:2]), :2] @ np.linalg.inv(face.crop256_from_image1024[:, :2]).T
    shift = -np.linalg.inv(face.crop256_from_image1024[:, :2]) @ face.crop256_from_image1024[:, 2]
    worn = Image.fromarray(portrait)
    for x, y in places + shift:
        ImageDraw.Draw(worn).ellipse([x - 105, y - 80, x + 105, y + 80], fill=(18, 16, 20))
    shade = MEASURED.index("lens_shade")
    assert face.measured[shade] < 0.3
    dark = label(np.asarray(worn))
    assert dark.measured[shade] > 0.5
    assert [dark.attributes[ATTRIBUTE_NAMES.index(name)] for name in ("glasses", "sunglasses")] == [1, 1]
    assert face.attributes[ATTRIBUTE_NAMES.index("sunglasses")] == 0
    read = [label.estimator.analyze(one.small[None])[0].attributes.sunglasses for one in (face, dark)]
    assert read == [0, 1]


def test_eyes_in_the_shade_are_no_sunglasses(label, portrait):
    face = label(portrait)
    inverse = np.linalg.inv(face.crop256_from_image1024[:, :2])
    shaded = portrait.astype(float)
    y, x = np.mgrid[:1024, :1024]
    for eye in face.landmarks[list(FIVE[:2]), :2]:
        at = inverse @ (eye - face.crop256_from_image1024[:, 2])
        shaded *= 1 - 0.72 * np.exp(-((((x - at[0]) / 130) ** 2 + ((y - at[1]) / 100) ** 2) ** 2))[..., None]
    shaded = shaded.astype(np.uint8)
    dark = label(shaded)
    assert lens_shade(dark.small, dark.landmarks, dark.attributes[ATTRIBUTE_NAMES.index("skin_l")]) > 0.38
    assert dark.measured[MEASURED.index("lens_shade")] < 0.38
    assert dark.attributes[ATTRIBUTE_NAMES.index("glasses")] < 0.5


def test_lenses_outside_of_the_crop_have_no_shade():
    assert lens_shade(np.zeros((256, 256, 3), np.uint8), np.full((478, 3), -900.0), 50.0) == 0


class Years(torch.nn.Module):
    def forward(self, face: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        dark = face.mean() / 255
        return 7.0 + 0 * dark.view(1, 1), torch.stack([dark * 0 - 5, dark * 0 + 5]).view(1, 2)


class Corner(torch.nn.Module):
    """An embedding that tells the order of the channels."""

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        return face.mean((2, 3))


def test_networks_that_are_named_take_over(label, portrait, tmp_path):
    for net, side in ((Years(), 112), (Corner(), 128)):
        name = str(tmp_path / f"{side}.ts.pt")
        torch.jit.trace(net, torch.zeros(1, 3, side, side)).save(name)
    nets = [load_net(str(tmp_path / f"{side}.ts.pt")) for side in (128, 112)]
    face = Labeller(label.estimator, label.id_encoder, None, *nets)(portrait)
    named = dict(zip(ATTRIBUTE_NAMES, face.attributes.tolist(), strict=True))
    assert named["age"] == pytest.approx(7)
    assert named["male"] < 0.01
    blue, _, red = face.embedding
    assert red > 1.2 * blue  # skin, and BGR


def test_a_network_that_is_not_there_is_named(tmp_path):
    assert load_net("") is None
    with pytest.raises(FileNotFoundError, match=r"wanted a TorchScript file, got .*nothing\.pt"):
        load_net(str(tmp_path / "nothing.pt"))


def test_a_python_without_mediapipe_is_refused_with_what_to_install(tmp_path):
    with pytest.raises(ValueError, match="wanted a Python with mediapipe.*No module named 'mediapipe'.*pip install"):
        FaceMesh(sys.executable)
    with pytest.raises(FileNotFoundError, match="which is no program; pip install"):
        FaceMesh(str(tmp_path / "python"))


def test_landmarks_by_mediapipe_are_near_the_estimators(label, portrait):
    python = os.environ.get("DEID_FACEMESH")
    if not python:
        pytest.skip("set DEID_FACEMESH to a Python with mediapipe==0.10.14 and numpy<2")
    mesh = FaceMesh(python)
    assert mesh(np.full((512, 512, 3), 90, np.uint8)) is None
    face = Labeller(label.estimator, label.id_encoder, mesh)(portrait)
    mesh.close()
    apart = np.linalg.norm(face.landmarks[:, :2] - label(portrait).landmarks[:, :2], axis=1)
    assert apart.mean() < 6
    assert apart.max() > 0
