"""No message holds what it is about: pictures, bytes, embeddings. Everything wrong is thrown at every public door."""

import base64
import io
import logging
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deid_diffusion import FaceAnonymizer
from deid_diffusion.compositing.paste import Patch, paste_faces
from deid_diffusion.faces.attributes import Attributes, check_attributes
from deid_diffusion.faces.detect import CenterFaceDetector, faces_from_boxes
from deid_diffusion.hub import publish
from deid_diffusion.imaging.alpha import look, without_faces
from deid_diffusion.imaging.pictures import Picture, PictureError, load_picture, save_picture
from deid_diffusion.jobs.run import Job, do_job, plan
from deid_diffusion.messages import brief
from deid_diffusion.methods.k_same import fit_cohort
from deid_diffusion.methods.redact import redact, redact_face
from deid_diffusion.models.backends import use_backend
from deid_diffusion.models.loading import load_pipeline
from deid_diffusion.result import AnonymizedImage
from deid_diffusion.settings import Settings
from deid_diffusion.types import Face, FaceCrop
from deid_diffusion.weight_files import weights_dir

LONGEST = 500
RAW = b"SECRET\xbb\xbb" * 4000
TEXT = base64.b64encode(b"SECRET" * 4000).decode()
ROW = [187.125] * 300
CONTENT = ("SECRET", "\\xbb\\xbb", TEXT[:12], "187", "0xbb")
HOSTILE = {
    "bytes": RAW,
    "bytearray": bytearray(RAW),
    "memoryview": memoryview(RAW),
    "BytesIO": io.BytesIO(RAW),
    "data url": f"data:image/png;base64,{TEXT}",
    "short data url": f"data:image/png;base64,{TEXT[:64]}",
    "base64": TEXT,
    "text": RAW.decode("latin-1"),
    "path of text": Path(TEXT),
    "long name": Path("/tmp") / TEXT.replace("/", "_")[:2000],
    "array": np.full((40, 40, 7), 187, np.uint8),
    "float array": np.full((40, 40, 3), 187.125),
    "row": np.full(300, 187.125, np.float32),
    "few": np.full(5, 187.125, np.float32),
    "objects": np.array([RAW, TEXT], dtype=object),
    "strings": np.array([TEXT]),
    "tensor": torch.full((3, 40), 187.125),
    "arrays": [np.full((9, 9, 3), 187, np.uint8)] * 3,
    "list": ROW,
    "nested": [[[187, 187, 187]] * 50] * 50,
    "ragged": [[187.0] * 3, [187.0] * 4],
    "texts": [TEXT] * 4,
    "bytes in a list": [RAW] * 4,
    "dict": {TEXT: RAW},
    "tuple": tuple(ROW),
    "set": {TEXT, RAW},
    "not a number": float("nan"),
    "huge": 187 * 10**3000,
}
OK_BOX, OK_POINTS = [4, 4, 20, 20], [[8, 8], [16, 8], [12, 12], [8, 16], [16, 16]]
FACE = Face(OK_BOX, OK_POINTS)
IMAGE = np.random.default_rng(0).integers(0, 120, (32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def anonymize(anonymizer) -> FaceAnonymizer:
    return anonymizer


@pytest.fixture(params=HOSTILE, ids=lambda name: name.replace(" ", "-"))
def hostile(request):
    return HOSTILE[request.param]


def holds_content(text: str) -> list[str]:
    # Not after a letter, digit or hyphen: pytest's own folder may be called pytest-187, an address end in it.
    return [mark for mark in CONTENT if re.search(rf"(?<![\w-]){re.escape(mark)}", text)]


def chain(error: BaseException | None) -> list[BaseException]:
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if error is not None and error not in seen:
            seen.append(error)
            waiting += [error.__cause__, error.__context__]
    return seen


def quiet(call, caplog) -> None:
    """Calls it, and looks at all it says, whether it fails or not."""
    with caplog.at_level(logging.DEBUG):
        try:
            call()
        except Exception as error:
            for link in chain(error):
                for text in (str(link), repr(link)):
                    assert len(text) < LONGEST, f"{type(link).__name__} of {len(text)} characters: {text[:200]}"
                    assert not holds_content(text), text
    for record in caplog.records:
        text = caplog.handler.format(record)
        message = record.getMessage()
        assert len(message) < LONGEST, message[:200]
        assert not holds_content(message), message
        assert not holds_content("\n".join(line for line in text.splitlines() if "Error: " in line)), text[-300:]
    caplog.clear()


def test_pictures_say_nothing_of_what_they_were_given(tmp_path, hostile, caplog):
    out = tmp_path / "a.png"
    quiet(lambda: load_picture(hostile), caplog)
    quiet(lambda: load_picture(out, max_pixels=hostile), caplog)
    quiet(lambda: save_picture(Picture(IMAGE), hostile, out), caplog)
    quiet(lambda: save_picture(Picture(IMAGE), IMAGE, hostile), caplog)
    quiet(lambda: save_picture(Picture(IMAGE), IMAGE, out, deep=hostile), caplog)
    for name in ("alpha", "icc", "format", "jpeg"):
        picture = Picture(IMAGE, **{name: hostile})
        quiet(lambda picture=picture: save_picture(picture, IMAGE, out), caplog)
        quiet(lambda picture=picture: save_picture(picture, IMAGE, out.with_suffix(".jpg")), caplog)
    quiet(lambda: AnonymizedImage(hostile, ()).save(out), caplog)
    quiet(lambda: AnonymizedImage(IMAGE, ()).save(hostile), caplog)
    source = Picture(IMAGE, IMAGE[..., 0])
    quiet(lambda: AnonymizedImage(IMAGE, (), changed_mask=hostile, source=source).save(out), caplog)
    quiet(lambda: AnonymizedImage(hostile, ()).preview(), caplog)
    quiet(lambda: AnonymizedImage(IMAGE, ()).preview(hostile), caplog)


def test_an_anonymizer_says_nothing_of_what_it_was_given(anonymize, hostile, caplog):
    quiet(lambda: anonymize(hostile, method="blank"), caplog)
    quiet(lambda: anonymize(IMAGE, boxes=hostile, method="blank"), caplog)
    quiet(lambda: anonymize(IMAGE, boxes=[hostile], method="blank"), caplog)
    quiet(lambda: anonymize(IMAGE, boxes=[OK_BOX], seed=hostile, method="k-same"), caplog)
    quiet(lambda: anonymize(IMAGE, boxes=[OK_BOX], settings=hostile), caplog)
    quiet(lambda: anonymize.embed_references([hostile]), caplog)
    quiet(lambda: anonymize.embed_references(hostile), caplog)
    quiet(lambda: anonymize.fit_cohort([(hostile, None)]), caplog)
    quiet(lambda: anonymize.fit_cohort([(IMAGE, hostile)]), caplog)
    quiet(lambda: anonymize.fit_cohort(hostile), caplog)
    quiet(lambda: anonymize.check(hostile), caplog)


def test_settings_say_nothing_of_what_they_were_given(anonymize, hostile, caplog):
    for item in fields(Settings):
        quiet(lambda name=item.name: Settings(**{name: hostile}), caplog)
    for name in ("keep", "only", "crowd", "threshold"):
        quiet(lambda name=name: anonymize(IMAGE, boxes=[OK_BOX], method="k-same", **{name: hostile}), caplog)


def test_loading_says_nothing_of_what_it_was_given(hostile, caplog):
    for name in ("model", "device", "pipeline", "dtype", "revision"):
        wrong = {"model": "/no/such/folder", name: hostile}
        quiet(lambda wrong=wrong: FaceAnonymizer.from_pretrained(**wrong), caplog)
        quiet(lambda wrong=wrong: load_pipeline(**wrong), caplog)


def test_the_parts_say_nothing_of_what_they_were_given(tmp_path, hostile, caplog):
    crop = FaceCrop(IMAGE, np.ones((32, 32), np.float32), np.zeros((478, 2), np.float32), np.eye(2, 3))
    quiet(lambda: Face(hostile, OK_POINTS), caplog)
    quiet(lambda: Face(OK_BOX, hostile), caplog)
    quiet(lambda: Face(np.full(4, 187.0) * [1, 1, 1, np.nan], OK_POINTS), caplog)
    quiet(lambda: faces_from_boxes(hostile, (32, 32)), caplog)
    quiet(lambda: faces_from_boxes([hostile], (32, 32)), caplog)
    quiet(lambda: CenterFaceDetector()(hostile), caplog)
    quiet(lambda: look(lambda image: [], IMAGE, hostile), caplog)
    quiet(lambda: without_faces(hostile, IMAGE[..., 0] > 9), caplog)
    quiet(lambda: redact_face(hostile, FACE, "blank"), caplog)
    quiet(lambda: redact_face(IMAGE, hostile, "blank"), caplog)
    quiet(lambda: redact_face(IMAGE, FACE, hostile), caplog)
    quiet(lambda: redact(IMAGE, hostile, "blank"), caplog)
    quiet(lambda: paste_faces(IMAGE, [Patch(hostile, crop)]), caplog)
    quiet(lambda: paste_faces(hostile, [Patch(IMAGE, crop)]), caplog)
    quiet(lambda: Attributes(age=hostile), caplog)
    quiet(lambda: check_attributes({"age": hostile}), caplog)
    quiet(lambda: check_attributes(hostile), caplog)
    quiet(lambda: Attributes().with_changes({"smile": hostile}), caplog)
    quiet(lambda: fit_cohort(hostile, 2, 0.5), caplog)
    quiet(lambda: fit_cohort([], hostile, 0.5), caplog)
    quiet(lambda: weights_dir(hostile), caplog)
    quiet(lambda: use_backend(None, hostile), caplog)
    quiet(lambda: publish(hostile, "a/b"), caplog)


def test_jobs_say_nothing_of_what_they_were_given(tmp_path, anonymize, hostile, caplog):
    photo = tmp_path / "a.png"
    Image.fromarray(IMAGE).save(photo)
    quiet(lambda: plan([hostile]), caplog)
    quiet(lambda: plan([photo], out=hostile), caplog)
    quiet(lambda: plan([photo], seed=hostile), caplog)
    quiet(lambda: plan(hostile), caplog)
    out = tmp_path / "out.png"
    settings = Settings(method="blank")
    jobs = [Job(hostile, out, 0), Job(photo, hostile, 0), Job(photo, out, 0, boxes=hostile), Job(photo, out, hostile)]
    for job in jobs:
        results = []
        quiet(lambda job=job, results=results: results.append(do_job(job, anonymize, settings)), caplog)
        for result in results:
            assert len(result.error) < LONGEST
            assert not holds_content(result.error), result.error


@pytest.mark.parametrize(
    "name", ["写真　一.png", "a b\xa0c.png", "e\u0301\u200d.png", "\udcff.png", "/".join(["d" * 90] * 9)]
)
def test_odd_and_long_names_are_paths_all_the_same(tmp_path, name):
    path = tmp_path / name / "a.png"
    path.parent.mkdir(parents=True)
    save_picture(Picture(IMAGE), IMAGE, path)
    assert np.array_equal(load_picture(str(path)).image, IMAGE)
    with pytest.raises(PictureError, match=r"b\.png: wanted a picture file, found none"):
        load_picture(path.with_name("b.png"))


def test_what_is_printed_of_our_own_things_is_short(hostile):
    crop = FaceCrop(*[np.full((9, 9), 187.125)] * 4)
    picture = Picture(IMAGE, np.full((3, 3), 187, np.uint8), icc=RAW)
    things = [crop, picture, AnonymizedImage(np.full((2, 2, 3), 187), (), changed_mask=IMAGE, source=picture)]
    things += [Settings(keep=np.full((1, 8), 187.125, np.float32))]
    for text in [*map(repr, things), *map(str, things), brief(hostile)]:
        assert len(text) < 2 * LONGEST
        assert not holds_content(text), text
