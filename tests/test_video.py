"""Clips from frame to frame, with tiny real networks; the one fake is the detector, which reads the frame's number."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.clip_frames import fading, veiled
from deid_diffusion.clip_options import ClipOptions
from deid_diffusion.faces.motion import Motion
from deid_diffusion.faces.task import FaceTask
from deid_diffusion.methods.redact import redact_face
from deid_diffusion.methods.sequence import FacesInSequence
from deid_diffusion.methods.targets import TrackTargets
from deid_diffusion.result import AnonymizedImage
from deid_diffusion.types import Outcome, Redaction
from deid_diffusion.video import VideoAnonymizer
from tests.test_anonymizer import ALWAYS, FAST, NEVER, covered, face
from tests.tiny import tiny_bank, tiny_estimator, tiny_pipeline

FPS = 30.0
# One person is whoever is read at all, while no result is taken for its source.
ONE_PERSON, QUICK = NEVER | {"far_0.01": -1.01, "far_0.05": -1.01}, replace(FAST, threshold=1.01)


def frame(number: int, shot: int = 0, height: int = 200, width: int = 280) -> np.ndarray:
    """Noise that says its number in the first pixel; another shot is of another colour."""
    image = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    image[..., shot] //= 8
    image[0, 0, 0] = number
    return image


def clip(count: int, cut: int = 1000) -> list[np.ndarray]:
    return [frame(number, int(number >= cut)) for number in range(count)]


def moving(number: int) -> list:
    return [face(110 + 2 * number, 90)]


def build(where=moving, thresholds=NEVER) -> FaceAnonymizer:
    parts = tiny_pipeline(64), tiny_estimator(), tiny_bank(), thresholds
    return FaceAnonymizer(*parts, detect=lambda image: where(int(image[0, 0, 0])))


def streamed(frames, where=moving, settings=QUICK, thresholds=ONE_PERSON, options=None, seed=0):
    video = VideoAnonymizer(build(where, thresholds), options or ClipOptions(ahead_s=0.2))
    return list(video.stream(iter(frames), seed, settings, FPS))


def test_every_frame_of_a_face_becomes_the_same_somebody(monkeypatch):
    chosen, real = [], TrackTargets.add
    monkeypatch.setattr(TrackTargets, "add", lambda self, *given: chosen.append(real(self, *given)) or chosen[-1])
    frames = clip(9)
    results = streamed(frames)
    assert len(results) == 9
    assert [[one.outcome for one in result.faces] for result in results] == [[Outcome.REPLACED]] * 9
    assert {one.face.track_id for result in results for one in result.faces} == {0}
    assert len({target.number for target in chosen}) == 1
    for number, (image, result) in enumerate(zip(frames, results, strict=True)):
        assert covered(image, result.image, moving(number)[0])
        assert np.array_equal(image[~result.changed_mask], result.image[~result.changed_mask])


@pytest.mark.parametrize("stride", [1, 3])
def test_the_same_seed_gives_the_same_clip_whatever_the_stride(stride):
    options = ClipOptions(stride=stride, ahead_s=0.2)
    one, again, other = (streamed(clip(5), options=options, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0].image, other[0].image)
    assert all(covered(clip(5)[n], one[n].image, moving(n)[0]) for n in range(5))


def test_frames_that_miss_a_face_hide_it_all_the_same():
    frames = clip(16)
    # Seen, missed in the middle, and then lost for good.
    results = streamed(frames, lambda number: moving(number) if number in (0, 1, 2, 6, 7) else [])
    assert [len(result.faces) for result in results] == [1] * 16
    assert all(covered(frames[n], results[n].image, moving(min(n, 7))[0]) for n in range(14))
    assert results[15].faces[0].outcome is Outcome.REDACTED
    assert results[15].faces[0].reason == "lost; it could still be there"


def lost(number: int) -> list:
    """Missed in the middle."""
    return moving(number) if number not in (3, 4) else []


def test_an_interpolated_face_that_is_not_seen_there_is_redacted_where_no_flow_leads():
    # Each frame is noise of its own, in blocks that no resampling averages out.
    frames = [np.repeat(np.repeat(frame(number, 0, 25, 35), 8, 0), 8, 1) for number in range(8)]
    results = streamed(frames, lost, thresholds=ONE_PERSON | {"far_0.05": 1.01})
    outcomes = [result.faces[0].outcome for result in results]
    assert outcomes == [Outcome.REPLACED] * 3 + [Outcome.REDACTED] * 2 + [Outcome.REPLACED] * 3
    assert results[3].faces[0].reason == "interpolated, and not seen there"


def smooth(number: int, shift: float = 2.0) -> np.ndarray:
    """A soft pattern that moves with the face of `moving`."""
    y, x = np.mgrid[:200, :280].astype(float)
    waves = [np.sin((x - shift * number) / 9 + n) * np.cos(y / 11 - n) for n in range(3)]
    image = (128 + 90 * np.stack(waves, -1)).astype(np.uint8)
    image[0, 0, 0] = number
    return image


def test_a_face_that_is_not_seen_is_carried_there_and_covers_what_either_mask_covers():
    frames = [smooth(number) for number in range(8)]
    results = streamed(frames, lost, thresholds=ONE_PERSON | {"far_0.05": 1.01})
    assert [result.faces[0].outcome for result in results] == [Outcome.REPLACED] * 8
    reasons = [result.faces[0].reason for result in results]
    assert reasons[3:5] == ["carried from a frame before: interpolated, and not seen there"] * 2
    assert set(reasons[:3] + reasons[5:]) == {""}
    for number in (3, 4):
        x0, y0, x1, y1 = moving(number)[0].box.round().astype(int)
        assert results[number].changed_mask[y0 + 8 : y1 - 8, x0 + 8 : x1 - 8].all()
        # The mask of the frame before, moved with the picture.
        before = np.roll(results[number - 1].changed_mask, 2, axis=1)
        assert (before & ~results[number].changed_mask).sum() < 0.03 * before.sum()


def test_a_carried_face_that_is_too_similar_is_redacted():
    calls = []

    def rejection(self, task, similarity):
        calls.append(similarity)
        return "too similar" if len(calls) == 6 else ""  # the first two are strangers on trial

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrackTargets, "rejection", rejection)
        options = ClipOptions(stride=1, ahead_s=0.2)
        results = streamed(
            [smooth(n) for n in range(5)],
            lambda number: moving(number) if number != 3 else [],
            thresholds=ONE_PERSON | {"far_0.05": 1.01},
            options=options,
        )
    outcomes = [result.faces[0].outcome for result in results]
    assert outcomes == [Outcome.REPLACED] * 3 + [Outcome.REDACTED, Outcome.REPLACED]


def test_a_face_is_not_carried_for_long():
    frames = [smooth(number, 0.0) for number in range(24)]
    found = {0, 1, 2, 22, 23}
    results = streamed(
        frames,
        lambda number: [face(110, 90)] if number in found else [],
        thresholds=ONE_PERSON | {"far_0.05": 1.01},
        options=ClipOptions(ahead_s=0.9),
    )
    outcomes = [result.faces[0].outcome for result in results]
    assert outcomes[:17] == [Outcome.REPLACED] * 17  # half a second after the last that showed it
    assert outcomes[18:22] == [Outcome.REDACTED] * 4


class Odd:
    """Every face is as unlike photos as this."""

    def __init__(self, score: float) -> None:
        self.score = score

    def ood_score(self, states):
        return torch.full((len(states[-1]),), self.score)


@pytest.mark.parametrize(
    ("odd", "score", "outcome"),
    [
        (1.3, 0.7, Outcome.REDACTED),
        (1.3, 0.8, Outcome.REPLACED),
        (0.6, 0.7, Outcome.REPLACED),
    ],
)
def test_what_may_be_no_face_gets_none_and_is_not_left_bare(odd, score, outcome):
    def hands(number):
        return [replace(face(110, 90), score=score)]

    anonymize, frames = build(hands, ONE_PERSON), clip(6)
    anonymize.estimator.ood = Odd(odd)
    results = list(VideoAnonymizer(anonymize).stream(iter(frames), 0, QUICK, FPS))
    assert {result.faces[0].outcome for result in results} == {outcome}
    assert all(covered(image, result.image, face(110, 90)) for image, result in zip(frames, results, strict=True))
    if outcome is Outcome.REDACTED:
        assert "may be no face" in results[0].faces[0].reason


def test_what_does_not_fit_in_most_frames_gets_no_face(monkeypatch):
    real, calls = FaceAnonymizer.read, []

    def read(self, image, faces, settings, places=None, *more, **named):
        calls.append(places)
        done = real(self, image, faces, settings, places, *more, **named)
        # Only the first reading of the scan fits.
        return {n: t if len(calls) == 1 else t.decided(Outcome.REDACTED, "-", embedding=None) for n, t in done.items()}

    monkeypatch.setattr(FaceAnonymizer, "read", read)
    frames = clip(12)
    results = streamed(frames, lambda number: [replace(face(110, 90), score=0.7)])
    assert {result.faces[0].reason for result in results} == {
        "may be no face: landmarks do not fit the detection in most frames"
    }
    assert all(covered(image, result.image, face(110, 90)) for image, result in zip(frames, results, strict=True))


def test_one_face_that_cannot_be_read_is_hidden_and_the_others_are_replaced(monkeypatch):
    real = FaceAnonymizer.read

    def read(self, image, faces, settings, places=None, *more, **named):
        done = real(self, image, faces, settings, places, *more, **named)
        return {n: t.decided(Outcome.FAILED, "broken") if faces[n].box[0] > 150 else t for n, t in done.items()}

    frames = clip(4)
    two = [face(70, 90, 24), face(200, 90, 24)]
    run = VideoAnonymizer(build(lambda number: two, ONE_PERSON))._begin(0, QUICK, {})
    for number, image in enumerate(frames):
        run.scan.add(image, number / FPS)
    run.begin()
    monkeypatch.setattr(FaceAnonymizer, "read", read)
    results = [result for _, result in run.results((image, None) for image in frames)]
    assert [[one.outcome for one in result.faces] for result in results] == [[Outcome.REPLACED, Outcome.FAILED]] * 4
    for image, result in zip(frames, results, strict=True):
        assert all(covered(image, result.image, one) for one in two)


def test_while_no_face_is_known_not_every_frame_is_looked_at():
    looked = []

    def where(number):
        looked.append(number)
        return [face(110, 90)] if number in (50, 51, 52) else []

    scan = VideoAnonymizer(build(where))._begin(0, replace(QUICK, method="blur"), {}).scan
    for number in range(100):
        scan.add(frame(number), number / FPS)
    # Once a second of the shot has gone: every third one, and twice where a thorough look was due.
    first = [number for number in looked if 31 <= number < 50]
    assert sorted(set(np.diff(sorted(set(first))))) == [3]
    assert set(range(51, 82)) <= set(looked)
    (track,) = scan.linker.tracks.values()
    rows = scan.sightings()
    assert list(track.found)[-1] == 52
    assert all(rows[number] for number in range(track.first - 6, 59))


def test_a_repeated_frame_shares_the_result_of_the_one_before(monkeypatch):
    run = VideoAnonymizer(build(moving, ONE_PERSON))._begin(0, QUICK, {})
    images = [frame(0), frame(1), frame(2)]
    shown = [images[0], images[1], images[1], images[1], images[2]]
    for place, image in enumerate(shown):
        run.scan.add(image, place / FPS, place in (2, 3))
    run.begin()
    results = [result for _, result in run.results((image, None) for image in shown)]
    assert results[1] is results[2] is results[3]
    assert run.result.frames == 5
    assert run.result.tracks[0].outcomes == {Outcome.REPLACED: 5}
    assert all(
        covered(image, result.image, moving(int(image[0, 0, 0]))[0])
        for image, result in zip(shown, results, strict=True)
    )


def test_a_cut_ends_the_track_but_not_the_person():
    for thresholds, people in ((ONE_PERSON, 1), (NEVER, 2)):
        anonymize = build(thresholds=thresholds)
        run = VideoAnonymizer(anonymize)._begin(0, QUICK, {})
        frames = clip(8, cut=4)
        for number, image in enumerate(frames):
            run.scan.add(image, number / FPS)
        run.begin()
        results = [result for _, result in run.results((image, None) for image in frames)]
        assert [result.faces[0].face.track_id for result in results] == [0] * 4 + [1] * 4
        assert len({target.number for target in run.policy.of_track.values()}) == people


def test_a_frame_in_which_the_detector_breaks_is_blurred_as_a_whole():
    def where(number):
        if number == 4:
            raise RuntimeError("broken")
        return moving(number)

    frames = clip(8)
    results = streamed(frames, where)
    assert results[4].changed_mask.all()
    assert (results[4].image != frames[4]).mean() > 0.95
    assert [result.faces[0].outcome for result in results if result.faces] == [Outcome.REPLACED] * 7


def test_a_repeated_frame_is_what_the_one_before_was():
    looked = []

    def where(number):
        looked.append(number)
        if number == 3:
            raise RuntimeError("broken")
        return moving(number)

    run = VideoAnonymizer(build(where, ONE_PERSON))._begin(0, QUICK, {})
    for place, number in enumerate((0, 1, 1, 2, 3, 3, 4)):
        run.scan.add(frame(number), place / FPS, place in (2, 5))
    assert run.scan.failed == {4, 5}
    assert looked.count(1) == 1
    assert list(run.scan.linker.tracks[0].found) == [0, 1, 2, 3, 6]


def test_memory_does_not_grow_with_a_stream():
    video = VideoAnonymizer(build(moving, ONE_PERSON), ClipOptions(ahead_s=0.1))
    results, held = video.stream(iter(clip(40)), 0, replace(QUICK, method="blank"), FPS), []
    for _ in results:
        held.append(len(results.gi_frame.f_locals["run"].scan.linker.tracks[0].found))
    assert len(held) == 40
    assert max(held) < 20


def test_a_detector_that_never_works_is_no_clip():
    with pytest.raises(ZeroDivisionError):
        streamed(clip(3), lambda number: 1 // 0)


def test_a_frame_that_cannot_be_read_is_blurred_as_a_whole(monkeypatch):
    real = Motion.__call__

    def breaks(self, now):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 3:
            raise ValueError("broken")
        return real(self, now)

    monkeypatch.setattr(Motion, "__call__", breaks)
    results = streamed(clip(6))
    assert [bool(result.changed_mask.all()) for result in results] == [False, False, True, False, False, False]


def test_a_model_that_breaks_hides_its_faces(monkeypatch):
    anonymize = build(thresholds=ONE_PERSON)
    monkeypatch.setattr(anonymize.pipeline, "unet", None)
    results = list(VideoAnonymizer(anonymize).stream(clip(4), settings=QUICK))
    assert [result.faces[0].outcome for result in results] == [Outcome.FAILED] * 4
    assert all(covered(clip(4)[n], results[n].image, moving(n)[0]) for n in range(4))


def test_out_of_memory_halves_the_batch_of_a_clip_too(caplog):
    anonymize = build(lambda number: [face(70 + 2 * number, 90), face(200 + 2 * number, 90)], ONE_PERSON)
    unet, sizes = anonymize.pipeline.unet, []
    forward = unet.forward

    def small(sample, *more, **given):
        sizes.append(len(sample))
        if len(sample) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(sample, *more, **given)

    unet.forward = small
    results = list(VideoAnonymizer(anonymize).stream((smooth(n) for n in range(4)), 0, QUICK, FPS))
    assert [[face.outcome for face in result.faces] for result in results] == [[Outcome.REPLACED] * 2] * 4
    assert "generating from the frame before failed" not in caplog.text
    assert sizes.count(2) == 1  # what fits is remembered, from frame to frame


def test_what_is_too_similar_is_redacted():
    results = streamed(clip(4), settings=FAST, thresholds=ALWAYS)
    assert [result.faces[0].outcome for result in results] == [Outcome.REDACTED] * 4


@pytest.mark.parametrize("method", ["blank", "blur", "pixelate"])
def test_the_classical_methods_follow_faces_too(method):
    frames = clip(8)
    settings = replace(QUICK, method=method)
    results = streamed(frames, lambda number: moving(number) if number != 3 else [], settings)
    assert [result.faces[0].outcome for result in results] == [Outcome.REDACTED] * 8
    assert all(covered(frames[n], results[n].image, moving(n)[0]) for n in range(8))


def test_k_same_is_refused():
    with pytest.raises(ValueError, match="does not follow motion; take inpaint"):
        streamed(clip(2), settings=replace(QUICK, method="k-same"))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([np.zeros((4, 4), np.uint8)], r"\(H, W, 3\) uint8 RGB, got ndarray of shape \(4, 4\)"),
        ([frame(0), frame(1, width=200)], "must all be 280 x 200, got 200 x 200"),
    ],
)
def test_frames_that_are_none_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        streamed(frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": "loud"}, "audio must be keep or drop, got 'loud'"),
        ({"motion": ""}, "motion must be fine or coarse"),
        ({"stride": 0}, "stride must be >= 1, got 0"),
        ({"start_s": 3.0, "stop_s": 2.0}, "stops after it starts, got 3.0 s to 2.0 s"),
    ],
)
def test_options_that_are_none_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClipOptions(**options)


def decided(*outcomes: Outcome, redaction=Redaction.BLUR) -> list[FaceTask]:
    where = face(110, 90)
    return [
        FaceTask(where, number).decided(outcome, redaction=redaction if outcome is Outcome.REDACTED else None)
        for number, outcome in enumerate(outcomes)
    ]


def test_a_blur_between_new_faces_comes_and_goes_slowly():
    new, hidden = Outcome.REPLACED, Outcome.REDACTED
    frames = [(number, decided(hidden if number == 5 else new, new)) for number in range(12)]
    shares = [near for _, _, near in fading(frames)]
    assert [one.get(0, 0.0) for one in shares] == [0, 0, 0.25, 0.5, 0.75, 0, 0.75, 0.5, 0.25, 0, 0, 0]
    assert not any(1 in one for one in shares)
    # What somebody wants blank does not come as a blur.
    blank = [(number, decided(hidden if number == 5 else new, redaction=Redaction.BLANK)) for number in range(12)]
    assert not any(near for _, _, near in fading(blank))


def test_a_veil_hides_what_it_covers_and_is_told():
    source, where = smooth(0), face(110, 90)
    new = AnonymizedImage(np.full_like(source, 60), (), {}, np.zeros(source.shape[:2], bool))
    blurred, region = redact_face(source, where, Redaction.BLUR)
    out = veiled(new, source, [(where, 0.75), (face(200, 60), 0.0)])
    assert np.array_equal(out.changed_mask, region)
    assert np.abs(out.image[region] - (0.25 * 60 + 0.75 * blurred[region])).max() <= 1
    assert np.array_equal(out.image[~region], new.image[~region])


def test_a_frame_that_fails_between_new_faces_is_blurred_and_not_blank(monkeypatch):
    real = TrackTargets.rejection
    calls = []

    def rejection(self, task, similarity):
        calls.append(task)
        return "too similar" if task.number == 0 and refuse else real(self, task, similarity)

    monkeypatch.setattr(TrackTargets, "rejection", rejection)
    run = VideoAnonymizer(build(moving, ONE_PERSON), ClipOptions(stride=1))._begin(0, QUICK, {})
    frames, refuse = clip(9), False
    for number, image in enumerate(frames):
        run.scan.add(image, number / FPS)
    run.begin()
    results = []
    for _, result in run.results((image, None) for image in frames):
        results.append(result)
        refuse = len(results) == 1
    outcomes = [result.faces[0].outcome for result in results]
    assert outcomes.count(Outcome.REDACTED) >= 1
    at = outcomes.index(Outcome.REDACTED)
    assert outcomes[at - 1] is Outcome.REPLACED
    y, x = 90, int(110 + 2 * at)
    assert len(np.unique(results[at].image[y - 10 : y + 10, x - 10 : x + 10].reshape(-1, 3), axis=0)) > 1
    assert covered(frames[at], results[at].image, moving(at)[0])


def test_a_stream_hides_who_shows_in_the_mean_of_the_new_faces(monkeypatch):
    monkeypatch.setattr(FacesInSequence, "pooled_similarity", lambda self, track, source: 2.0)
    frames = clip(14)
    results = streamed(frames)
    outcomes = [result.faces[0].outcome for result in results]
    assert outcomes[0] is Outcome.REPLACED
    assert outcomes[-1] is Outcome.REDACTED
    assert results[-1].faces[0].reason == "the mean of all its frames was too similar to the source"
    assert all(covered(frames[n], results[n].image, moving(n)[0]) for n in range(14))
