"""The flow from picture to picture, with tiny real networks; the one fake is the detector."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import deid_diffusion
from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.compositing.paste import Patch, paste_faces
from deid_diffusion.faces.align import crop_faces
from deid_diffusion.faces.detect import roll_deg
from deid_diffusion.faces.geometry import apply, invert
from deid_diffusion.faces.masks import make_inpaint_mask
from deid_diffusion.faces.skin_texture import skin_texture
from deid_diffusion.faces.task import FaceTask
from deid_diffusion.jobs.journal import fingerprint
from deid_diffusion.pipelines.repulsion import Repulsion
from deid_diffusion.settings import Settings
from deid_diffusion.types import Face, Outcome, Redaction
from tests.tiny import tiny_bank, tiny_estimator, tiny_pipeline

NEVER = {"far_0.001": 1.01, "far_0.01": 1.01, "far_0.05": 0.9}
# A cliff: at any rate strangers stay below .9999 and photos of one person do not.
CLIFF = {"real_far_0.01": 0.9999, "real_far_power": 1e9, "real_frr_0.01": 0.9999}
ALWAYS = dict.fromkeys(NEVER, -1.01)


def face(x: float, y: float, eyes: float = 30.0) -> Face:
    five = np.array([[-0.5, 0], [0.5, 0], [0, 0.5], [-0.4, 1.1], [0.4, 1.1]]) * eyes + [x, y]
    return Face(np.array([x - 1.1 * eyes, y - 0.9 * eyes, x + 1.1 * eyes, y + 1.7 * eyes]), five)


def picture(height: int = 240, width: int = 320) -> np.ndarray:
    """Noise, so that a source pixel that survives is seen."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def build(faces: list[Face], thresholds: dict = NEVER) -> FaceAnonymizer:
    parts = tiny_pipeline(256), tiny_estimator(), tiny_bank(), thresholds
    return FaceAnonymizer(*parts, detect=lambda image: list(faces))


ONE, TWO = [face(160, 100)], [face(90, 100), face(230, 110, 24)]
FAST = Settings(steps=2, repulsion=Repulsion(scale=0))


def covered(image: np.ndarray, result: np.ndarray, one: Face) -> bool:
    """Whether hardly a source pixel is left in the face's ellipse: noise repeats a value by chance only."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    x0, y0, x1, y1 = one.box
    inside = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 < 0.6
    return (image[inside] == result[inside]).all(-1).mean() < 0.01


def test_every_face_is_replaced_and_reported():
    image = picture()
    result = build(TWO)(image, seed=7, settings=FAST)
    assert [f.outcome for f in result.faces] == [Outcome.REPLACED] * 2
    assert all(covered(image, result.image, f) for f in TWO)
    for report in result.faces:
        assert -1 <= report.similarity <= 1
        assert report.tries == 1
        assert report.attributes["age"] > 0
    assert set(result.seconds) == {"detect", "read", "inpaint", "verify", "composite"}


def test_pixels_off_the_faces_are_bit_equal():
    image = picture()
    result = build(TWO)(image, settings=FAST)
    assert np.array_equal(result.image[~result.changed_mask], image[~result.changed_mask])
    assert 0.02 < result.changed_mask.mean() < 0.8


def test_no_face_same_pixels():
    image = picture()
    result = build([])(image)
    assert result.faces == ()
    assert np.array_equal(result.image, image)


def test_the_same_seed_gives_the_same_picture_and_another_another():
    anonymize, image = build(ONE), picture()
    first, again, other = (anonymize(image, seed=s, settings=FAST).image for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("how", list(Redaction))
def test_too_similar_is_tried_again_and_then_redacted(how):
    image = picture()
    result = build(ONE, ALWAYS)(image, settings=FAST, tries=2, redact_with=how)
    (report,) = result.faces
    assert report.outcome is Outcome.REDACTED
    assert report.tries == 2
    assert "too similar" in report.reason
    assert covered(image, result.image, ONE[0])


def test_of_several_candidates_the_best_fit_is_taken(monkeypatch):
    """Whichever is said to fit best is what is pasted, with its seed in the report."""
    image, seen = picture(), []
    for wanted in (0, 1, 2):
        costs = {wanted: 0.5}
        seen.clear()
        monkeypatch.setattr(
            "deid_diffusion.methods.inpaint.candidate_score",
            lambda painted, *_, c=costs: seen.append(painted) or c.get(len(seen) - 1, 1),
        )
        anonymize = build(ONE)
        result = anonymize(image, seed=0, settings=FAST, candidates=3)
        assert len(seen) == 3
        assert result.faces[0].seed == FaceTask(ONE[0], 0).draw_seed(0, wanted)
        crop = crop_faces(image, ONE, anonymize.estimator)[0]
        rough = skin_texture(image, apply(invert(crop.crop_from_image), crop.landmarks.astype(float)))
        pasted, _ = paste_faces(image, [Patch(seen[wanted], crop, result.faces[0].seed, rough)])
        assert np.array_equal(result.image, pasted)
    assert len({one.tobytes() for one in seen}) == 3


def test_a_candidate_that_is_too_similar_is_never_taken_however_well_it_fits(monkeypatch):
    """The threshold lies between the two; the better fit is the one above it."""
    image = picture()
    monkeypatch.setattr("deid_diffusion.methods.inpaint.candidate_score", lambda *_: 0.0)
    tried = []
    anonymize = build(ONE)
    embed = anonymize._embed

    def watched(crops):
        rows = embed(crops)
        tried.append(rows)
        return rows

    monkeypatch.setattr(anonymize, "_embed", watched)
    anonymize(image, seed=0, settings=FAST, candidates=2)
    source, shots = tried[0][0], tried[1]
    low, high = sorted((shots @ source).tolist())
    assert low < high
    result = anonymize(image, seed=0, settings=FAST, candidates=2, tries=1, threshold=(low + high) / 2)
    assert result.faces[0].similarity == pytest.approx(low, abs=1e-5)
    none = anonymize(image, seed=0, settings=FAST, candidates=2, tries=1, threshold=low - 0.01)
    assert none.faces[0].outcome is Outcome.REDACTED


def parts_of(pipeline) -> dict:
    """What is asked of a pipeline besides being called."""
    return {name: getattr(pipeline, name) for name in ("unet", "id_encoder", "size", "base_size")}


def test_one_batch_that_fails_leaves_the_other_candidates():
    anonymize, image = build(ONE), picture()
    real, calls = anonymize.pipeline, []

    def second_time_lucky(self, **given):
        calls.append(len(given["image"]))
        return real(**given) if len(calls) > 1 else broken()

    anonymize.pipeline = type("P", (), {**parts_of(real),
                                        "__call__": second_time_lucky})()  # fmt: skip
    (report,) = anonymize(image, settings=FAST, candidates=2, batch=1).faces
    assert calls == [1, 1]
    assert report.outcome is Outcome.REPLACED


def broken(*_, **__):
    raise RuntimeError("out of memory")


def not_finite(**given):
    return type("Out", (), {"images": torch.full((len(given["image"]), 3, 256, 256), float("nan"))})


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda a: setattr(a.estimator, "landmarks", broken), "reading failed: out of memory"),
        (lambda a: setattr(a.estimator, "analyze", broken), "reading failed: out of memory"),
        (lambda a: setattr(a, "_embed", broken), "reading failed: out of memory"),
        (lambda a: setattr(a.bank, "choose", broken), "choosing a target failed: out of memory"),
    ],
)
def test_whatever_breaks_the_face_is_blanked_with_the_reason(break_it, reason):
    anonymize, image = build(ONE), picture()
    object.__setattr__(anonymize, "bank", type("Bank", (), {"choose": anonymize.bank.choose})())
    break_it(anonymize)
    result = anonymize(image, settings=FAST)
    (report,) = result.faces
    assert report.outcome is Outcome.FAILED
    assert reason in report.reason
    assert covered(image, result.image, ONE[0])


@pytest.mark.parametrize("fail", [broken, not_finite])
def test_a_model_that_crashes_or_gives_nan_is_a_failure_and_the_face_is_hidden(fail):
    anonymize, image = build(ONE), picture()
    real = anonymize.pipeline
    anonymize.pipeline = type("P", (), {**parts_of(real),
                                        "__call__": lambda self, **given: fail(**given)})()  # fmt: skip
    (report,) = anonymize(image, settings=FAST).faces
    assert report.outcome is Outcome.FAILED
    assert "inpainting failed" in report.reason


def test_landmarks_of_somebody_else_are_not_trusted():
    image = picture()
    strange = [Face(np.array([10, 10, 60, 70]), face(250, 150).landmarks)]
    result = build(strange)(image, settings=FAST)
    assert result.faces[0].outcome is Outcome.REDACTED
    assert "do not fit" in result.faces[0].reason
    assert covered(image, result.image, strange[0])


@pytest.mark.parametrize("method", ["blank", "blur", "pixelate"])
def test_classical_methods_never_run_the_model(method):
    anonymize, image = build(TWO), picture()
    anonymize.pipeline = None
    result = anonymize(image, method=method)
    assert [f.outcome for f in result.faces] == [Outcome.REDACTED] * 2
    assert all(covered(image, result.image, f) for f in TWO)


def test_k_same_gives_every_face_of_the_set_the_mean_and_says_of_how_many():
    anonymize = build(TWO)
    # The tiny guide sees hardly a difference between people: only the very same face is one person here.
    settings = Settings(method="k-same", k=3, threshold=0.999999)
    photos = [np.random.default_rng(seed).integers(0, 256, (240, 320, 3), np.uint8) for seed in range(2)]
    settings = replace(settings, cohort=anonymize.fit_cohort(((photo, None) for photo in photos), settings))
    assert settings.cohort.faces == 4
    for photo in photos:
        result = anonymize(photo, seed=1, settings=settings)
        assert [f.outcome for f in result.faces] == [Outcome.REPLACED] * 2
        assert {f.reason for f in result.faces} == {"mean of 4 people"}
        assert all(covered(photo, result.image, f) for f in TWO)
        assert np.array_equal(result.image, anonymize(photo, seed=1, settings=settings).image)


def test_k_same_of_one_picture_averages_its_own_faces_and_needs_enough_of_them():
    alone = {"method": "k-same", "threshold": 0.999999}
    assert [f.reason for f in build(TWO)(picture(), k=2, **alone).faces] == ["mean of 2 people"] * 2
    with pytest.raises(ValueError, match="needs 5 people to average, got 2"):
        build(TWO)(picture(), **alone)
    assert build([])(picture(), **alone).faces == ()


def test_k_same_redacts_whom_the_cohort_does_not_hold():
    anonymize, image = build(TWO), picture()
    cohort = anonymize.fit_cohort([(image, None)], Settings(k=2, threshold=0.999999))
    object.__setattr__(cohort, "_same", 1.01)
    result = anonymize(image, settings=Settings(method="k-same", k=2, cohort=cohort))
    assert [f.reason for f in result.faces] == ["is none of the people that were averaged"] * 2
    assert all(covered(image, result.image, f) for f in TWO)


@pytest.mark.parametrize("quarters", range(4))
def test_boxes_stand_in_for_detection_and_their_faces_keep_their_roll(astronaut, quarters):
    image = np.ascontiguousarray(np.rot90(astronaut, -quarters))
    boxes = {0: [178, 62, 272, 180], 1: [332, 178, 450, 272], 2: [240, 332, 334, 450], 3: [62, 240, 180, 334]}
    anonymize = build([])
    analysis = anonymize.analyze(image, [boxes[quarters]], FAST)
    (task,) = analysis.tasks
    assert task.pending
    assert task.face.box.tolist() == boxes[quarters]
    assert abs((roll_deg(task.face.landmarks) - 90 * quarters + 180) % 360 - 180) < 20
    result = anonymize(image, boxes=[boxes[quarters]], settings=FAST)
    assert len(result.faces) == 1
    assert result.changed_mask[tuple(int(v) for v in task.face.landmarks.mean(0))[::-1]]


@pytest.mark.parametrize("method", ["inpaint", "blank"])
def test_a_box_without_a_face_is_hidden_and_never_painted(astronaut, method):
    image = astronaut.copy()
    image[380:420, 300:420] = 230
    cv2.putText(image, "AB 123", (306, 410), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (20, 20, 20), 2)
    plate, head = [300, 380, 420, 420], [178, 62, 272, 180]
    result = build([])(image, boxes=[plate, head], settings=FAST, method=method)
    assert len(result.faces) == 2
    assert result.faces[0].outcome is Outcome.REDACTED
    assert result.faces[0].reason == ("method blank" if method == "blank" else "no face was found in this box")
    assert (result.image[380:420, 300:420] == 128).all()
    assert "no face" not in result.faces[1].reason


def test_whole_faces_keep_their_landmarks():
    image = picture()
    result = build([])(image, boxes=ONE, settings=FAST)
    assert [f.outcome for f in result.faces] == [Outcome.REPLACED]
    assert np.array_equal(result.faces[0].face.landmarks, ONE[0].landmarks)


METHODS = {
    "inpaint": (Outcome.REPLACED, {}),
    "k-same": (Outcome.REPLACED, {"k": 2, "threshold": 0.999999}),
    **dict.fromkeys(("blank", "blur", "pixelate"), (Outcome.REDACTED, {})),
}


def first_of_two(method: str, option: str, rates: dict[str, float] | None = None):
    """What becomes of two people when the first one is the reference."""
    anonymize, image = build(TWO, NEVER | (rates or CLIFF)), picture()
    anonymize.detect = lambda image: TWO[:1]
    settings = replace(FAST, method=method, **METHODS[method][1], **{option: anonymize.embed_references([image])})
    anonymize.detect = lambda image: TWO
    if method == "k-same":
        everybody = replace(settings, keep=None, only=None)
        settings = replace(settings, cohort=anonymize.fit_cohort([(image, None)], everybody))
    return image, anonymize(image, settings=settings)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("option", "kept"), [("keep", 0), ("only", 1)])
def test_every_method_leaves_alone_whom_it_is_told_to(method, option, kept):
    image, result = first_of_two(method, option)
    left, hidden = result.faces[kept], result.faces[1 - kept]
    assert left.outcome is Outcome.KEPT
    assert "similarity" in left.reason
    assert hidden.outcome is METHODS[method][0]
    assert not covered(image, result.image, TWO[kept])
    assert covered(image, result.image, TWO[1 - kept])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("option", ["keep", "only"])
def test_a_borderline_face_is_hidden_and_named_with_its_similarity_and_the_threshold(method, option):
    # Nobody is a stranger for sure from -1 on, and nobody is the person for sure below 1.
    rates = {"keep": {"real_far_0.01": -0.9, "real_far_power": 0.1}, "only": CLIFF | {"real_frr_0.01": -1.0}}[option]
    image, result = first_of_two(method, option, CLIFF | rates)
    report = result.faces[1]
    assert report.outcome is METHODS[method][0]
    assert covered(image, result.image, TWO[1])
    assert report.borderline
    assert report.to_json()["borderline"] is True
    assert re.search(r"borderline: may be .*: similarity [01]\.\d{3}, threshold -?[01]\.\d{3}$", report.reason)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("option", ["keep", "only"])
def test_a_face_that_cannot_be_read_is_hidden_whoever_is_left_alone(method, option):
    anonymize, image = build(ONE, NEVER | CLIFF), picture()
    settings = replace(FAST, method=method, **METHODS[method][1], **{option: anonymize.embed_references([image])})
    strange = [Face(np.array([10, 10, 60, 70]), face(250, 150).landmarks)]
    anonymize.detect = lambda image: strange
    result = anonymize(image, settings=settings)
    assert result.faces[0].outcome is Outcome.REDACTED
    assert "do not fit" in result.faces[0].reason
    assert covered(image, result.image, strange[0])


@pytest.mark.parametrize(("faces", "said"), [([], "got no faces"), (TWO, "got 2 faces")])
def test_a_reference_of_nobody_or_of_two_people_is_refused(faces, said):
    anonymize = build(faces, NEVER | CLIFF)
    with pytest.raises(ValueError, match=f"reference photo 1: wanted a reference photo of one person, {said}"):
        anonymize.embed_references([picture()])


def test_bare_embeddings_know_no_rates_and_are_refused():
    with pytest.raises(ValueError, match=r"keep must be what FaceAnonymizer\.embed_references makes of photos"):
        build(ONE)(picture(), keep=np.eye(4))


def test_weights_that_were_not_calibrated_on_real_people_leave_nobody_alone():
    with pytest.raises(ValueError, match=r"must say real_far_0.01, .* benchmarks/references.py measures"):
        build(ONE).embed_references([picture()])


def test_set_attributes_are_used_and_reported_and_forgotten_ones_are_not():
    result = build(ONE)(picture(), settings=FAST, attributes={"age": 71.0}, drop_attributes=("male",))
    assert result.faces[0].attributes["age"] == 71
    assert "male" not in result.faces[0].attributes


def test_neighbours_are_not_context():
    close = [face(120, 100), face(175, 100)]
    anonymize, image = build(close), picture()
    seen = []
    real = anonymize.pipeline

    def watch(**given):
        seen.append(given["mask_image"].numpy())
        return real(**given)

    anonymize.pipeline = type("P", (), {**parts_of(real),
                                        "__call__": lambda self, **given: watch(**given)})()  # fmt: skip
    anonymize(image, settings=FAST)
    (crop,) = crop_faces(image, close[:1], anonymize.estimator)
    assert (seen[0][0, 0] > 0).sum() > (crop.mask > 0).sum() * 1.1


def test_a_source_mirrored_at_the_border_is_not_context():
    one = [face(8, 100)]
    anonymize, image = build(one), picture()
    (crop,) = crop_faces(image, one, anonymize.estimator)
    erased = make_inpaint_mask(crop, image.shape, [])
    y, x = np.mgrid[:256, :256] + 0.5
    there = apply(invert(crop.crop_from_image), np.stack([x, y], -1).reshape(-1, 2)).reshape(256, 256, 2)
    assert (erased[there[..., 0] < -1] == 1).all()
    inside = (there > 1).all(-1) & (there[..., 0] < 319) & (there[..., 1] < 239)
    assert np.array_equal(erased[inside], crop.mask[inside])
    assert (crop.mask[there[..., 0] < -1] == 0).any()


def test_forty_faces_are_forty_reports():
    image = picture(600, 900)
    crowd = [face(60 + 88 * (n % 10), 70 + 140 * (n // 10), 16) for n in range(40)]
    result = build(crowd)(image, settings=Settings(steps=1, repulsion=Repulsion(scale=0), batch=4))
    assert len(result.faces) == 40
    assert all(covered(image, result.image, f) for f in crowd)


@pytest.mark.parametrize("place", [(2, 2), (318, 100), (160, 238), (-12, 100)])
def test_a_face_cut_by_the_border_is_covered(place):
    image = picture()
    one = face(*place)
    result = build([one])(image, settings=FAST)
    assert covered(image, result.image, one)


def test_a_result_that_misses_the_face_is_redacted(monkeypatch):
    image = picture()
    monkeypatch.setattr(
        "deid_diffusion.anonymizer.paste_faces", lambda canvas, *_: (canvas.copy(), np.zeros(canvas.shape[:2], bool))
    )
    result = build(ONE)(image, settings=FAST)
    assert result.faces[0].outcome is Outcome.REDACTED
    assert "did not cover" in result.faces[0].reason
    assert covered(image, result.image, ONE[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be >= 1"),
        ({"candidates": 0}, "candidates must be >= 1"),
        ({"attributes": {"charm": 1}}, "unknown attribute"),
        ({"drop_attributes": ("yaw_deg",)}, "drop_attributes takes any of"),
        ({"redact_with": "sticker"}, "sticker"),
        ({"method": "k-same", "k": 1}, "k must be >= 2"),
        ({"keep": np.zeros((1, 4)), "only": np.zeros((1, 4))}, "not both"),
        ({"repulsion": {"strength": 3}}, "repulsion takes scale, .*; got 'strength'"),
        ({"repulsion": 30}, "repulsion must be a Repulsion"),
        ({"noise_scale": -1.0}, "noise_scale must be >= 0"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_a_mapping_is_a_fine_repulsion():
    assert Settings(repulsion={"scale": 30}).repulsion == Repulsion(scale=30)
    assert Settings(repulsion=None).repulsion.scale == 0
    image, anonymize = picture(), build(ONE)
    by_name = anonymize(image, seed=1, steps=2, repulsion={"scale": 60})
    assert by_name.faces[0].outcome is Outcome.REPLACED
    assert np.array_equal(by_name.image, anonymize(image, seed=1, steps=2, repulsion=Repulsion(scale=60)).image)
    with pytest.raises(ValueError, match="got 'scales'"):
        anonymize(image, repulsion={"scales": 60})


def test_all_that_is_erased_is_painted_anew_however_faint_its_mask(monkeypatch):
    anonymize = build(ONE)
    tasks = anonymize.choose_targets(anonymize.analyze(picture(), ONE), settings=replace(FAST, candidates=1))
    faint = (tasks[0].inpaint_mask > 0) & (tasks[0].inpaint_mask < 0.5)
    assert faint.any()
    taken, call = [], type(anonymize.pipeline).__call__

    def look(pipe, **given):
        taken.append(given["mask_image"])
        return call(pipe, **given)

    monkeypatch.setattr(type(anonymize.pipeline), "__call__", look)
    (done,) = anonymize.generate(tasks, replace(FAST, candidates=1))
    assert np.array_equal(taken[0][0, 0].numpy(), tasks[0].inpaint_mask > 0)
    source = tasks[0].crop.image
    assert (done.generated[faint] == source[faint]).all(-1).mean() < 0.05
    assert (done.generated == source)[tasks[0].inpaint_mask == 0].all()


@pytest.mark.parametrize("name", [name for name in deid_diffusion.__all__ if name != "__version__"])
def test_what_the_package_exports_is_there(name):
    assert getattr(deid_diffusion, name).__name__ == name


def test_missing_weights_say_what_was_wanted(tmp_path):
    with pytest.raises(FileNotFoundError, match="model_index.json"):
        FaceAnonymizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"steps": 4, "candidates": 2, "guidance_scale": 1, "batch": 8, "threshold": 1.01}, True),
        ({}, {"repulsion": Repulsion(scale=30), "repulsion_factor": 1, "landmark_style": "dlib68", "k": 7}, True),
        ({"drop_attributes": ("male", "age")}, {"drop_attributes": ("age", "male", "age")}, True),
        ({"attributes": {"age": 60, "smile": 1}}, {"attributes": {"smile": 1.0, "age": 60.0}}, True),
        ({"method": "blur"}, {"method": "blur", "steps": 9, "redact_with": "pixelate"}, True),
        ({"method": "k-same"}, {"method": "k-same", "k": 5}, True),
        ({}, {"steps": 3}, False),
        ({}, {"candidates": 1}, False),
        ({}, {"guidance_scale": 1.5}, False),
        ({}, {"threshold": 0.5}, False),
        ({}, {"redact_with": "blur"}, False),
        ({}, {"drop_attributes": ("age",)}, False),
        ({"method": "k-same"}, {"method": "k-same", "k": 7}, False),
        ({"method": "blur"}, {"method": "pixelate"}, False),
    ],
)
def test_defaults_that_are_spelled_out_are_the_same_settings(one, other, same):
    anonymize = build(ONE)
    prints = [fingerprint(anonymize.resolve(Settings(**given))) for given in (one, other)]
    assert (prints[0] == prints[1]) == same
    assert fingerprint(anonymize.resolve()) == fingerprint(anonymize.resolve(Settings()))
