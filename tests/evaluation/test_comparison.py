import numpy as np
import pytest

from deid_diffusion.evaluation.cache import ArrayCache
from deid_diffusion.evaluation.comparison import OriginalFaces, compare_faces, utility_differences
from deid_diffusion.evaluation.judges import judge_from_spec
from deid_diffusion.evaluation.measure import MIRRORED_68, FaceMeasurer
from deid_diffusion.evaluation.nets import FaceNets, NetOptions
from deid_diffusion.evaluation.pairing import HashedPicture
from deid_diffusion.evaluation.table import MethodTable, Vectors
from deid_diffusion.types import Face
from tests.evaluation.conftest import BOX, LANDMARKS, KnowingDetector, portrait

FACE = Face(BOX, LANDMARKS)


@pytest.mark.parametrize("moved", [None, 0.0, 1.0, 12.0])
def test_a_false_detection_does_not_hide_a_face(judge_file, moved):
    class Astray(KnowingDetector):
        def __call__(self, image: np.ndarray) -> list[Face]:
            return [] if moved is None else [Face(BOX + moved, LANDMARKS + moved)]

    measurer = FaceMeasurer(Astray(), (judge_from_spec(f"{judge_file}:64"),), FaceNets(NetOptions()), ArrayCache())
    original, output = HashedPicture(portrait(0), "a"), HashedPicture(portrait(0, photo=1), "b")  # not the same pixels
    own = measurer.embeddings(original, FACE)
    method = MethodTable("noise", vectors=[Vectors()])
    known = OriginalFaces(0, [measurer.measure_face(original, FACE)], [own])
    compare_faces(method, measurer, (original, output), [FACE], known, examples=1)
    (vector,) = method.vectors[0].array()
    cosine = float(vector @ own[0] / np.linalg.norm(vector) / np.linalg.norm(own[0]))
    assert cosine > (0.8 if moved == 1.0 else 0.98)  # near its place the detector is believed
    assert method.faces["found"].tolist() == [moved is not None]
    assert method.faces["unchanged"].tolist() == [0.0]
    assert len(method.examples) == 1


class DotDetector(KnowingDetector):
    """Sees the five dots of a face, each of its own brightness in the red channel."""

    def __call__(self, image: np.ndarray) -> list[Face]:
        dots = np.array([np.argwhere(image[..., 0] == level).mean(axis=0)[::-1] + 0.5 for level in range(250, 255)])
        left_first = dots if dots[0, 0] < dots[1, 0] else dots[[1, 0, 2, 4, 3]]
        return [Face(np.concatenate([dots.min(0) - 5, dots.max(0) + 5]), left_first)]


def test_a_mirror_image_is_mapped_back_to_where_the_face_is():
    """An uneven face off the picture's middle: every point comes back to its own place, and a turned head turns."""
    picture = np.zeros((100, 140, 3), np.uint8)
    for level, (x, y) in zip(range(250, 255), [(30, 40), (51, 43), (44, 55), (35, 68), (53, 66)], strict=True):
        picture[y - 1 : y + 2, x - 1 : x + 2, 0] = level
    measurer, original = (
        FaceMeasurer(DotDetector(), (), FaceNets(NetOptions()), ArrayCache()),
        HashedPicture(picture, "a"),
    )
    (face,) = measurer.faces(original)
    before, after = measurer.measure_face(original, face), measurer.measure_mirrored(original, face)
    assert np.allclose(after.points, before.points, atol=1e-3)
    assert np.allclose(after.five, before.five, atol=1e-3)
    assert np.allclose(after.pose_deg, before.pose_deg, atol=0.5)
    assert abs(before.pose_deg[0]) > 3
    assert utility_differences(before, after, 21.0)["landmarks"] < 0.01


def test_a_face_that_is_not_found_in_the_mirror_has_no_measurement():
    class OneSided(DotDetector):
        def __call__(self, image: np.ndarray) -> list[Face]:
            return super().__call__(image) if image[:, :70].any() else []

    picture = np.zeros((100, 140, 3), np.uint8)
    for level, (x, y) in zip(range(250, 255), [(30, 40), (51, 43), (44, 55), (35, 68), (53, 66)], strict=True):
        picture[y, x, 0] = level
    measurer, original = (
        FaceMeasurer(OneSided(), (), FaceNets(NetOptions()), ArrayCache()),
        HashedPicture(picture, "a"),
    )
    (face,) = measurer.faces(original)
    assert measurer.measure_mirrored(original, face) is None


def test_the_68_points_change_sides_in_pairs():
    assert (MIRRORED_68[MIRRORED_68] == np.arange(68)).all()
    for first, second in (
        (0, 16),
        (8, 8),
        (17, 26),
        (30, 30),
        (31, 35),
        (36, 45),
        (41, 46),
        (48, 54),
        (57, 57),
        (60, 64),
        (67, 65),
    ):
        assert MIRRORED_68[first] == second
