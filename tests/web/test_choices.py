"""What the page's settings make of photos, without a browser."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.faces.task import ImageAnalysis
from deid_diffusion.imaging.pictures import Picture
from deid_diffusion.methods.pseudonyms import Pseudonyms
from deid_diffusion.web.desk import Desk
from deid_diffusion.web.photos import Photo
from deid_diffusion.web.sessions import Limits, Sessions
from deid_diffusion.web.shown import at_page_size

MADE = Path(__file__).parents[2] / "docs" / "before_after.png"  # two people whom the model made


@pytest.fixture
def visit(anonymizer):
    """A desk, a visitor, and two photos with one person each."""
    sessions = Sessions(Limits())
    session, photos = sessions.open(), []
    with Image.open(MADE) as picture:
        for number, x in enumerate((0, 470)):
            folder = session.folder / str(number)
            folder.mkdir()
            picture.convert("RGB").crop((x, 0, x + 450, 450)).resize((150, 150)).save(folder / "a.png")
            session.items[str(number)] = Photo(folder / "a.png")
            photos.append(session.items[str(number)])
    yield Desk(lambda: anonymizer, sessions), session.secret, photos
    sessions.close()


def generated(photo: Photo) -> np.ndarray:
    (choice,) = photo.choices.values()
    return choice.made[choice.taken][0].generated


def test_all_open_photos_are_averaged_and_too_few_are_hidden(visit):
    desk, secret, (first, second) = visit
    options = {"method": "k-same", "k": 2}
    for number in "01":
        desk.do(secret, "look", {"id": number, "options": options})
        (face,) = desk.do(secret, "make", {"id": number, "options": options})["faces"]
        assert face["outcome"] == ("redacted", "replaced")[int(number)], face
    # The first one was alone when it was made; what is written knows both.
    report = desk.do(secret, "finish", {"ids": ["0", "1"]})
    assert report == {"files": ["zip", "report"]}
    assert np.array_equal(generated(first), generated(second))
    # Whoever is kept is nobody's cover.
    number = next(iter(first.choices))
    desk.do(secret, "decide", {"id": "0", "face": number, "decision": "keep"})
    (face,) = desk.do(secret, "finish", {"ids": ["1"]})["faces"]
    assert (face["outcome"], face["steered"]) == ("redacted", False)
    assert "needs 2 people to average, got 1" in face["reason"]


def test_everybody_becomes_one_stranger_or_their_own_by_a_key(visit, tmp_path):
    desk, secret, photos = visit
    for number in "01":
        desk.do(secret, "look", {"id": number, "options": {"method": "swap"}})
        (face,) = desk.do(secret, "make", {"id": number, "options": {"method": "swap"}})["faces"]
        assert face["reason"].startswith("person ")
        assert (face["steered"], face["chosen"]) == (True, False)
    targets = [next(iter(photo.choices.values())).made[0][0].targets[0].number for photo in photos]
    assert targets[0] == targets[1]
    desk.pseudonyms = Pseudonyms.new(tmp_path / "key")
    for draw in (1, 2):
        desk.do(secret, "make", {"id": "0", "options": {"draw": draw}})
        assert next(iter(photos[0].choices.values())).made[0][0].targets[0].pseudonym == 1


def test_more_privacy_hides_more_from_the_model(visit):
    desk, secret, (photo, _) = visit
    desk.do(secret, "look", {"id": "0", "options": {"method": "blank"}})
    before = photo.analysis.tasks[0].inpaint_mask
    (face,) = desk.do(secret, "make", {"id": "0", "options": {"method": "blank", "privacy": "maximum"}})["faces"]
    assert (photo.analysis.tasks[0].inpaint_mask > 0).sum() > (before > 0).sum()
    assert face["outcome"] == "redacted"
    assert desk.do(secret, "make", {"id": "0", "options": {"method": "melt"}})["error"].startswith("method must be")


def test_a_panorama_is_shown_larger_than_its_long_side_would_allow():
    for shape, shown in (((450, 9000, 3), (253, 5060)), ((3000, 4500, 3), (1067, 1600)), ((300, 400, 3), (300, 400))):
        image = np.zeros(shape, np.uint8)
        got = at_page_size(ImageAnalysis(Picture(image), image, ())).image.shape[:2]
        assert got == pytest.approx(shown, abs=1)
