import numpy as np
import pytest

from deid_diffusion.methods.redact import CELLS, ENLARGE, face_region, redact, redact_face
from deid_diffusion.types import Face, Redaction


def noise(height=120, width=160, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def face_at(x0, y0, x1, y1) -> Face:
    unit = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    return Face([x0, y0, x1, y1], [x0, y0] + unit * [x1 - x0, y1 - y0])


FACES = {
    "in the middle": face_at(50, 40, 90, 90),
    "one pixel": face_at(80, 60, 81, 61),
    "over the corner": face_at(-20, -30, 30, 20),
    "the whole picture": face_at(0, 0, 160, 120),
    "points far off": Face([50, 40, 90, 90], np.full((5, 2), 1e9)),
    "points on one spot": Face([50, 40, 90, 90], np.full((5, 2), 60)),
}


@pytest.mark.parametrize("how", list(Redaction))
@pytest.mark.parametrize("name", FACES)
def test_the_enlarged_box_goes_and_all_else_keeps_its_bits(name, how):
    image, face = noise(), FACES[name]
    before = image.copy()
    out, touched = redact_face(image, face, how)
    centre, half = (face.box[:2] + face.box[2:]) / 2, (face.box[2:] - face.box[:2]) / 2
    y, x = np.mgrid[:120, :160] + 0.5
    covered = (np.abs(x - centre[0]) <= 1.15 * half[0]) & (np.abs(y - centre[1]) <= 1.15 * half[1])
    assert touched[covered].all()
    assert np.array_equal(out[~touched], image[~touched])
    assert np.array_equal(image, before)
    assert out.dtype == np.uint8
    assert touched.dtype == bool
    # Of noise, hardly a pixel may come out as it went in.
    if touched.sum() > 100:
        assert (out[touched] == image[touched]).all(-1).mean() < 0.02


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize(("how", "most"), [(Redaction.BLANK, 1), (Redaction.PIXELATE, CELLS**2)])
def test_few_numbers_are_left_of_a_face_however_large(how, most, scale):
    face = Face(FACES["in the middle"].box * scale, FACES["in the middle"].landmarks * scale)
    out, touched = redact_face(noise(120 * scale, 160 * scale), face, how)
    assert len(np.unique(out[touched], axis=0)) <= most


@pytest.mark.parametrize("how", [Redaction.BLUR, Redaction.PIXELATE])
def test_faces_that_differ_only_in_detail_become_the_same(how):
    # Same mean in every cell, opposite detail: an undoable blur would tell them apart.
    board = np.indices((120, 160)).sum(0) % 2
    one, two = (np.repeat((100 + 50 * b).astype(np.uint8)[..., None], 3, 2) for b in (board, 1 - board))
    face = FACES["in the middle"]
    touched = face_region(face, (120, 160))
    assert np.array_equal(redact(one, touched, how)[touched], redact(two, touched, how)[touched])


def test_blur_has_no_detail_left():
    out, touched = redact_face(noise(), FACES["in the middle"], Redaction.BLUR)
    step = np.abs(np.diff(out.astype(int), axis=1))[touched[:, 1:] & touched[:, :-1]]
    assert step.max() <= 12


@pytest.mark.parametrize("roll_deg", [0, 30, 90, 180])
def test_a_rolled_faces_chin_and_brow_are_covered(roll_deg):
    turn = np.radians(roll_deg)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    unit = np.array([[-10, -6], [10, -6], [0, 4], [-8, 14], [8, 14.0]])
    # The box is too small on purpose, as detectors give it for rolled faces.
    face = Face([72, 52, 88, 68], unit @ rotation.T + [80, 60])
    touched = face_region(face, (120, 160))
    for spot in ([0, 26], [0, -20], [-18, 4], [18, 4]):
        x, y = np.floor(rotation @ spot + [80, 60]).astype(int)
        assert touched[y, x], spot


def test_a_soft_mask_counts_from_above_zero_and_nothing_is_nothing():
    mask = np.zeros((120, 160), np.float32)
    assert np.array_equal(redact(noise(), mask, Redaction.BLANK), noise())
    mask[10:20, 10:20] = 1e-3
    assert (redact(noise(), mask, Redaction.BLANK)[10:20, 10:20] == 128).all()


def test_parts_that_do_not_touch_are_hidden_each_by_itself():
    image = np.zeros((40, 200, 3), np.uint8)
    image[:, 100:] = 200
    region = np.zeros((40, 200), bool)
    region[10:30, 10:30] = region[10:30, 170:190] = True
    out = redact(image, region, Redaction.BLUR)
    assert out[10:30, 10:30].max() < 10
    assert out[10:30, 170:190].min() > 190


def test_the_kind_may_be_a_word_and_an_unknown_one_is_refused():
    face = FACES["in the middle"]
    words, kinds = redact_face(noise(), face, "blur")[0], redact_face(noise(), face, Redaction.BLUR)[0]
    assert np.array_equal(words, kinds)
    with pytest.raises(ValueError, match="smudge"):
        redact_face(noise(), face, "smudge")
    with pytest.raises(ValueError, match="image's size"):
        redact(noise(), np.zeros((3, 3)), "blur")
    assert ENLARGE >= 1.15
