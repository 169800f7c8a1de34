"""Clips of people who do not exist, judged by a detector that knows where they are and a small real recogniser."""

import json
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from deid_diffusion import cli
from deid_diffusion.evaluation.clips import page
from deid_diffusion.evaluation.clips import results as names
from deid_diffusion.evaluation.clips.command import run_clip_eval
from deid_diffusion.evaluation.clips.measure import clip_metrics
from deid_diffusion.evaluation.clips.motion import MOTIONS
from deid_diffusion.evaluation.clips.pixels import difference, encoder_noise, flicker, is_cut, is_exposed, thumbnail
from deid_diffusion.evaluation.clips.plots import thinned
from deid_diffusion.evaluation.clips.summary import clip_headline, clip_table
from deid_diffusion.evaluation.clips.tracks import EVENLY, EvalTrack, Identity, Strip, link
from deid_diffusion.evaluation.clips.watch import ClipWatch
from deid_diffusion.evaluation.command import EvalOptions
from deid_diffusion.evaluation.results import EvaluationError, find_metric
from deid_diffusion.types import Face
from tests.evaluation.conftest import BOX, LANDMARKS, KnowingDetector, portrait, save
from tests.imaging.clip_maker import add_sound

av = pytest.importorskip("av")
FACE = Face(BOX, LANDMARKS, 1.0)
DRAW = page._plot


def write(path, frames, title="", sound=0.0, late=0):
    """A lossless clip of 10 frames a second, with `sound` of so many seconds; `late` moves all but the first frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = *frames[0].shape[1::-1], "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        container.metadata.update({"title": title} if title else {})
        audio = container.add_stream("flac", rate=48000, layout="mono") if sound else None
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="bgr0")
            picture.pts, picture.time_base = 100 * number + late * bool(number), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if audio:
            add_sound(container, audio, sound)
    return path


def frames_of(person, count=12, jitter=0):
    """Frames of one person; `jitter` changes who it is from frame to frame."""
    return [portrait(person + jitter * number, photo=number) for number in range(count)]


def replaced(frames, person, jitter=0):
    out = [frame.copy() for frame in frames]
    for number, frame in enumerate(out):
        frame[30:80, 30:80] = portrait(person + jitter * number, photo=number)[30:80, 30:80]
    return out


@pytest.fixture
def options(tmp_path, judge_file, monkeypatch) -> EvalOptions:
    monkeypatch.setattr("deid_diffusion.evaluation.clips.command.detector_from_spec", lambda spec: KnowingDetector())
    # Drawing takes most of a run's seconds; one test does it.
    monkeypatch.setattr(page, "_plot", lambda report, tracks: "")
    for person in range(20):
        save(tmp_path / "gallery", f"{person:03}.png", portrait(person))
    for person in (100, 101):
        frames, name = frames_of(person), f"{person}.mkv"
        write(tmp_path / "originals" / name, frames, sound=1.0)
        write(tmp_path / "copies" / name, frames, title="home", late=5)
        write(tmp_path / "steady" / f"{person}_anon.mkv", replaced(frames, 500), sound=1.0)
        write(tmp_path / "flickering" / name, replaced(frames, 500, jitter=1))
        blank = [frame.copy() for frame in frames]
        for frame in blank:
            frame[30:80, 30:80] = 0
        write(tmp_path / "blank" / name, blank)
    outputs = tuple(tmp_path / name for name in ("copies", "steady", "flickering", "blank"))
    judges = (f"{judge_file}:64:rgb:arcface:name=grid",)
    return EvalOptions(tmp_path / "originals", outputs, tmp_path / "eval", tmp_path / "gallery", judges=judges)


def value(report, name):
    return find_metric((*report.metrics, *report.judges[0].metrics), name).value


def check(report, name):
    return next(check for check in report.files if check.name == name)


def test_what_is_left_is_exposed_and_recognised_and_what_is_replaced_is_not(options):
    found = run_clip_eval(options)
    copy, steady, flickering, blank = (
        next(report for report in found.reports if report.method == name and report.clip == "100")
        for name in ("copies", "steady", "flickering", "blank")
    )
    assert [value(report, names.EXPOSED) for report in (copy, steady, flickering, blank)] == [1, 0, 0, 0]
    assert [value(report, names.FOUND) for report in (copy, steady, flickering, blank)] == [1, 1, 1, 0]
    for name in (names.FRAME_HITS, names.BEST_HITS, names.POOLED_HITS, names.FRAME_RANK, names.POOLED_RANK):
        assert value(copy, name) == 1
        assert value(steady, name) == 0
    assert value(copy, names.POOLED) == pytest.approx(1, abs=1e-4)
    assert value(copy, names.FLICKER) == pytest.approx(1)
    assert value(steady, names.FLICKER) < 1.5 < 3 < value(flickering, names.FLICKER)
    assert value(steady, names.SPREAD) < 0.1 < value(flickering, names.SPREAD)
    assert value(flickering, names.ADJACENT) < 0.5 < 0.9 < value(steady, names.ADJACENT)
    assert copy.look_at == ((0.0, 1.1, "exposed"),)
    assert blank.look_at == ((0.0, 1.1, "no face found in the output"),)
    assert steady.judges[0].strangers == 20
    (person,) = copy.judges[0].people
    assert (person.tracks, person.frames, person.exposed, person.start_s) == ((0,), 12, 12, 0.0)
    assert person.pooled == value(copy, names.POOLED)
    assert "12 of 12 face-frames are exposed" in clip_headline(copy)[0]
    assert [check.same for check in steady.files] == [True] * len(steady.files)
    assert check(steady, "audio").got == "1 streams, 11 packets, bit for bit"
    assert check(copy, "metadata").got == "title"
    assert not check(copy, "times of the frames").same
    assert check(copy, "audio").got == "dropped"
    rows = clip_table(found.reports).splitlines()
    assert [row.split(" | ")[0] for row in rows[-4:]] == [f"| *{name}: all*" for name in
                                                         ("copies", "steady", "flickering", "blank")]  # fmt: skip
    text = (options.out / "report.html").read_text()
    assert json.loads((options.out / "eval.json").read_text())["clips"][0]["clip"] == "100"
    assert text.count("data:image/jpeg") > 8 * 5
    assert "http" not in text


def one(options, output, **changes):
    return replace(options, originals=options.originals / "100.mkv", outputs=(output,), **changes)


def test_clips_that_do_not_belong_together_are_errors_that_write_nothing(options, tmp_path):
    frames = frames_of(100)
    cases = {
        "wanted as many frames.*the output ends after 11.*--from": write(tmp_path / "short.mkv", frames[:-1]),
        "wanted as many frames.*the original ends after 12": write(tmp_path / "long.mkv", [*frames, frames[0]]),
        "wanted 112 x 112.*got 64 x 112": write(tmp_path / "slim.mkv", [frame[:, :64] for frame in frames]),
        "outputs must be": tmp_path,
    }
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(b"no clip")
    for said, path in {**cases, "wanted a readable clip": broken}.items():
        with pytest.raises(EvaluationError, match=said):
            run_clip_eval(one(options, path))
    with pytest.raises(EvaluationError, match="got none; it is shorter"):
        run_clip_eval(one(options, tmp_path / "short.mkv", start_s=50.0))
    with pytest.raises(EvaluationError, match="not one clip.*has an output"):
        run_clip_eval(replace(options, outputs=(options.originals.parent / "gallery",)))
    assert not options.out.exists()


def test_a_part_is_judged_against_that_part(options, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "_plot", DRAW)
    part = write(tmp_path / "part.mkv", replaced(frames_of(100), 500)[3:9])
    (report,) = run_clip_eval(one(options, part, start_s=0.3, stop_s=0.9)).reports
    assert (report.frames, report.start_s, report.stop_s) == (6, 0.3, 0.8)
    assert check(report, "times of the frames").same
    assert value(report, names.EXPOSED) == 0
    assert (options.out / "report.html").read_text().count("data:image/svg") == 1


def test_one_bad_clip_of_a_folder_is_a_line_and_not_the_end(options):
    originals, steady = options.originals, options.originals.parent / "steady"
    (steady / "100_anon.mkv").write_bytes(b"no clip")
    write(originals / "empty.mkv", [np.full((112, 112, 3), 90, np.uint8)] * 3)
    write(steady / "empty.mkv", [np.full((112, 112, 3), 90, np.uint8)] * 3)
    write(originals / "lost.mkv", frames_of(3, 2))
    write(steady / "other.mkv", frames_of(3, 2))
    found = run_clip_eval(replace(options, outputs=(steady,), gallery=None))
    assert {(problem.kind, problem.file) for _, problem in found.problems} == {
        ("not comparable", "100"),
        ("no face found in the original", "empty"),
        ("no output", "lost"),
        ("output without an original", "other.mkv"),
    }
    assert [report.clip for report in found.reports] == ["101", "empty"]
    empty = found.reports[1]
    assert value(empty, names.EXPOSED) is None
    assert value(empty, names.OFF_FACES) == float("inf")
    assert find_metric(found.reports[0].judges[0].metrics, names.FRAME_HITS).reason.startswith("no threshold")


def test_the_command_line_judges_clips_beside_pictures(options, capsys, monkeypatch):
    monkeypatch.setattr("deid_diffusion.evaluation.command.detector_from_spec", lambda spec: KnowingDetector())
    monkeypatch.setattr("deid_diffusion.evaluation.html_report._plots", lambda reports: [])
    steady, out = options.originals.parent / "steady", options.out
    words = ["eval", str(options.originals), str(steady), "--judge", options.judges[0], "-o", str(out)]
    assert cli.main(words) == 0
    assert (out / "eval.json").exists()
    assert "| *all* |" in capsys.readouterr().out
    assert cli.main([*words, "--pool"]) == 2
    save(options.originals, "face.png", portrait(3))
    save(steady, "face.png", portrait(4))
    assert cli.main(words) == 0
    assert (out / "clips" / "report.html").exists()
    assert json.loads((out / "eval.json").read_text())["methods"][0]["pictures"] == 1
    assert cli.main([*words[:1], str(options.originals / "face.png"), *words[2:]]) == 2
    assert "a clip and its outputs" in capsys.readouterr().err


def test_pixels_tell_an_encoder_from_a_change():
    source = np.clip(portrait(7, noise=2.0).astype(int) + 20, 0, 255).astype(np.uint8)
    encoded = cv2.imdecode(cv2.imencode(".jpg", source, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_COLOR)

    def exposed(output):
        changes = difference(source, output)
        return is_exposed(source, changes, FACE, encoder_noise(changes, [FACE])[0])

    assert exposed(source)
    assert exposed(encoded)
    stranger = encoded.copy()
    stranger[30:80, 30:80] = portrait(8)[30:80, 30:80]
    assert not exposed(stranger)
    stranger[30:60, 30:80] = encoded[30:60, 30:80]  # the mask has slipped: the eyes are left
    assert exposed(stranger)
    assert not exposed(cv2.GaussianBlur(source, (0, 0), 12))  # all of it: the noise has a limit


def test_flicker_is_what_the_sources_motion_does_not_explain():
    big = cv2.resize(portrait(5, noise=0), (336, 336), interpolation=cv2.INTER_CUBIC)
    face = Face(BOX * 3, LANDMARKS * 3, 1.0)
    moved = np.roll(big, 3, axis=1)
    before, after = flicker((moved, moved), (big, big), face)
    assert before == after < 2
    noisy = np.clip(moved + np.random.default_rng(0).normal(0, 20, moved.shape), 0, 255).astype(np.uint8)
    assert flicker((moved, noisy), (big, big), face)[1] > 3 * before


def track(before, after, start=0.0) -> EvalTrack:
    made = EvalTrack(0, FACE, 0, 0.0, start)
    same = {"exposed": 0, "found": 1, "flicker_before": 1, "flicker_after": 2, "mouth_before": 0.1}
    for number, (one, two) in enumerate(zip(before, after, strict=True)):
        moved = {"yaw_before": one, "yaw_after": two, "mouth_after": one, "uncovered": number == 0}
        made.rows.add(frame=number, time=number / 10, **same, **moved)
    return made


def test_motion_is_compared_within_each_face():
    watch = ClipWatch(KnowingDetector(), (), None, ())
    swing = 10 * np.sin(np.arange(30))
    # Two people who look elsewhere on the whole: that is no motion.
    watch.tracks = [track(swing, 0.5 * swing + 40), track(swing + 30, 0.5 * swing - 40), track(swing[:5], swing[:5])]
    found = {metric.name: metric for metric in clip_metrics(watch, {"yaw": "test", "mouth": "test"})}
    assert found[names.correlation_of("yaw")].value == pytest.approx(1)
    assert found[names.slope_of("yaw")].value == pytest.approx(0.5)
    assert found[names.correlation_of("yaw")].n == 60
    assert "hardly moves" in found[names.correlation_of("mouth")].reason
    assert "nothing reads it" in found[names.slope_of("smile")].reason
    assert found[names.FLICKER].value == pytest.approx(2)
    assert found[names.UNCOVERED].value == pytest.approx(3 / 65)


def test_masks_tell_what_was_left_where_pixels_cannot():
    watch = ClipWatch(KnowingDetector(), (), lambda image, face: dict.fromkeys(MOTIONS, 0.0), ())
    (frame,), covered = frames_of(1, 1), np.ones((112, 112), bool)
    for number, mask in enumerate((covered, covered & (np.arange(112) > 45))):
        watch(number / 10, frame, replaced([frame], 2)[0], mask)
    assert [one.rows["uncovered"].tolist() for one in watch.tracks] == [[0, 1]]
    assert watch.tracks[0].rows["exposed"].tolist() == [0, 0]


def test_identities_are_summed_up_and_say_what_all_pairs_say():
    vectors = np.random.default_rng(0).normal(size=(2, 9, 16))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    identity = Identity()
    near = [identity.add((vectors[0, n], vectors[1, n]), True, n > 0) for n in range(9)]
    assert np.isnan(near[0]).all()
    assert near[4][1] == pytest.approx(float(vectors[1, 3] @ vectors[1, 4]))
    pairs = vectors @ vectors.transpose(0, 2, 1)
    off = ~np.eye(9, dtype=bool)
    assert identity.spread == pytest.approx([1 - pairs[side][off].mean() for side in (0, 1)])


def test_a_cut_ends_a_track_and_neighbours_do_not_take_each_others():
    shots = [thumbnail(np.full((72, 128, 3), level, np.uint8)) for level in (90, 95, 150)]
    assert not is_cut(*shots[:2])
    assert is_cut(*shots[1:])
    left, right = (Face(BOX + shift, LANDMARKS + shift, 1.0) for shift in (0, 60))
    known = [EvalTrack(n, face, 5, 0.5, 0.0) for n, face in enumerate((left, right))]
    assert link(known, [right, left, Face(BOX + 200, LANDMARKS + 200, 1.0)]) == [known[1], known[0], None]


def test_what_is_kept_of_a_long_clip_is_little():
    strip = Strip()
    for number in range(1000):
        strip.add(number / 10, np.zeros((112, 112, 3), np.uint8), FACE, {"worst": float(number == 77)})
    pictures = strip.pictures()
    assert len(pictures) <= EVENLY + 2
    assert [picture.time_s for picture in pictures if picture.reason] == [7.7, 99.9]
    assert len(thinned(np.arange(100_000.0))) == 600
