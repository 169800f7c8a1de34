"""The four stages by themselves, many pictures at once, methods and policies of one's own, another process."""

import multiprocessing
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from deid_diffusion import AnonymizerSpec, FaceAnonymizer, FixedTarget, Target
from deid_diffusion.compositing.paste import Patch, paste_faces
from deid_diffusion.faces.task import FaceTask
from deid_diffusion.methods import Context, find_method, method_names, register
from deid_diffusion.methods.redact import face_region
from deid_diffusion.types import Outcome
from tests.test_anonymizer import FAST, NEVER, ONE, TWO, build, covered, face, picture


def test_the_four_stages_are_the_call():
    anonymize, image = build(TWO), picture()
    analysis = anonymize.analyze(image, settings=FAST)
    tasks = anonymize.choose_targets(analysis, seed=7, settings=FAST)
    done = anonymize.generate(tasks, FAST)
    result, whole = anonymize.composite(analysis, done, FAST), anonymize(image, seed=7, settings=FAST)
    assert np.array_equal(result.image, whole.image)
    assert [f.to_json() for f in result.faces] == [f.to_json() for f in whole.faces]


def test_a_face_is_generated_again_without_being_looked_at_again(monkeypatch):
    anonymize = build(ONE)
    tasks = anonymize.choose_targets(anonymize.analyze(picture()), settings=FAST)
    monkeypatch.setattr(anonymize, "detect", None)
    monkeypatch.setattr(anonymize.estimator, "landmarks", None)
    young, old, again = (anonymize.generate(tasks, FAST, attributes={"age": age})[0] for age in (20, 70, 20))
    assert np.array_equal(young.generated, again.generated)
    assert not np.array_equal(young.generated, old.generated)
    assert {target.number for target in young.targets + old.targets} <= {t.number for t in tasks[0].targets}
    assert tasks[0].generated is None


@pytest.mark.parametrize("lost", [0, 1])
def test_a_task_that_is_left_out_is_refused(lost):
    anonymize = build(TWO)
    analysis = anonymize.analyze(picture())
    tasks = anonymize.choose_targets(analysis, settings=FAST)
    del tasks[lost]
    with pytest.raises(ValueError, match="every task of its picture, in order: wanted 2, got 1"):
        anonymize.composite(analysis, tasks)


@pytest.mark.parametrize(("score", "odd", "hidden"), [(0.5, 1.2, True), (0.5, 1.0, False), (0.7, 1.2, False)])
def test_what_may_be_no_face_is_blurred_and_gets_none(monkeypatch, score, odd, hidden):
    one = replace(ONE[0], score=score)
    anonymize, image = build([one]), picture()
    read = anonymize.estimator.analyze
    monkeypatch.setattr(
        anonymize.estimator, "analyze", lambda crops, **how: [replace(a, ood_score=odd) for a in read(crops, **how)]
    )
    result = anonymize(image, seed=0, settings=FAST)
    assert result.faces[0].outcome is (Outcome.REDACTED if hidden else Outcome.REPLACED)
    assert covered(image, result.image, one)
    if hidden:
        assert "may be no face" in result.faces[0].reason
        assert not (result.image[95:125, 150:170] == result.image[95, 150]).all()  # blurred, not blank
    named = anonymize(image, seed=0, settings=FAST, boxes=[one])  # by somebody who saw a face there
    assert named.faces[0].outcome is Outcome.REPLACED


def test_a_new_face_lies_over_what_hides_what_may_be_none(monkeypatch):
    sure, hair = ONE[0], replace(face(160, 68, 20), score=0.5)  # a block over half of the forehead
    anonymize, image = build([sure, hair]), picture()
    read = anonymize.estimator.analyze
    monkeypatch.setattr(
        anonymize.estimator, "analyze",
        lambda crops, **how: [replace(a, ood_score=1.2 * n) for n, a in enumerate(read(crops, **how))],
    )  # fmt: skip
    analysis = anonymize.analyze(image, settings=FAST)
    tasks = anonymize.generate(anonymize.choose_targets(analysis, seed=0, settings=FAST), FAST)
    result = anonymize.composite(analysis, tasks, FAST)
    assert [one.outcome for one in result.faces] == [Outcome.REPLACED, Outcome.REDACTED]
    patch = Patch(tasks[0].generated, tasks[0].crop, tasks[0].result_seed, tasks[0].skin_texture)
    forehead, where = np.s_[88:92, 150:170], face_region(hair, image.shape[:2])
    assert where[forehead].all()
    assert np.array_equal(result.image[forehead], paste_faces(image, [patch])[0][forehead])
    assert covered(image, result.image, hair)
    assert result.changed_mask[where].all()


def test_what_was_never_generated_is_hidden():
    anonymize, image = build(TWO), picture()
    analysis = anonymize.analyze(image)
    result = anonymize.composite(analysis, analysis.tasks)
    assert [f.outcome for f in result.faces] == [Outcome.REDACTED] * 2
    assert all(covered(image, result.image, f) for f in TWO)


def counted(anonymize, sizes):
    """Notes how many faces each model call has."""
    real = anonymize.pipeline

    def call(self, **given):
        sizes.append(len(given["image"]))
        return real(**given)

    kept = {name: getattr(real, name) for name in ("unet", "id_encoder", "detail", "size", "base_size")}
    anonymize.pipeline = type("Counted", (), {**kept, "__call__": call})()
    return anonymize


def test_map_fills_model_calls_with_the_faces_of_several_pictures_in_order():
    images, sizes = [np.roll(picture(), n, axis=0) for n in range(5)], []
    anonymize = counted(build(TWO), sizes)
    settings = replace(FAST, candidates=1, batch=6)
    results = list(anonymize.map(iter(images), seed=3, batch_size=6, settings=settings))
    assert sizes == [6, 4]
    for place, (image, result) in enumerate(zip(images, results, strict=True)):
        alone = build(TWO)(image, seed=3 + place, settings=settings)
        assert np.array_equal(result.source.image, image)
        assert [f.seed for f in result.faces] == [f.seed for f in alone.faces]
        # Model calls of other sizes round differently.
        assert np.abs(result.image.astype(int) - alone.image).max() <= 2
        assert set(result.seconds) == {"detect", "read", "inpaint", "verify", "composite"}


def test_map_holds_no_more_than_its_window():
    taken = []

    def images():
        for number in range(9):
            taken.append(number)
            yield picture()

    results = build(TWO).map(images(), batch_size=4, settings=replace(FAST, candidates=1), threads=3)
    next(results)
    assert len(taken) == 2 + 3 - 1  # the window, and what is read ahead
    assert len(list(results)) == 8


def test_map_saves_in_threads_what_it_gives_back_and_says_what_could_not_be_saved():
    saved, main = {}, threading.current_thread()

    def save(number, result):
        assert threading.current_thread() is not main
        saved[number] = result
        if number == 3:
            raise OSError("no space left")

    results, done = build(ONE).map([picture()] * 5, batch_size=2, settings=FAST, save=save), []
    with pytest.raises(OSError, match="no space left"):
        done.extend(results)
    assert [saved[number] for number in range(3)] == done
    plain = list(build(ONE).map([picture()] * 3, seed=4, settings=FAST, threads=1))
    with_threads = list(build(ONE).map([picture()] * 3, seed=4, settings=FAST, threads=3, save=lambda *_: None))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(plain, with_threads, strict=True))


def test_out_of_memory_halves_the_batch_for_good_and_goes_on():
    sizes = []
    anonymize = build(TWO)
    unet = anonymize.pipeline.unet
    forward = unet.forward

    def small(sample, *more, **given):
        sizes.append(len(sample))
        if len(sample) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(sample, *more, **given)

    unet.forward = small
    settings = replace(FAST, candidates=1, batch=8, repulsion=None)
    results = list(anonymize.map([picture()] * 4, seed=3, settings=settings))
    plain = list(build(TWO).map([picture()] * 4, seed=3, settings=settings))
    assert [face.outcome for result in results for face in result.faces] == [Outcome.REPLACED] * 8
    for one, other in zip(results, plain, strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= 2
    assert sizes[:3] == [8, 4, 2]
    assert set(sizes[3:]) == {2}
    sizes.clear()
    anonymize(picture(), seed=1, settings=settings)
    assert set(sizes) == {2}  # what fits is remembered
    unet.forward = lambda sample, *more, **given: small(sample.repeat(4, 1, 1, 1), *more, **given)
    result = anonymize(picture(), seed=1, settings=settings)
    assert {face.outcome for face in result.faces} == {Outcome.FAILED}
    assert all("out of memory" in face.reason for face in result.faces)


def test_map_gives_what_was_done_before_a_picture_that_cannot_be_read(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    results, done = build(ONE).map([picture(), broken, picture()], settings=FAST), []
    with pytest.raises(ValueError, match="broken.png"):
        done.extend(results)
    assert len(done) == 1


def test_map_of_pictures_without_faces_gives_them_back():
    results = list(build([]).map([picture()] * 3, batch_size=2))
    assert all(np.array_equal(result.image, picture()) for result in results)


class Grey:
    """A method of a user's own: every face becomes flat grey, by the model's crop."""

    name, reads_faces, uses_targets = "grey", True, False

    def __call__(self, tasks: list[FaceTask], context: Context) -> list[FaceTask]:
        flat = np.full((256, 256, 3), 99, np.uint8)
        return [replace(task, generated=flat).decided(Outcome.REPLACED, "grey") for task in tasks]


def test_a_method_of_ones_own_needs_no_other_file():
    image = picture()
    result = build(TWO)(image, method=Grey())
    assert [f.reason for f in result.faces] == ["grey"] * 2
    assert all(covered(image, result.image, f) for f in TWO)


def test_a_method_can_be_known_by_name(monkeypatch):
    monkeypatch.setattr("deid_diffusion.methods.protocol._METHODS", {})
    register("grey")(type("Named", (Grey,), {"__init__": lambda self, name: None}))
    assert find_method("grey").name == "grey"


def test_methods_are_found_by_name_and_others_refused():
    assert {"inpaint", "k-same", "blank", "blur", "pixelate"} <= set(method_names())
    with pytest.raises(ValueError, match="method must be one of .*inpaint.*, got 'swop'"):
        build(ONE)(picture(), method="swop")
    with pytest.raises(ValueError, match="got int"):
        build(ONE)(picture(), method=3)


def test_a_policy_of_ones_own_says_who_each_face_becomes():
    anonymize = build(TWO)
    somebody = anonymize.bank.target(5)
    tasks = anonymize.choose_targets(anonymize.analyze(picture()), FixedTarget(1.0, somebody), settings=FAST)
    assert {target.number for task in tasks for target in task.targets} == {5}
    done = anonymize.generate(tasks, FAST, FixedTarget(-2.0, somebody))
    assert all("too similar to the source" in task.reason for task in done)
    assert {task.outcome for task in done} == {Outcome.REDACTED}


def test_a_target_can_be_anybody():
    anonymize, image = build(ONE), picture()
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=anonymize.bank.embedding.shape[1]).astype(np.float32)
    nobody = Target(embedding / np.linalg.norm(embedding), np.zeros(anonymize.bank.shape_params.shape[1], np.float32))
    result = anonymize(image, settings=FAST, policy=FixedTarget(1.0, nobody))
    assert result.faces[0].outcome is Outcome.REPLACED


def test_detections_of_ones_own_are_taken_whole():
    image, lying = picture(), face(160, 100)
    turned = replace(lying, landmarks=lying.landmarks + np.float32(1.5))
    (task,) = build([]).analyze(image, [turned]).tasks
    assert task.face is turned


def in_another_process(spec, image, results):
    result = FaceAnonymizer.from_spec(spec)(image, seed=3, steps=1, candidates=1)
    results.put((result.image, result.faces[0].outcome.value))


def test_a_spec_builds_the_same_anonymizer_in_another_process(weights, astronaut):
    anonymize = FaceAnonymizer.from_pretrained(backend="torch")
    assert anonymize.spec == pickle.loads(pickle.dumps(AnonymizerSpec(backend="torch")))
    small = np.ascontiguousarray(astronaut[:256, 96:352])
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    child = spawn.Process(target=in_another_process, args=(anonymize.spec, small, results))
    child.start()
    image, outcome = results.get(timeout=300)
    child.join()
    assert outcome == "replaced"
    assert np.abs(image.astype(int) - anonymize(small, seed=3, steps=1, candidates=1).image).max() <= 1


def test_several_threads_share_one_anonymizer():
    from concurrent.futures import ThreadPoolExecutor

    anonymize = build(ONE, NEVER)
    images = [np.roll(picture(), n, axis=1) for n in range(6)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: anonymize(image, seed=1, settings=FAST), images))
    for image, result in zip(images, together, strict=True):
        assert result.faces[0].outcome is Outcome.REPLACED, result.faces[0].reason
        assert np.abs(result.image.astype(int) - anonymize(image, seed=1, settings=FAST).image).max() <= 1


def test_the_shipped_model_replaces_the_face(weights, astronaut):
    """A broken inpainter fails here: hidden is not replaced."""
    result = FaceAnonymizer.from_pretrained(backend="torch")(astronaut, seed=3)
    assert [f.outcome for f in result.faces] == [Outcome.REPLACED], result.faces[0].reason
    x0, y0, x1, y1 = result.faces[0].face.box.astype(int)
    assert result.image[y0:y1, x0:x1].std() > 20  # a face, and no flat patch
