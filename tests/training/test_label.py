"""Hand labels spread over all crops: where a person looked and where not."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from deid_diffusion.faces.attribute_classifiers import REGIONS, AttributeClassifiers, look
from deid_diffusion.faces.estimator import as_unit
from deid_diffusion.faces.face_shape import Placement, rotation_from_angles
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.training import label
from deid_diffusion.training.data import load_faces
from deid_diffusion.training.hand_labels import HAND, HandLabels, score
from tests.tiny import tiny_estimator, tiny_shape

PEOPLE, LABELLED = 48, 32


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Grainy ovals; every second one has rings before the eyes, every third dark grain below the mouth."""
    folder, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    place = Placement(60.0, rotation_from_angles(0.0, 0.0, 0.0), np.array([128.0, 112, 0]))
    landmarks = place.place(tiny_shape().mean)
    with tarfile.open(folder / "synthetic-00.tar", "w") as tar:
        for n in range(PEOPLE):
            entry = tarfile.TarInfo(f"{n:05d}.webp")
            data = picture(landmarks, n % 2 == 0, n % 3 == 0, rng)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    embedding = rng.normal(size=(PEOPLE, 256))
    np.savez(
        folder / "synthetic.npz", key=np.array([f"{n:05d}" for n in range(PEOPLE)]), source=np.full(PEOPLE, "sfhq"),
        landmarks=np.stack([landmarks + 0.3 * rng.normal(size=(478, 3)) for _ in range(PEOPLE)]).astype(np.float16),
        embedding=embedding.astype(np.float16), age=rng.uniform(20, 60, PEOPLE).astype(np.float16),
        male=rng.uniform(size=PEOPLE).astype(np.float16), split=np.full(PEOPLE, "train"),
        expression=rng.dirichlet(np.ones(7), PEOPLE).astype(np.float16),
    )  # fmt: skip
    return folder


def picture(landmarks: np.ndarray, glasses: bool, hair: bool, rng: np.random.Generator) -> bytes:
    pixels = rng.normal(170, 6, (256, 256, 3)) * rng.uniform(0.7, 1, 3)
    if hair:
        x, y = landmarks[[13, 14], :2].mean(0).astype(int)
        pixels[y + 8 : y + 50, x - 40 : x + 40] *= rng.uniform(0.2, 0.6, (42, 80, 1))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    for x, y in landmarks[[468, 473], :2] if glasses else ():
        ImageDraw.Draw(image).ellipse([x - 22, y - 18, x + 22, y + 18], outline=(30, 20, 20), width=3)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90)
    return buffer.getvalue()


def hand_csv(path, rows) -> str:
    path.write_text("key,glasses,facial_hair,split\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return str(path)


def test_labels_reach_the_crops_that_nobody_looked_at(crops, tmp_path):
    rows = [
        (f"{n:05d}", int(n % 2 == 0), "" if n == 1 else int(n % 3 == 0), "holdout" if n % 4 == n % 3 else "train")
        for n in range(LABELLED)
    ]
    out = tmp_path / "labels.npz"
    scores = label.label(label.Options(data=str(crops), hand=hand_csv(tmp_path / "hand.csv", rows), out=str(out)))
    assert scores["glasses"]["accuracy"] == 1
    assert scores["facial_hair"]["accuracy"] == 1
    assert scores["glasses, by the estimator's classifier"]["accuracy"] == 1
    labels = np.load(out)
    new = np.arange(LABELLED, PEOPLE)
    assert ((labels["glasses"][new] > 0.5) == (new % 2 == 0)).all()
    assert ((labels["facial_hair"][new] > 0.5) == (new % 3 == 0)).all()
    assert labels["glasses"][:2].tolist() == [1, 0]  # what was seen stays
    assert 0 < labels["facial_hair"][1] < 0.5  # an empty cell was not seen
    faces = load_faces(crops, labels=str(out))
    assert torch.isfinite(faces.attributes[:, ATTRIBUTE_NAMES.index("glasses")]).all()
    # An estimator that is given the classifiers finds as much, at any size of crop, and its network no more.
    estimator, classifiers = tiny_estimator(), AttributeClassifiers.load(out.with_suffix(".safetensors"))
    images = faces.images[new].permute(0, 2, 3, 1).numpy()
    for size in (256, 320):
        shown = np.stack([np.asarray(Image.fromarray(image).resize((size, size), Image.BICUBIC)) for image in images])
        points = faces.landmarks[new].numpy() * size / 256
        found = classifiers(as_unit(shown), points)
        assert ((found["glasses"].numpy() > 0.5) == (new % 2 == 0)).all()
        assert ((found["facial_hair"].numpy() > 0.5) == (new % 3 == 0)).all()
    bare = [analysis.attributes for analysis in estimator.analyze(images)]
    estimator.classifiers = classifiers
    classified = [analysis.attributes for analysis in estimator.analyze(images)]
    assert [a.age for a in bare] == [a.age for a in classified]
    assert [a.glasses for a in bare] != [a.glasses for a in classified]


def test_the_hold_out_is_left_out_of_what_is_drawn(crops, tmp_path):
    faces = load_faces(crops)
    hand = HandLabels.load(hand_csv(tmp_path / "hand.csv", [("00003", 1, 1, "holdout"), ("00004", 1, 1, "train")]))
    hand.leave_out(faces)
    drawn = set(faces.draw(2000, torch.Generator().manual_seed(0)).tolist())
    assert drawn == set(range(PEOPLE)) - {3}


@pytest.mark.parametrize(
    ("text", "message"),
    [("key,glasses\n1,0\n", "must have rows with facial_hair, glasses, key, split"),
     ("key,glasses,facial_hair,split\n1,0,2,train\n", r"labels must lie in 0\.\.1")],
)  # fmt: skip
def test_a_wrong_table_says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "hand.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        HandLabels.load(path)


def test_labels_for_other_crops_are_refused(crops, tmp_path):
    hand = hand_csv(tmp_path / "hand.csv", [("elsewhere", 1, 1, "train")])
    with pytest.raises(ValueError, match="none of the 1 crops"):
        label.label(label.Options(data=str(crops), hand=hand, out=str(tmp_path / "labels.npz")))


def test_scores_count_clear_cases_and_leave_stubble_to_the_mean_error():
    scores = score(np.array([0.9, 0.2, 0.6, 0.1]), np.array([1.0, 0.0, 0.0, 0.5]))
    assert (scores["accuracy"], scores["auc"], scores["recall"]) == (0.6667, 1, 1)
    assert (scores["precision"], scores["mean_error"]) == (0.5, 0.325)


def test_the_hand_labels_of_the_repository_are_sound():
    hand = HandLabels.load(HAND)
    assert len(set(hand.key.tolist())) == len(hand.key)
    assert 300 < hand.holdout.sum() < len(hand.key) / 2
    assert np.isfinite(hand.values["glasses"][hand.holdout]).all()


@pytest.mark.parametrize("name", REGIONS)
def test_a_region_is_described_alike_in_a_mirror_and_under_other_light(name):
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    points = torch.full((1, 478, 3), 128.0)
    seen = look(image, points, REGIONS[name])
    assert torch.allclose(look(image.flip(-1), points, REGIONS[name]), seen, atol=1e-3)
    brighter = look(image + 0.2, points, REGIONS[name])
    assert torch.allclose(brighter, seen, atol=1e-3)


@pytest.mark.parametrize("name", REGIONS)
def test_a_region_without_an_edge_has_a_gradient(name):
    """Training takes a classifier's gradient, also on a crop that is blank in places."""
    image = torch.full((1, 3, 256, 256), 0.5)
    image[..., 128:] = torch.rand(1, 3, 256, 128, generator=torch.Generator().manual_seed(0))
    image.requires_grad_(True)
    look(image, torch.full((1, 478, 3), 128.0), REGIONS[name]).square().sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad[..., 140:160].abs().max() > 0


def test_classifiers_for_something_else_are_refused(tmp_path):
    AttributeClassifiers({"hat": torch.zeros(9)}).save(tmp_path / "attribute_classifiers.safetensors")
    with pytest.raises(ValueError, match="must hold classifiers for glasses, facial_hair, male; got hat"):
        AttributeClassifiers.load(tmp_path / "attribute_classifiers.safetensors")


def test_an_equal_error_threshold_mistakes_either_kind_as_often():
    logits = np.array([-2.0, -1.0, 0.2, 0.6, 0.5, 1.0, 2.0, 3.0])
    target = np.array([0, 0, 0, 0, 1, 1, 1, 1], bool)
    threshold = label.equal_error_threshold(logits, target)
    assert (logits[~target] > threshold).sum() == (logits[target] < threshold).sum()
    assert 0.2 < threshold < 1
    assert label.equal_error_threshold(np.array([-3.0, 1.0, 2.0]), np.array([False, False, True])) == pytest.approx(
        1.5
    )
