import numpy as np
import pytest
from PIL import Image

from deid_diffusion import FaceAnonymizer
from deid_diffusion.faces.align import crop_faces, cut
from deid_diffusion.imaging.alpha import look, shows, views, without_faces
from deid_diffusion.imaging.pictures import Picture, load_picture
from deid_diffusion.types import Face, Outcome

FIVE = np.array([[4, 4], [8, 4], [6, 6], [4, 8], [8, 8]], float)


@pytest.fixture(scope="module")
def anonymize(anonymizer) -> FaceAnonymizer:
    return anonymizer


@pytest.fixture(scope="module")
def portrait(astronaut) -> np.ndarray:
    return np.ascontiguousarray(astronaut[:256, 96:352])


@pytest.fixture(scope="module")
def known(anonymize, portrait):
    """How much the face of a view is like the source's, by the guide, where the source's face was."""
    crop = crop_faces(portrait, anonymize.detect(portrait)[:1], anonymize.estimator, anonymize.size)[0]
    source = anonymize._embed(crop.image[None])[0]
    return lambda view: float(anonymize._embed(cut(view, crop.crop_from_image)[None])[0] @ source)


def grey(photo: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(photo).convert("L"))


def white_to_alpha(photo: np.ndarray) -> np.ndarray:
    """As image editors do: what is left of each colour once white is taken for transparency."""
    part = photo / 255
    alpha = (1 - part).max(2)
    colour = np.where(alpha[..., None] > 0, (part - 1) / np.maximum(alpha[..., None], 1e-6) + 1, 0)
    return np.rint(np.dstack([colour, alpha]).clip(0, 1) * 255).astype(np.uint8)


def hidden(photo: np.ndarray) -> np.ndarray:
    alpha = np.full(photo.shape[:2], 255, np.uint8)
    alpha[:220, 40:220] = 0
    return np.dstack([photo, alpha])


KINDS = {
    "black ink": lambda p: np.dstack([np.zeros_like(p), 255 - grey(p)]),
    "white ink": lambda p: np.dstack([np.full_like(p, 255), grey(p)]),
    "middle ink": lambda p: np.dstack([np.full_like(p, 128), 255 - grey(p)]),
    "white to alpha": white_to_alpha,
    "own lightness": lambda p: np.dstack([p, grey(p)]),
    "few levels": lambda p: np.dstack([np.full_like(p, 90), 247 + grey(p) // 32]),
    "hidden colour": hidden,
    "half": lambda p: np.dstack([p, np.full(p.shape[:2], 128, np.uint8)]),
    "16 bit": lambda p: np.dstack([p, 255 - grey(p)]).astype(np.uint16) * 257,
}


@pytest.mark.parametrize("method", ["blank", "inpaint"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_view_of_the_output_shows_the_source(anonymize, portrait, known, tmp_path, kind, method):
    pixels = KINDS[kind](portrait)
    result = anonymize(pixels, seed=3, method=method)
    assert [face.outcome for face in result.faces] == [Outcome.REDACTED if method == "blank" else Outcome.REPLACED]
    result.save(tmp_path / "a.png")
    saved = load_picture(tmp_path / "a.png")
    alpha = saved.alpha if saved.alpha.dtype == np.uint8 else (saved.alpha >> 8).astype(np.uint8)
    shown = [saved.image, np.dstack([alpha] * 3), 255 - np.dstack([alpha] * 3)]
    shown += [view for view, _ in views(saved.image, saved.alpha)] if shows(saved.alpha) else []
    assert max(known(view) for view in shown) < anonymize.thresholds["far_0.05"]
    before = load_picture(pixels)
    far = ~result.changed_mask
    assert np.array_equal(saved.image[far], before.image[far])
    assert np.array_equal(saved.alpha[far], before.alpha[far])


def write(path, pixels: np.ndarray):
    image = Image.fromarray(pixels)
    if path.suffix == ".gif":
        image = image.convert("RGBA")
    image.save(path, **({"lossless": True, "exact": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize("name", ["la.png", "ink.webp", "ink.tif", "palette.png", "stamp.gif"])
def test_every_format_with_alpha_loses_the_face(anonymize, portrait, known, tmp_path, name):
    ink = 255 - grey(portrait)
    if name == "la.png":
        path = write(tmp_path / name, np.dstack([np.zeros_like(ink), ink]))
    elif name == "palette.png":
        image = Image.fromarray(ink)
        image = Image.frombytes("P", image.size, ink.tobytes())
        image.putpalette([0, 0, 0] * 256)
        image.save(tmp_path / name, transparency=bytes(range(256)))
        path = tmp_path / name
    else:
        dots = np.asarray(Image.fromarray(ink).convert("1")) * np.uint8(255)
        ink = dots if name == "stamp.gif" else ink
        path = write(tmp_path / name, np.dstack([np.zeros_like(portrait), ink]))
    assert load_picture(path).alpha is not None
    result = anonymize(path, method="blank")
    assert result.faces
    out = np.dstack([255 - result.alpha] * 3)
    assert known(out) < anonymize.thresholds["far_0.05"]
    if name != "stamp.gif":
        assert known(np.dstack([255 - load_picture(path).alpha] * 3)) > 0.9


def test_opaque_pictures_are_looked_at_once_and_come_out_as_they_did(portrait):
    calls = []

    def detect(image):
        calls.append(image)
        return []

    for alpha in (None, np.full(portrait.shape[:2], 255, np.uint8), np.full(portrait.shape[:2], 9, np.uint16)):
        calls.clear()
        seen = look(detect, portrait, alpha)
        assert seen.image is portrait
        assert len(calls) == 1
        assert calls[0] is portrait
        assert without_faces(alpha, np.ones(portrait.shape[:2], bool)) is alpha


def test_faces_of_all_views_are_treated_once(portrait):
    alpha = grey(portrait)
    common, alone = Face([4, 4, 40, 40], FIVE, 0.9), Face([100, 100, 140, 140], FIVE + 100, 0.3)
    larger = Face([0, 0, 44, 44], FIVE, 0.8)

    def detect(image):
        if image is portrait:
            return [common]
        return [larger, alone] if (image == image[..., :1]).all() else []

    faces = look(detect, portrait, alpha).faces
    assert [face.score for face in faces] == [0.9, 0.3]
    assert faces[0].box.tolist() == [0, 0, 44, 44]


def test_two_faces_of_one_view_stay_two(portrait):
    two = [Face([10, 10, 50, 50], FIVE, 0.9), Face([20, 10, 60, 50], FIVE, 0.8)]
    faces = look(lambda image: two if image is portrait else [], portrait, grey(portrait)).faces
    assert len(faces) == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_inside_follows_from_alpha_outside_alone(dtype):
    rng = np.random.default_rng(1)
    top = np.iinfo(dtype).max
    alpha = rng.integers(0, top, (60, 80), dtype, endpoint=True)
    changed = np.zeros((60, 80), bool)
    changed[10:50, 20:60] = True
    other = alpha.copy()
    # Other pixels of the same mean: nothing else may tell them apart.
    other[changed] = rng.permutation(alpha[changed])
    one, two = without_faces(alpha, changed), without_faces(other, changed)
    assert np.array_equal(one, two)
    assert one.dtype == dtype
    assert np.array_equal(one[~changed], alpha[~changed])
    assert (one[22:38, 32:48] == top).all()


@pytest.mark.parametrize(("around", "inside", "becomes"), [(128, 128, 128), (255, 90, 255), (90, 0, 0), (0, 90, 255)])
def test_what_goes_where_a_face_was(around, inside, becomes):
    alpha = np.full((60, 80), around, np.uint8)
    alpha[20:40, 30:50] = inside
    alpha[0, 0] = 77
    changed = np.zeros((60, 80), bool)
    changed[20:40, 30:50] = True
    assert int(without_faces(alpha, changed)[30, 40]) == becomes


def test_a_face_that_covers_the_picture_leaves_nothing():
    alpha = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    assert (without_faces(alpha, np.ones((20, 30), bool)) == 255).all()


def test_a_result_made_by_hand_loses_its_alpha_where_it_differs(portrait, tmp_path):
    from deid_diffusion.result import AnonymizedImage

    image = portrait.copy()
    image[40:200, 40:200] = 0
    AnonymizedImage(image, (), source=Picture(portrait, grey(portrait))).save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png").alpha[100:140, 100:140].min() == 255
