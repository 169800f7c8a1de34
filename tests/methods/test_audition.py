"""Two strangers are tried for a person, and the better one is taken."""

from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.clip_options import ClipOptions
from deid_diffusion.faces.attributes import Attributes
from deid_diffusion.faces.task import FaceTask
from deid_diffusion.methods import audition
from deid_diffusion.methods.audition import KEYS, Audition, KeyFrames
from deid_diffusion.methods.targets import TrackTargets
from deid_diffusion.types import Outcome
from deid_diffusion.video import VideoAnonymizer
from tests.test_video import FPS, ONE_PERSON, QUICK, build, clip, moving


def started(frames: int = 6):
    """A run that looked at a clip, and has generated nothing."""
    run = VideoAnonymizer(build(moving, ONE_PERSON), ClipOptions())._begin(0, QUICK, {})
    for number, image in enumerate(clip(frames)):
        run.look(image, number / FPS)
    run.begin()
    return run


def test_key_frames_are_of_different_poses_and_few():
    run = started(3)
    (kept,) = run.keys.of_track.values()
    first, keys = kept[0], KeyFrames()
    keys.of_track[0] = []
    for yaw in (0.0, 3.0, 12.0, 14.0, -20.0, 40.0, 60.0):
        analysis = replace(first.analysis, attributes=first.analysis.attributes.with_changes({"yaw_deg": yaw}))
        keys._keep(run.scan, 0, replace(first, analysis=analysis))
    assert [one.analysis.attributes.yaw_deg for one in keys.of_track[0]] == [0.0, 12.0, -20.0]
    assert len(keys.of_track[0]) == KEYS


def test_the_key_frames_of_all_people_are_bounded(monkeypatch):
    run = started(2)
    (first,), keys = run.keys.of_track[0][:1], KeyFrames()
    monkeypatch.setattr(audition, "MOST", 5)
    for number in range(20):
        keys._keep(run.scan, number, first)
    assert sum(map(len, keys.of_track.values())) == 5


class Refuses(TrackTargets):
    """Rejects whatever becomes one of the targets."""

    refused = -1

    def rejection(self, task: FaceTask, similarity: float) -> str:
        return "refused" if task.targets[0].number == self.refused else ""


@pytest.mark.parametrize("refused", [0, 1])
def test_who_is_rejected_on_key_frames_is_not_taken(refused):
    run = started()
    policy = Refuses(1.01, run.anonymizer.bank, 0)
    object.__setattr__(policy, "refused", refused)
    context = replace(run.context, policy=policy)
    targets = [run.anonymizer.bank.target(number) for number in (0, 1)]
    embedding = run.scan.mean_embedding(0)
    given = 0, {0: 0}, run.scan.median(0).quantize(), embedding
    assert Audition(run.method, context, run.keys, run.scan, 0)(*given, targets) is targets[1 - refused]
    # Without key frames nothing speaks for the second.
    assert Audition(run.method, context, KeyFrames(), run.scan, 0)(*given, targets) is targets[0]


def test_a_clip_tries_two_strangers_once_and_keeps_one():
    run, asked = started(), []
    real = run.roles.audition

    def listening(*given):
        asked.append([target.number for target in given[-1]])
        return real(*given)

    run.roles.audition = listening
    results = [result for _, result in run.results((image, None) for image in clip(6))]
    assert {face.outcome for result in results for face in result.faces} == {Outcome.REPLACED}
    assert len(asked) == 1
    assert len(set(asked[0])) == 2
    assert run.policy.of_track[0].number in asked[0]
    assert not run.keys.of_track
    assert np.isfinite(run.sequence.pooled_similarity(0, run.scan.mean_embedding(0)))
    assert isinstance(run.roles.settled[0].motion.median, Attributes)
