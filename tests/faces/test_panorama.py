import numpy as np
import pytest
from PIL import Image

from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.faces.panorama import moved, rolled, seam_off_faces
from deid_diffusion.imaging.pictures import Picture, load_picture
from deid_diffusion.types import Outcome
from tests.test_anonymizer import FAST, NEVER, covered, face
from tests.tiny import tiny_bank, tiny_estimator, tiny_pipeline

GPANO = b'<rdf:Description GPano:ProjectionType="equirectangular" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"/>'
WIDTH = 512


def panorama() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (WIDTH // 2, WIDTH, 3), np.uint8)


class Finder:
    """Finds whole faces where they are, however the picture is rolled; cut by the border, it finds none."""

    def __init__(self, faces):
        self.faces, self.first = faces, panorama()[0, :, 0].astype(int)

    def __call__(self, image):
        roll = int(np.argmin([np.abs(np.roll(self.first, -n) - image[0, :, 0]).sum() for n in range(WIDTH)]))
        found = [moved(one, -roll if one.box[0] >= roll else WIDTH - roll, 10**6) for one in self.faces]
        return [one for one in found if one.box[0] >= 0 and one.box[2] <= WIDTH]


def build(faces) -> FaceAnonymizer:
    return FaceAnonymizer(tiny_pipeline(256), tiny_estimator(), tiny_bank(), NEVER, detect=Finder(faces))


ACROSS, INSIDE = face(505, 130), face(200, 120)


@pytest.mark.parametrize("told", ["settings", "picture"])
def test_a_face_across_the_seam_is_replaced_and_all_else_stays(told):
    image = panorama()
    result = build([ACROSS, INSIDE])(
        Picture(image, panorama=told == "picture"), settings=FAST, panorama=told == "settings"
    )
    assert [report.outcome for report in result.faces] == [Outcome.REPLACED] * 2
    assert {tuple(report.face.box) for report in result.faces} == {tuple(ACROSS.box), tuple(INSIDE.box)}
    wide, new = np.concatenate([image, image], axis=1), np.concatenate([result.image, result.image], axis=1)
    assert covered(wide, new, ACROSS)
    assert covered(wide, new, INSIDE)
    assert np.array_equal(result.image[~result.changed_mask], image[~result.changed_mask])
    assert np.array_equal(result.source.image, image)
    assert 0 < result.changed_mask.mean() < 0.5


def test_elsewhere_the_border_is_a_border():
    result = build([ACROSS, INSIDE])(panorama(), settings=FAST)
    assert len(result.faces) == 1


@pytest.mark.parametrize("faces", [[], [INSIDE], [INSIDE, face(400, 100)]])
def test_without_a_face_at_the_seam_nothing_is_rolled(faces):
    finder = Finder(faces)
    assert seam_off_faces(Picture(panorama()), lambda picture: finder(picture.image)) == 0


@pytest.mark.parametrize("places", [(0,), (505, 200), (3, 90, 180, 270, 400), tuple(range(0, 512, 70))])
def test_the_seam_lies_in_no_face(places):
    faces = [face(place, 120) for place in places]
    faces = [moved(one, WIDTH if one.box[0] < 0 else 0, 10**6) for one in faces]
    finder = Finder(faces)
    seam = seam_off_faces(Picture(panorama()), lambda picture: finder(picture.image))
    assert len(finder(rolled(Picture(panorama()), seam).image)) == len(faces)


def test_faces_all_around_leave_no_place_for_the_seam_and_are_found_all_the_same():
    faces = [face(place, 120) for place in range(40, 512, 40)] + [face(511, 120)]
    finder = Finder(faces)
    assert seam_off_faces(Picture(panorama()), lambda picture: finder(picture.image)) == WIDTH // 2


def test_rolling_back_gives_the_same_picture():
    picture = Picture(panorama(), panorama()[..., 0], panorama().astype(np.uint16) * 257)
    back = rolled(rolled(picture, 100), -100)
    for name in ("image", "alpha", "deep"):
        assert np.array_equal(getattr(back, name), getattr(picture, name))


@pytest.mark.parametrize(
    ("size", "xmp", "wanted"), [((64, 32), GPANO, True), ((64, 33), GPANO, False), ((64, 32), b"<x/>", False)]
)
def test_panoramas_are_told_by_their_xmp_and_sides(tmp_path, size, xmp, wanted):
    Image.new("RGB", size).save(tmp_path / "a.jpg", xmp=xmp)
    assert load_picture(tmp_path / "a.jpg").panorama is wanted
