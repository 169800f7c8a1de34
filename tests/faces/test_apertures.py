"""Close-ups of eyes and mouth, what the shipped network reads in them, and what becomes of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deid_diffusion import FaceAnonymizer, Settings
from deid_diffusion.clip_reading import ClipReading
from deid_diffusion.faces.align import crop_faces
from deid_diffusion.faces.analyze import analyze_faces
from deid_diffusion.faces.apertures import OUTPUTS, SIDE, ApertureReader, close_ups
from deid_diffusion.faces.attributes import Attributes
from deid_diffusion.faces.detect import CenterFaceDetector
from deid_diffusion.faces.estimator import FaceEstimator
from deid_diffusion.faces.geometry import apply, invert
from deid_diffusion.faces.lids import DRAWN, move_lids, with_open_eyes
from deid_diffusion.faces.task import FaceTask
from deid_diffusion.timing import Timing
from deid_diffusion.training.resnet import build_resnet
from tests.faces.test_tracks import face as box
from tests.tiny import tiny_estimator


def test_close_ups_show_both_eyes_alike_and_the_mouth():
    y, x = np.mgrid[:256, :256]
    points = np.zeros((1, 478, 2), np.float32)
    for numbers, place in (((33, 133, 468), (80, 90)), ((362, 263, 473), (176, 90)), ((61, 291), (128, 180))):
        points[0, list(numbers)] = place
    # Red is how far from the nose's line, green how far down.
    image = np.stack([np.abs(x - 128), y, 0 * x]).astype(np.float32)[None]
    left, right, mouth = close_ups(torch.from_numpy(image), torch.from_numpy(points))[0]
    assert left.shape == (3, SIDE, SIDE)
    assert torch.allclose(left, right, atol=1.0)
    assert left[0, SIDE // 2, SIDE // 2] == pytest.approx(48, abs=1.5)
    assert mouth[1, SIDE // 2, SIDE // 2] == pytest.approx(180, abs=1.5)
    assert mouth[1, -1, 0] > mouth[1, 0, 0] + 60


def test_the_shipped_network_sees_a_blink(weights, astronaut):
    estimator = FaceEstimator.from_pretrained(weights / "face_estimator")
    (face,) = CenterFaceDetector().glance(astronaut)
    crop = crop_faces(astronaut, [face], estimator)[0].image
    (analysis,) = estimator.analyze(crop[None])
    shut = move_lids(crop, analysis.landmarks, 0.0)
    opened, closed = (estimator.look_closer([one], [analysis])[0].attributes.eyes_open for one in (crop, shut))
    assert opened > 0.5
    assert closed < 0.4 * opened


def test_a_face_that_is_followed_is_read_like_one_that_is_looked_for(weights, astronaut):
    estimator = FaceEstimator.from_pretrained(weights / "face_estimator")
    (face,) = CenterFaceDetector().glance(astronaut)
    tasks = [FaceTask(face, 0)]
    (looked_for,) = analyze_faces(astronaut, tasks, estimator, None, 256)
    start = {0: looked_for.crop.crop_from_image}
    (followed,) = analyze_faces(astronaut, tasks, estimator, None, 256, starts=start)
    one, other = (task.analysis.attributes.to_dict() for task in (looked_for, followed))
    assert abs(one["mouth_open"] - other["mouth_open"]) < 0.05
    assert abs(one["eyes_open"] - other["eyes_open"]) < 0.05
    assert abs(one["yaw_deg"] - other["yaw_deg"]) < 1
    assert np.abs(looked_for.crop.landmarks - followed.crop.landmarks).mean() < 1
    shut = move_lids(astronaut, apply(invert(start[0]), looked_for.crop.landmarks.astype(float)), 0.0)
    (blinks,) = analyze_faces(shut, tasks, estimator, None, 256, starts=start)
    assert blinks.analysis.attributes.eyes_open < 0.5 * other["eyes_open"]


def test_what_a_clip_says_of_a_mouth_is_of_one_scale(weights, astronaut):
    estimator = FaceEstimator.from_pretrained(weights / "face_estimator")
    estimator.apertures = lambda *_: {"mouth_open": torch.tensor([0.3]), "eyes_open": torch.tensor([0.5])}
    face = replace(CenterFaceDetector().glance(astronaut)[0], track_id=0)

    class Reads:
        def __init__(self):
            self.estimator = estimator

        def read(self, image, faces, settings, places, starts=None, embeds=True, moving=False):
            embed = (lambda crops: np.ones((len(crops), 4), np.float32)) if embeds else None
            how = {"starts": starts, "moving": moving}
            return dict(enumerate(analyze_faces(image, [FaceTask(face, 0)], estimator, embed, 256, **how)))

    reading = ClipReading(Reads(), Settings(), Timing())
    said = reading(astronaut, [face], [0]), *(reading.follow(astronaut, [face], [0]) for _ in range(2))
    assert [task[0].analysis.attributes.mouth_open for task in said] == pytest.approx([0.3] * 3)


def test_shut_eyes_of_a_photo_come_out_shut(weights, astronaut):
    anonymize = FaceAnonymizer.from_pretrained(weights / "face256", estimator=weights / "face_estimator")
    (seen,) = anonymize.analyze(astronaut).tasks
    photo = move_lids(astronaut, apply(invert(seen.crop.crop_from_image), seen.crop.landmarks.astype(float)), 0.0)
    fast = Settings(steps=2, candidates=1)
    came = []
    for picture in (astronaut, photo):
        tasks = anonymize.choose_targets(anonymize.analyze(picture, [seen.face]), seed=1, settings=fast)
        (done,) = anonymize.generate(tasks, fast)
        found = anonymize.estimator.look_closer([done.generated], anonymize.estimator.analyze(done.generated[None]))
        came.append((tasks[0].wanted.eyes_open, found[0].attributes.eyes_open))
    (opened, open_face), (closed, shut_face) = came
    assert closed < 0.4 < opened
    assert shut_face < 0.75 * open_face
    asked = with_open_eyes(tasks[0])
    assert (asked.wanted.eyes_open, asked.opening) == (DRAWN, tasks[0].wanted.eyes_open / DRAWN)


def test_of_a_photo_only_wide_mouths_are_read_from_the_close_up():
    estimator, crop = tiny_estimator(), np.zeros((256, 256, 3), np.uint8)
    (analysis,) = estimator.analyze(crop[None])
    shut = replace(analysis, attributes=analysis.attributes.with_changes({"mouth_open": 0.05}))
    came = []
    for closer in (0.3, 0.39, 0.6):
        estimator.apertures = lambda *_, seen=closer: {"mouth_open": torch.tensor([seen])}
        came.append(
            [estimator.look_closer([crop], [shut], moving)[0].attributes.mouth_open for moving in (True, False)]
        )
    assert np.allclose(came, [[0.3, 0.05], [0.39, 0.22], [0.6, 0.6]], atol=1e-6)


def test_lids_behind_glasses_are_left_to_the_model():
    task = FaceTask(box(100), 0, wanted=Attributes(eyes_open=0.0, glasses=1.0))
    assert with_open_eyes(task) is task


def test_without_the_network_landmarks_say_it():
    estimator, crop = tiny_estimator(), np.zeros((256, 256, 3), np.uint8)
    analyses = estimator.analyze(crop[None])
    assert estimator.look_closer([crop], analyses) == analyses
    assert estimator.look_closer([], []) == []


def test_a_network_of_another_width_is_refused(tmp_path):
    build_resnet((8, 8), OUTPUTS + 1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="gives 3 numbers, wanted 2"):
        ApertureReader.from_pretrained(tmp_path)
