from dataclasses import replace

import cv2
import numpy as np
import pytest

from deid_diffusion.compositing.colour import match_colour
from deid_diffusion.compositing.grain import edge_blur, grain
from deid_diffusion.compositing.paste import Patch, feather, paste_faces
from deid_diffusion.faces.geometry import apply, crop_from_image, invert
from deid_diffusion.imaging.pictures import merge_deep
from deid_diffusion.types import FaceCrop

SIDE = 128
# Irises, corners of the mouth, nose tip and cheeks, of the crop's side.
FEATURES = {468: (0.4, 0.44), 473: (0.6, 0.44), 61: (0.42, 0.66), 291: (0.58, 0.66), 151: (0.5, 0.32), 9: (0.5, 0.38)}
FEATURES |= dict.fromkeys((117, 118, 101, 50, 205), (0.38, 0.56))
FEATURES |= dict.fromkeys((346, 347, 330, 280, 425), (0.62, 0.56))


def smooth_noise(height: int, width: int, sigma: float, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 with detail no finer than sigma."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((height, width, 3)), (0, 0), sigma)
    return np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)


def five_points(centre: tuple[float, float], size: float, roll_deg: float = 0.0) -> np.ndarray:
    """(5, 2) of a face `size` pixels wide."""
    unit = np.array([[-0.23, -0.1], [0.23, -0.1], [0, 0.12], [-0.17, 0.33], [0.17, 0.33]]) * size
    turn = np.radians(roll_deg)
    return unit @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + centre


def crop_of(image: np.ndarray, matrix: np.ndarray, side: int = SIDE, soft: bool = False) -> FaceCrop:
    """A crop with an elliptic face, its outline as landmarks, and a mask that reaches 10 % of the side further."""
    angle = np.linspace(0, 2 * np.pi, 478, endpoint=False)
    outline = np.stack([0.5 + 0.24 * np.cos(angle), 0.52 + 0.30 * np.sin(angle)], 1) * side
    for number, place in FEATURES.items():
        outline[number] = np.array(place) * side
    y, x = np.mgrid[:side, :side] + 0.5
    far = np.hypot((x / side - 0.5) / 0.34, (y / side - 0.52) / 0.40)
    mask = np.clip((1 - far) * 8, 0, 1) if soft else (far < 1)
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2].sum(1) * 0.5 - 0.5
    pixels = cv2.warpAffine(image, shifted, (side, side), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
    return FaceCrop(pixels, mask.astype(np.float32), outline.astype(np.float32), matrix)


def inside_hull(crop: FaceCrop, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the picture's pixels whose centre lies in the face, by ray casting in picture coordinates."""
    polygon = apply(invert(crop.crop_from_image), crop.landmarks).astype(np.float32)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    found = [
        cv2.pointPolygonTest(polygon, (float(a), float(b)), False) > 0 for a, b in zip(x.flat, y.flat, strict=True)
    ]
    return np.array(found).reshape(shape)


PLACES = {
    "small upright": (five_points((70, 60), 16), 0),
    "small rolled": (five_points((70, 60), 24, 40), 0),
    "on its side": (five_points((70, 60), 40, 90), 0),
    "larger than the crop": (five_points((80, 70), 90, -15), 0),
    "over the corner": (five_points((5, 4), 40), 0),
    "over the right edge": (five_points((158, 60), 60, 20), 0),
}


@pytest.fixture
def canvas():
    return smooth_noise(140, 160, 2.0)


@pytest.mark.parametrize("soft", [False, True], ids=["hard mask", "soft mask"])
@pytest.mark.parametrize("place", PLACES)
def test_no_source_pixel_of_the_face_survives_and_none_outside_the_mask_changes(canvas, place, soft):
    matrix = crop_from_image(PLACES[place][0], SIDE)
    crop = crop_of(canvas, matrix, soft=soft)
    painted = smooth_noise(SIDE, SIDE, 3.0, seed=1)
    out, changed = paste_faces(canvas, [Patch(painted, crop)])
    face = inside_hull(crop, canvas.shape[:2])
    assert face.any()
    assert changed[face].all()
    # Whatever the source face was, the result is the same, bit for bit, everywhere.
    other = canvas.copy()
    other[face] = 255 - other[face]
    out_of_other, changed_of_other = paste_faces(
        other, [Patch(painted, replace(crop, image=crop_of(other, matrix).image))]
    )
    assert np.array_equal(out, out_of_other)
    assert np.array_equal(changed, changed_of_other)
    # Unchanged pixels keep their bits, and pixels a crop pixel away from the mask are unchanged.
    assert np.array_equal(out[~changed], canvas[~changed])
    y, x = np.mgrid[: canvas.shape[0], : canvas.shape[1]] + 0.5
    at = apply(matrix, np.stack([x, y], -1))
    reach = 1.5 * max(np.sqrt(np.linalg.det(matrix[:, :2])), 1) + 1
    distance = np.pad(cv2.distanceTransform((crop.mask == 0).astype(np.uint8), cv2.DIST_L2, 5), 200, mode="edge")
    index = np.clip(np.floor(at).astype(int) + 200, 0, SIDE + 399)
    assert not changed[distance[index[..., 1], index[..., 0]] > reach].any()
    assert not changed[((at < -reach) | (at > SIDE + reach)).any(-1)].any()


def test_the_face_hidden_under_the_canvas_is_the_painted_one(canvas):
    crop = crop_of(canvas, crop_from_image(five_points((80, 70), 60), SIDE))
    white, black = np.full((SIDE, SIDE, 3), 250, np.uint8), np.full((SIDE, SIDE, 3), 5, np.uint8)
    face = inside_hull(crop, canvas.shape[:2])
    assert paste_faces(canvas, [Patch(white, crop)])[0][face].min() > 225
    assert paste_faces(canvas, [Patch(black, crop)])[0][face].max() < 30


@pytest.mark.parametrize("place", ["small rolled", "on its side", "larger than the crop", "over the corner"])
def test_pasting_a_crop_onto_itself_changes_little(place):
    canvas = smooth_noise(140, 160, 4.0)
    matrix = crop_from_image(PLACES[place][0], SIDE)
    crop = crop_of(canvas, matrix)
    out, changed = paste_faces(canvas, [Patch(crop.image, crop)])
    # Half a pixel of shift would cost about 6 levels here.
    assert np.abs(out[changed].astype(int) - canvas[changed]).mean() < 3.5


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0, 1.7, 3.0, 6.4])
def test_a_crop_lands_without_a_shift(scale):
    side = 60
    ramp = np.stack([np.linspace(20, 230, SIDE)] * SIDE)
    painted = np.dstack([ramp, ramp.T, ramp]).astype(np.uint8)
    matrix = np.array([[scale, 0, (SIDE - scale * side) / 2], [0, scale, (SIDE - scale * side) / 2]])
    canvas = np.full((side, side, 3), (128, 120, 128), np.uint8)
    crop = crop_of(canvas, matrix)
    out, changed = paste_faces(canvas, [Patch(painted, replace(crop, image=painted))])
    # The crop's centre is the picture's centre, so the ramp must be symmetric about it.
    face = inside_hull(crop, (side, side)) & changed
    x = np.mgrid[:side, :side][1] + 0.5
    wanted = 125 + (210 / (SIDE - 1)) * scale * (x - side / 2)
    assert np.abs(out[..., 0][face] - wanted[face]).mean() < 2.0
    assert abs((out[..., 0][face] - wanted[face]).mean()) < 0.6


def test_a_crop_beside_the_picture_changes_nothing(canvas):
    crop = crop_of(canvas, crop_from_image(five_points((900, 900), 40), SIDE))
    out, changed = paste_faces(canvas, [Patch(np.zeros((SIDE, SIDE, 3), np.uint8), crop)])
    assert np.array_equal(out, canvas)
    assert not changed.any()


def test_an_empty_mask_changes_nothing(canvas):
    crop = crop_of(canvas, crop_from_image(five_points((80, 70), 40), SIDE))
    out, changed = paste_faces(canvas, [Patch(np.zeros((SIDE, SIDE, 3), np.uint8), replace(crop, mask=0 * crop.mask))])
    assert np.array_equal(out, canvas)
    assert not changed.any()


def test_a_painted_crop_of_another_size_is_refused(canvas):
    crop = crop_of(canvas, crop_from_image(five_points((80, 70), 40), SIDE))
    with pytest.raises(ValueError, match="resize it"):
        paste_faces(canvas, [Patch(np.zeros((64, 64, 3), np.uint8), crop)])


def test_a_mask_that_fills_the_crop_is_pasted_whole(canvas):
    crop = crop_of(canvas, crop_from_image(five_points((80, 70), 40), SIDE))
    out, _ = paste_faces(
        canvas, [Patch(np.full((SIDE, SIDE, 3), 250, np.uint8), replace(crop, mask=np.ones_like(crop.mask)))]
    )
    assert out[inside_hull(crop, canvas.shape[:2])].min() > 225


@pytest.mark.parametrize("turn", [1, -1], ids=["near first", "far first"])
def test_the_nearer_face_is_in_front_whatever_the_order(canvas, turn):
    near = crop_of(canvas, crop_from_image(five_points((70, 70), 60), SIDE))
    far = crop_of(canvas, crop_from_image(five_points((95, 60), 30), SIDE))
    white, black = np.full((SIDE, SIDE, 3), 250, np.uint8), np.full((SIDE, SIDE, 3), 5, np.uint8)
    out, changed = paste_faces(canvas, [Patch(white, near), Patch(black, far)][::turn])
    in_near, in_far = inside_hull(near, canvas.shape[:2]), inside_hull(far, canvas.shape[:2])
    assert (in_near & in_far).any()
    assert out[in_near].min() > 225
    assert changed[in_near | in_far].all()
    assert np.array_equal(out[~changed], canvas[~changed])


def test_no_face_same_pixels(canvas):
    out, changed = paste_faces(canvas, [])
    assert np.array_equal(out, canvas)
    assert out is not canvas
    assert not changed.any()


def test_the_same_seed_gives_the_same_bytes_and_the_canvas_is_left_alone(canvas):
    noisy = np.clip(128 + 6 * np.random.default_rng(0).standard_normal((140, 160, 1)), 0, 255)
    canvas = np.repeat(noisy, 3, 2).astype(np.uint8)
    before = canvas.copy()
    crop = crop_of(canvas, crop_from_image(five_points((80, 70), 60), SIDE))
    painted = np.full((SIDE, SIDE, 3), 128, np.uint8)
    one, two, other = (paste_faces(canvas, [Patch(painted, crop, seed)])[0] for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert np.array_equal(canvas, before)


def test_a_grey_picture_stays_grey(canvas):
    canvas = np.repeat(canvas[..., :1], 3, 2)
    crop = crop_of(canvas, crop_from_image(five_points((80, 70), 60), SIDE))
    out, _ = paste_faces(canvas, [Patch(smooth_noise(SIDE, SIDE, 3.0, seed=1), crop)])
    assert (out == out[..., :1]).all()


def test_a_sepia_picture_stays_sepia(canvas):
    canvas = np.rint(canvas[..., :1] * np.array([1.0, 0.8, 0.6])).astype(np.uint8)
    crop = crop_of(canvas, crop_from_image(five_points((80, 70), 60), SIDE))
    out, changed = paste_faces(canvas, [Patch(smooth_noise(SIDE, SIDE, 3.0, seed=1), crop)])
    face = out[changed].astype(float)
    assert np.abs(face[:, 1] - 0.8 * face[:, 0]).mean() < 4
    assert np.abs(face[:, 2] - 0.6 * face[:, 0]).mean() < 4


@pytest.mark.parametrize("soft", [False, True])
def test_the_feather_lies_between_the_core_and_the_masks_edge(canvas, soft):
    crop = crop_of(canvas, crop_from_image(five_points((80, 70), 60), SIDE), soft=soft)
    weight, core = feather(crop)
    assert (weight[core] == 1).all()
    assert (weight[crop.mask == 0] == 0).all()
    assert (weight[crop.mask > 0] > 0).all()
    assert np.abs(np.diff(weight, axis=0)).max() < 0.35


def test_the_feather_gives_way_to_a_face_as_large_as_its_mask(canvas):
    crop = crop_of(canvas, crop_from_image(five_points((80, 70), 60), SIDE))
    hull = cv2.fillConvexPoly(np.zeros((SIDE, SIDE), np.uint8), np.rint(crop.landmarks - 0.5).astype(np.int32), 1)
    weight, _ = feather(replace(crop, mask=hull.astype(np.float32)))
    assert (weight[hull > 0] == 1).all()


# What fits a face to its surroundings, one measure at a time.


@pytest.mark.parametrize(("drift", "left"), [(0, 1), (4, 2), (8, 4), (60, 60), (-60, 60)])
def test_a_small_colour_drift_is_taken_out_and_a_real_edge_is_left(drift, left):
    source = smooth_noise(SIDE, SIDE, 20.0) // 2 + 64
    mask = np.zeros((SIDE, SIDE), bool)
    mask[30:100, 30:100] = True
    painted = np.clip(source.astype(int) + drift * mask[..., None], 0, 255).astype(np.uint8)
    error = match_colour(painted, source, mask, ~mask)[mask] - source[mask]
    assert np.abs(error).mean() <= left + 1
    if abs(drift) == 60:
        assert np.abs(error).mean() >= 55


@pytest.mark.parametrize("sigma", [0.0, 2.0, 4.0])
def test_grain_is_measured_on_flat_parts_only(sigma):
    leaves = smooth_noise(200, 200, 2.0)[..., 0].astype(np.float32)
    flat = 128 + sigma * np.random.default_rng(2).standard_normal((200, 200)).astype(np.float32)
    everywhere = np.ones((200, 200), bool)
    assert grain(flat, everywhere) == pytest.approx(sigma, rel=0.2, abs=0.05)
    assert grain(leaves, everywhere) is None


@pytest.mark.parametrize("sigma", [1.0, 1.5, 3.0])
def test_blur_is_measured_on_edges(sigma):
    steps = np.repeat(np.repeat(np.random.default_rng(0).uniform(30, 220, (6, 6)), 40, 0), 40, 1).astype(np.float32)
    blurred = cv2.GaussianBlur(steps, (0, 0), sigma)
    assert edge_blur(blurred, np.ones(steps.shape, bool)) == pytest.approx(sigma, rel=0.3)
    assert edge_blur(np.full((50, 50), 90, np.float32), np.ones((50, 50), bool)) is None


def test_a_sharp_face_in_a_soft_grainy_photo_gets_soft_and_grainy():
    steps = np.kron(np.random.default_rng(0).integers(60, 190, (12, 12, 1)), np.ones((40, 40, 3))).astype(np.float32)
    photo = cv2.GaussianBlur(steps, (0, 0), 2.0) + 4 * np.random.default_rng(1).standard_normal((480, 480, 1))
    canvas = np.clip(photo, 0, 255).astype(np.uint8)
    crop = crop_of(canvas, crop_from_image(five_points((240, 240), 100), 256), side=256)
    crisp = np.kron(np.random.default_rng(3).integers(60, 190, (8, 8, 1)), np.ones((32, 32, 3))).astype(np.uint8)
    out, _ = paste_faces(canvas, [Patch(crisp, crop)])
    grey, face = cv2.cvtColor(out, cv2.COLOR_RGB2GRAY).astype(np.float32), inside_hull(crop, (480, 480))
    raw, _ = paste_faces(canvas * 0 + 128, [Patch(crisp, crop)])
    raw = cv2.cvtColor(raw, cv2.COLOR_RGB2GRAY).astype(np.float32)
    assert grain(grey, face) == pytest.approx(grain(grey, ~face), rel=0.4)
    assert edge_blur(grey, face) > 1.3 * edge_blur(raw, face)


def test_16_bit_pixels_are_kept_where_nothing_was_changed():
    deep = np.random.default_rng(0).integers(0, 65536, (8, 9, 3)).astype(np.uint16)
    edited = np.random.default_rng(1).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    changed = np.zeros((8, 9), bool)
    changed[2:5, 3:7] = True
    merged = merge_deep(deep, edited, changed)
    assert merged.dtype == np.uint16
    assert np.array_equal(merged[~changed], deep[~changed])
    assert np.array_equal(merged[changed], edited[changed].astype(int) * 257)
