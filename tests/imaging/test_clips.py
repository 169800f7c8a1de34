"""Clips keep their frames, times, colour, turn and sound, every sample off the mask, and nothing else."""

import hashlib
import itertools
import os
import re
import signal
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.imaging import clips
from deid_diffusion.imaging.clips import BrokenClipError, ClipError, ClipReader, ClipWriter, Coding, probe
from tests.imaging.clip_maker import MIRROR, SECRET, TURN_90, make_clip

av = pytest.importorskip(
    "av", "18", reason="needs PyAV; pip install 'deid-diffusion[video]' with Python 3.11 or later"
)

FINE = Fraction(1, 12800)
QUIET = {"x265-params": "log-level=none"}


def box(frame):
    """An image with a rectangle painted, its corners at odd places, and the mask of it."""
    image, changed = frame.image.copy(), np.zeros(frame.image.shape[:2], bool)
    changed[11:28, 21:40] = True
    image[changed] = (210, 120, 80)
    return image, changed


def rewrite(source, target, paint=box, **options):
    """All frames through reader and writer; both, for their notices."""
    span = {key: options[key] for key in ("start_s", "stop_s") if key in options}
    with ClipReader(source, **span) as reader, ClipWriter(target, reader.info, segment_s=0.2, **options) as writer:
        for frame in reader:
            writer.write(frame, *(paint(frame) if paint else ()))
    return reader, writer


def decode(path):
    with av.open(str(path)) as container:
        return list(container.decode(container.streams.video[0]))


def planes(frame):
    """Each plane's samples without padding, (rows, samples)."""
    depth = 2 if frame.format.components[0].bits > 8 else 1
    packed = 4 if frame.format.name in ("bgr0", "bgra") else 1
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
        yield rows[:, : plane.width * depth * packed].view("<u2" if depth == 2 else "u1")


def sounds(path):
    """Number and md5 of the packets of each audio stream."""
    with av.open(str(path)) as container:
        packets = {stream.index: [] for stream in container.streams.audio}
        for packet in container.demux(container.streams.audio) if packets else ():
            if packet.size:
                packets[packet.stream.index].append(bytes(packet))
    return [(len(data), hashlib.md5(b"".join(data)).hexdigest()) for data in packets.values()]


def lags(path):
    """Seconds from the first frame to the first sound, of each audio stream."""
    with av.open(str(path)) as container:
        starts = [float(stream.start_time * stream.time_base) for stream in container.streams.audio]
        picture = container.streams.video[0]
        first = float((picture.start_time or 0) * picture.time_base)
    return [start - first for start in starts]


def left_over(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".deid-")]


LOSSLESS = [
    ("ffv1", "yuv420p", (96, 64)),
    ("ffv1", "yuv420p", (97, 63)),
    ("ffv1", "yuv422p", (96, 64)),
    ("ffv1", "yuv444p", (96, 64)),
    ("ffv1", "yuv411p", (97, 64)),
    ("ffv1", "yuv420p10le", (97, 63)),
    ("ffv1", "yuv444p16le", (96, 64)),
    ("ffv1", "gray", (97, 63)),
    ("ffv1", "gray10le", (96, 64)),
    ("ffv1", "yuva420p", (96, 64)),
    ("ffv1", "bgr0", (97, 63)),
    ("ffv1", "bgra", (96, 64)),
]


@pytest.mark.parametrize(("codec", "pix_fmt", "size"), LOSSLESS)
@pytest.mark.parametrize("matrix", [None, TURN_90, MIRROR], ids=["upright", "turned", "mirrored"])
def test_samples_off_the_mask_keep_their_bits(tmp_path, codec, pix_fmt, size, matrix):
    source = make_clip(tmp_path / "in.mkv", codec, pix_fmt, size, count=6, matrix=matrix)
    rewrite(source, tmp_path / "out.mkv")
    with ClipReader(source) as reader:
        first = next(iter(reader))
    _, changed = box(first)
    # Back in the coded orientation, by hand.
    changed = {None: changed, TURN_90: changed.T[::-1], MIRROR: changed[:, ::-1]}[matrix]
    assert changed.shape == size[::-1]
    for before, after in zip(decode(source), decode(tmp_path / "out.mkv"), strict=True):
        for old, new in zip(planes(before), planes(after), strict=True):
            # A chroma sample may change when any pixel that shares it has changed.
            rows, columns = -(-size[1] // old.shape[0]), size[0] / old.shape[1]
            step = max(1, round(columns)) if columns >= 1 else 1
            grown = np.pad(changed, ((0, -size[1] % rows), (0, -size[0] % step)))
            blocks = grown.reshape(grown.shape[0] // rows, rows, grown.shape[1] // step, step).any((1, 3))
            mask = blocks if columns >= 1 else blocks.repeat(old.shape[1] // size[0], 1)
            assert np.array_equal(old[~mask], new[~mask])
        if pix_fmt != "yuva420p":
            assert not np.array_equal(next(planes(before)), next(planes(after)))


@pytest.mark.parametrize(
    ("pix_fmt", "colour"),
    [
        *itertools.product(
            ["yuv420p", "yuv444p", "yuv420p10le", "gray"], [(1, 1, 1, 1), (2, 1, 1, 1), (1, 5, 6, 5), (2, 9, 1, 9)]
        ),
        ("yuv420p10le", (1, 9, 16, 9)),
        ("yuv444p10le", (1, 9, 18, 9)),
    ],
)
def test_what_is_pasted_reads_back_as_it_was_painted(tmp_path, pix_fmt, colour):
    source = make_clip(tmp_path / "in.mkv", pix_fmt=pix_fmt, count=2, colour=colour)

    def paint(frame):
        image, changed = np.full_like(frame.image, 128), np.zeros(frame.image.shape[:2], bool)
        changed[8:40, 8:40] = True
        image[:] = (200, 200, 200) if pix_fmt == "gray" else (210, 120, 80)
        return image, changed

    rewrite(source, tmp_path / "out.mkv", paint)
    with ClipReader(tmp_path / "out.mkv") as reader:
        image = next(iter(reader)).image[8:40, 8:40].astype(int)
    assert np.abs(image - ((200, 200, 200) if pix_fmt == "gray" else (210, 120, 80))).max() <= 2


def test_pasting_a_frame_into_itself_makes_it_neither_darker_nor_redder(tmp_path):
    smooth = make_clip(tmp_path / "in.mkv", count=2, colour=(1, 1, 1, 1))
    rewrite(smooth, tmp_path / "out.mkv", lambda frame: (frame.image, np.ones(frame.image.shape[:2], bool)))
    with ClipReader(smooth) as one, ClipReader(tmp_path / "out.mkv") as other:
        before, after = next(iter(one)).image, next(iter(other)).image
    # swscale's fast conversion, there and back, takes a whole level.
    assert np.abs((after.astype(float) - before).mean((0, 1))).max() < 0.1


KEPT = {
    "phone.mp4": dict(codec="libx264", time_base=FINE, matrix=TURN_90, sound="aac", aspect=Fraction(4, 3)),
    "mirror.mov": dict(codec="libx264", time_base=FINE, matrix=MIRROR, sound="aac"),
    "ten.mp4": dict(codec="libx265", pix_fmt="yuv420p10le", colour=(1, 9, 1, 9), options=QUIET, time_base=FINE),
    "hlg.mp4": dict(codec="libx265", pix_fmt="yuv420p10le", colour=(1, 9, 18, 9), options=QUIET, time_base=FINE),
    "pq.mp4": dict(codec="libx265", pix_fmt="yuv420p10le", colour=(1, 9, 16, 9), options=QUIET, time_base=FINE),
    # The last segment has one frame.
    "one.mp4": dict(codec="libx265", count=11, options=QUIET, time_base=FINE),
    "full.mp4": dict(codec="libx264", colour=(2, 1, 13, 1), time_base=FINE),
    "web.webm": dict(codec="libvpx-vp9", size=(97, 63), sound="libopus"),
    "turned.mkv": dict(codec="libx264", matrix=TURN_90, sound="libopus"),
    "av1.mp4": dict(codec="libsvtav1", pix_fmt="yuv420p10le", time_base=FINE, options={"preset": "12"}),
    "old.avi": dict(codec="mpeg4", time_base=Fraction(1, 25), sound="pcm_s16le"),
    "camera.avi": dict(codec="mjpeg", pix_fmt="yuvj420p", time_base=Fraction(1, 25)),
    "edit.mov": dict(codec="prores_ks", pix_fmt="yuv422p10le", time_base=FINE, sound="pcm_s16le"),
    "tv.ts": dict(codec="mpeg2video", time_base=Fraction(1, 25), sound="mp2"),
    "late.mp4": dict(
        codec="libx264",
        pts=[5003 + 512 * i for i in range(12)],
        time_base=FINE,
        sound="aac",
        container_options={"movie_timescale": "12800"},
    ),
    "uneven.mp4": dict(codec="libx264", pts=[0, 7, 500, 1100, 1101, 3000, 3001, 9000, 9500, 13777], time_base=FINE),
    "shuffled.mp4": dict(codec="libx264", count=40, time_base=FINE, b_frames=4, options={"preset": "slow"}),
}


@pytest.mark.parametrize("name", KEPT)
def test_times_tags_turn_and_sound_are_kept(tmp_path, name):
    (tmp_path / "in").mkdir()
    source, target = make_clip(tmp_path / "in" / name, **KEPT[name]), tmp_path / name
    rewrite(source, target)
    before, after = probe(source), probe(target)
    kept = "width height matrix time_base codec pix_fmt bit_depth color_range color_primaries color_trc color_matrix "
    for field in (kept + "sample_aspect audio_streams").split():
        assert getattr(before, field) == getattr(after, field), field
    assert [frame.pts for frame in decode(source)] == [frame.pts for frame in decode(target)]
    assert sounds(source) == sounds(target)
    assert lags(source) == pytest.approx(lags(target), abs=1e-6)
    assert bool(sounds(target)) == bool(KEPT[name].get("sound"))
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(("name", "codec"), [("in.avi", "mpeg4"), ("in.mkv", "libx264"), ("in.ts", "libx264")])
def test_another_container_keeps_the_times_too(tmp_path, name, codec):
    tick = Fraction(1001, 30000) if name == "in.avi" else Fraction(1, 1000)
    source = make_clip(tmp_path / name, codec, time_base=tick, rate=Fraction(30000, 1001), sound="mp2")
    with ClipReader(source) as reader:
        times = [float(frame.pts * reader.info.time_base) for frame in reader]
    rewrite(source, tmp_path / "out.mp4")
    got = [float(frame.pts * frame.time_base) for frame in decode(tmp_path / "out.mp4")]
    assert got == pytest.approx(times, abs=1e-6)
    assert sounds(source) == sounds(tmp_path / "out.mp4")


def test_a_frame_is_shown_upright(tmp_path):
    with ClipReader(make_clip(tmp_path / "flat.mkv", count=2)) as reader:
        flat = next(iter(reader)).image
    with ClipReader(make_clip(tmp_path / "turned.mkv", count=2, matrix=TURN_90)) as reader:
        assert reader.info.rotation_deg == 90
        assert np.array_equal(next(iter(reader)).image, np.rot90(flat, -1))
    with ClipReader(make_clip(tmp_path / "mirrored.mkv", count=2, matrix=MIRROR)) as reader:
        assert np.array_equal(next(iter(reader)).image, flat[:, ::-1])


@pytest.mark.parametrize("name", ["in.mp4", "in.mkv"])
def test_nothing_else_of_the_source_is_in_the_output(tmp_path, name):
    codec = {"in.mp4": "libx264", "in.mkv": "ffv1"}[name]
    source = make_clip(tmp_path / name, codec, sound="aac", time_base=Fraction(1, 1000), extras=True)
    assert SECRET.encode() in source.read_bytes()
    reader, _ = rewrite(source, tmp_path / f"out{source.suffix}")
    data = (tmp_path / f"out{source.suffix}").read_bytes()
    assert SECRET.encode() not in data
    with av.open(str(tmp_path / f"out{source.suffix}")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert container.chapters() == []
    assert "video stream" in reader.notices[0]
    assert "chapters" in reader.notices[0]


def test_audio_can_be_dropped(tmp_path):
    source = make_clip(tmp_path / "in.mp4", "libx264", sound="aac", time_base=FINE)
    rewrite(source, tmp_path / "out.mp4", audio="drop")
    assert sounds(source)
    assert sounds(tmp_path / "out.mp4") == []


def test_a_reader_is_read_twice_at_once_and_not_after_its_end(tmp_path):
    with ClipReader(make_clip(tmp_path / "in.mkv", count=6)) as reader:
        ahead, behind = iter(reader), iter(reader)
        assert [next(ahead).index for _ in range(3)] == [0, 1, 2]
        assert [frame.index for frame in behind] == list(range(6))
        held = next(ahead)
    with pytest.raises(ClipError, match="closed"):
        next(ahead)
    with pytest.raises(ClipError, match="closed"):
        next(iter(reader))
    assert next(planes(held.source)).shape == (64, 96)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_seen_as_standard_and_stays_as_it_is_off_the_mask(tmp_path, transfer, name):
    source = make_clip(tmp_path / "in.mkv", pix_fmt="yuv420p10le", count=2, colour=(1, 9, transfer, 9))
    reader, _ = rewrite(source, tmp_path / "out.mkv")
    assert f"HDR ({name})" in reader.notices[0]
    with ClipReader(source) as reader:
        changed = box(next(iter(reader)))[1]
    before, after = (next(planes(decode(path)[0])) for path in (source, tmp_path / "out.mkv"))
    assert np.array_equal(before[~changed], after[~changed])
    assert probe(tmp_path / "out.mkv").hdr == name


def test_paper_white_of_pq_is_no_grey_and_its_highlights_are_no_white():
    from deid_diffusion.imaging.tone import standard_from_pq

    def level(nits):  # SMPTE ST 2084, eq. 5.2
        power = (nits / 10_000) ** 0.1593017578125
        return round(1023 * ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)

    curve = standard_from_pq().astype(int)
    assert (np.diff(curve) >= 0).all()
    assert curve[0] == 0
    assert 95 <= curve[level(40)] <= 130  # dark skin or a grey card
    assert 170 <= curve[level(203)] <= 200
    assert curve[level(203)] + 30 < curve[level(800)] < 255
    assert curve[level(1000)] == 255


def test_interlaced_clips_say_so(tmp_path):
    fields = {"flags": "+ilme+ildct", "top": "1"}
    source = make_clip(tmp_path / "in.ts", "mpeg2video", time_base=Fraction(1, 25), options=fields)
    reader, _ = rewrite(source, tmp_path / "out.ts")
    assert "fields" in reader.notices[0]


def test_avi_shows_reordered_frames_in_order(tmp_path):
    source = make_clip(tmp_path / "in.avi", "libx264", time_base=Fraction(1, 25), b_frames=2, count=20)
    with ClipReader(source) as reader:
        pts = [frame.pts for frame in reader]
    assert [frame.pts for frame in decode(source)] != sorted(frame.pts for frame in decode(source))
    assert np.diff(pts).tolist() == [1] * 19
    assert not reader.notices


def test_a_repeated_frame_says_so_and_shares_its_image(tmp_path):
    source = make_clip(tmp_path / "in.mkv", count=4)
    with ClipReader(source) as reader, ClipWriter(tmp_path / "still.mkv", reader.info) as writer:
        still = list(reader)[1]
        for index, repeat in enumerate((0, 1, 0)):
            image = still.image.copy()
            image[0, 0] ^= 255 * (1 - repeat) * index // 2
            writer.write(clips.Frame(index, 40 * index, 0.04 * index, still.image, False, still.source), image)
        writer.write(clips.Frame(3, 120, 0.12, still.image, False, still.source))
    with ClipReader(tmp_path / "still.mkv") as reader:
        frames = list(reader)
    assert [frame.repeated for frame in frames] == [False, True, False, False]
    assert frames[1].image is frames[0].image
    with ClipReader(tmp_path / "still.mkv", wants=lambda index: index == 1) as reader:
        only = list(reader)
    assert [bool(frame.image.any()) for frame in only] == [False, True, False, False]
    assert np.array_equal(only[1].image, frames[1].image)


def test_frames_that_nobody_looks_at_are_written_without_their_picture(tmp_path):
    source = make_clip(tmp_path / "in.mkv", matrix=TURN_90, count=3)
    with ClipReader(source, wants=lambda index: False) as reader, ClipWriter(tmp_path / "out.mkv", reader.info) as out:
        for frame in reader:
            assert frame.image.shape == (96, 64, 3)
            out.write(frame, frame.image, np.zeros(frame.image.shape[:2], bool))
    for before, after in zip(decode(source), decode(tmp_path / "out.mkv"), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(planes(before), planes(after), strict=True))


def test_a_frame_at_the_very_start_of_a_span_is_in_it_and_one_at_its_stop_is_not(tmp_path):
    # Of floats, 4 / (1 / 15360) is a tick more than it is.
    source = make_clip(tmp_path / "in.mkv", count=60, rate=10, time_base=Fraction(1, 1000))
    phone = make_clip(tmp_path / "in.mp4", "libx264", count=60, rate=10, time_base=Fraction(1, 15360))
    for path in (source, phone):
        for start_s, stop_s in ((4.0, 5.0), (0.1, 0.7)):
            with ClipReader(path, start_s, stop_s) as reader:
                times = [round(frame.time_s, 3) for frame in reader]
            assert times == [round(start_s + n / 10, 3) for n in range(round(10 * (stop_s - start_s)))]


@pytest.mark.parametrize(("start_s", "stop_s", "count"), [(1.0, 2.0, 25), (None, 1.0, 25), (3.5, None, 12)])
def test_a_span_of_time_begins_at_zero_and_takes_its_sound_along(tmp_path, start_s, stop_s, count):
    source = make_clip(tmp_path / "in.mp4", "libx264", count=100, time_base=FINE, sound="aac")
    rewrite(source, tmp_path / "out.mp4", None, start_s=start_s, stop_s=stop_s)
    pts = [frame.pts for frame in decode(tmp_path / "out.mp4")]
    assert pts == [512 * i for i in range(count)]
    with av.open(str(tmp_path / "out.mp4")) as container:
        times = [float(packet.pts * packet.time_base) for packet in container.demux(audio=0) if packet.size]
    packet_s = 1024 / 48000
    assert -packet_s <= times[0] <= packet_s
    end = min(count / 25, 99 / 25 - (start_s or 0))  # the sound is as long as 99 frames
    assert end - 3 * packet_s <= times[-1] <= end


def test_a_span_after_the_last_sound_is_written_without_any(tmp_path):
    source = make_clip(tmp_path / "in.mov", "libx264", count=20, time_base=FINE, sound="aac")
    rewrite(source, tmp_path / "out.mov", None, start_s=0.75)
    assert len(decode(tmp_path / "out.mov")) == 1
    assert sum(len(packets) for packets in sounds(tmp_path / "out.mov")) == 0


CHILD = """
    import sys, time
    from deid_diffusion.imaging.clips import ClipReader, ClipWriter
    with ClipReader(sys.argv[1]) as reader, ClipWriter(sys.argv[2], reader.info, segment_s=0.4) as writer:
        for frame in reader:
            image = 255 - frame.image
            writer.write(frame, image)
            if frame.index == int(sys.argv[3]):
                print("there", flush=True)
                time.sleep(60)
"""


@pytest.mark.parametrize(("name", "codec"), [("in.mp4", "libx264"), ("in.webm", "libvpx-vp9")])
@pytest.mark.parametrize("killed_at", [5, 27, 39])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(tmp_path, name, codec, killed_at):
    source = make_clip(tmp_path / name, codec, count=40, time_base=Fraction(1, 1000), sound="libopus")
    whole, broken = tmp_path / f"whole{source.suffix}", tmp_path / f"broken{source.suffix}"
    with ClipReader(source) as reader, ClipWriter(whole, reader.info, segment_s=0.4) as writer:
        for frame in reader:
            writer.write(frame, 255 - frame.image)
    arguments = [sys.executable, "-c", textwrap.dedent(CHILD), source, broken, str(killed_at)]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert child.stdout.readline() == b"there\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not broken.exists()
    with ClipWriter(broken, probe(source), segment_s=0.4) as writer:
        done = (killed_at + 1) // 10 * 10
        assert writer.frames_done == done
        assert writer.resume_at() == ((done - 1) / 25 / writer.info.time_base if done else None)
        with ClipReader(source, after_pts=writer.resume_at(), first_index=writer.frames_done) as reader:
            for frame in reader:
                assert frame.index >= done
                writer.write(frame, 255 - frame.image)
    assert broken.read_bytes() == whole.read_bytes()
    assert left_over(tmp_path) == []


def write_until(source, target, last, key):
    """Stops as Ctrl-C does, and says how many frames were there at the start."""
    with ClipReader(source) as reader, ClipWriter(target, reader.info, segment_s=0.2, key=key) as writer:
        done = writer.frames_done
        try:
            for frame in reader:
                writer.write(frame)
                if frame.index == last:
                    raise KeyboardInterrupt
        finally:
            print(done)


def test_segments_of_other_settings_are_not_used(tmp_path, capsys):
    source = make_clip(tmp_path / "in.mkv", count=20)
    for key in ("a", "a", "b"):
        with pytest.raises(KeyboardInterrupt):
            write_until(source, tmp_path / "out.mkv", 13, key)
    assert capsys.readouterr().out.split() == ["0", "10", "0"]
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("in.mp4", dict(codec="libx264", time_base=FINE, size=(320, 240))),
        ("in.mkv", dict(codec="libx264", size=(320, 240))),
        ("in.webm", dict(codec="libvpx-vp9", sound="libopus", size=(320, 240))),
        ("in.avi", dict(codec="mpeg4", time_base=Fraction(1, 25), size=(320, 240))),
    ],
)
@pytest.mark.parametrize("fraction", [0.4, 0.7, 0.9])
def test_a_stream_that_breaks_off_is_not_called_done(tmp_path, name, options, fraction):
    source = make_clip(tmp_path / name, count=60, **options)
    if name == "in.mp4":  # with the index in front, as the web has it: or it could not even be opened
        rewrite(source, source := tmp_path / "front.mp4", None)
    source.write_bytes(source.read_bytes()[: int(source.stat().st_size * fraction)])
    with pytest.raises(BrokenClipError, match=r"after \d+\.\d\d s"):
        rewrite(source, tmp_path / f"out{source.suffix}")
    assert not (tmp_path / f"out{source.suffix}").exists()
    assert left_over(tmp_path) == []


def test_a_clip_that_breaks_off_is_found_after_a_resume_too(tmp_path):
    source = make_clip(tmp_path / "in.mp4", "libx264", count=60, time_base=FINE)
    rewrite(source, front := tmp_path / "front.mp4", None)
    front.write_bytes(front.read_bytes()[: int(front.stat().st_size * 0.98)])
    with pytest.raises(BrokenClipError), ClipReader(front, after_pts=512 * 30, first_index=31) as reader:
        list(reader)


def refuse(match, **made):
    def run(tmp_path, target="out.mp4", **options):
        suffix = made.pop("suffix", ".mp4")
        source = make_clip(tmp_path / f"in{suffix}", **({"codec": "libx264", "time_base": FINE} | made))
        with pytest.raises(ClipError, match=match):
            rewrite(source, tmp_path / target, **options)
        assert not (tmp_path / target).exists()
        assert left_over(tmp_path) == []

    return run


@pytest.mark.parametrize(
    ("check", "options"),
    [
        (refuse("--codec", suffix=".flv", codec="flv", time_base=Fraction(1, 25)), {}),
        (refuse("--codec"), dict(coding=Coding(codec="no_such"))),
        (refuse("--codec"), dict(target="out.webm")),
        (refuse("--audio drop", suffix=".mkv", codec="libx264", sound="pcm_s16le"), dict(target="out.ts")),
        (refuse("ends in .mp4"), dict(target="out.gif")),
        (refuse("rotation", matrix=TURN_90), dict(target="out.avi")),
        (refuse("variable", pts=[0, 7, 500, 5000, 6000, 13777]), dict(target="out.avi")),
        (refuse("gbrp16", suffix=".mkv", codec="ffv1", pix_fmt="rgb48le", time_base=Fraction(1, 1000)), {}),
        (refuse("beside it"), dict(target="nowhere/out.mp4")),
        (refuse("keep"), dict(audio="louder")),
        (refuse("crf"), dict(coding=Coding(crf=90))),
        (refuse("none", count=5), dict(start_s=50.0)),
        (refuse("start before", count=5), dict(start_s=2.0, stop_s=1.0)),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, check, options):
    check(tmp_path, **options)


@pytest.mark.parametrize(
    ("content", "match"),
    [(None, "nothing there"), (b"", "does not open"), (b"no video at all" * 99, "does not open")],
)
def test_what_is_no_clip_is_refused(tmp_path, content, match):
    if content is not None:
        (tmp_path / "in.mp4").write_bytes(content)
    with pytest.raises(ClipError, match=match):
        ClipReader(tmp_path / "in.mp4")


def song(path, with_cover):
    with av.open(str(path), "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=48000, layout="mono")
        cover = container.add_stream("png", rate=25) if with_cover else None
        if cover:
            cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
            cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(audio.encode(frame) + audio.encode(None))
        if cover:
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            container.mux(cover.encode(picture) + cover.encode(None))
    return path


@pytest.mark.parametrize("with_cover", [False, True])
def test_sound_is_no_clip_even_with_a_cover_picture(tmp_path, with_cover):
    path = song(tmp_path / "in.m4a", with_cover)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == with_cover
    with pytest.raises(ClipError, match="wanted a video stream, got"):
        probe(path)


def test_a_clip_without_a_frame_is_refused(tmp_path):
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    with pytest.raises(ClipError, match="wanted"):
        ClipReader(tmp_path / "in.mkv")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_named_like_a_clip_is_refused(tmp_path, kind):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "in.mp4", format=kind)
    with pytest.raises(ClipError, match=r"wanted a clip, got a picture \((png|jpeg)\)"):
        ClipReader(tmp_path / "in.mp4")


@pytest.mark.parametrize(("name", "codec", "old", "new"), [
    ("in.avi", "mpeg4", b"FMP4", b"ZZZZ"), ("in.mkv", "ffv1", b"V_FFV1", b"V_ABCD"),
])  # fmt: skip
def test_an_unknown_codec_is_refused(tmp_path, name, codec, old, new):
    path = make_clip(tmp_path / name, codec, time_base=Fraction(1, 25) if name == "in.avi" else Fraction(1, 1000))
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ClipError, match="wanted a codec that FFmpeg decodes, got an unknown one"):
        ClipReader(path)


def test_a_clip_of_one_frame_is_a_clip(tmp_path):
    source = make_clip(tmp_path / "in.mp4", "libx264", count=1, time_base=FINE)
    rewrite(source, tmp_path / "out.mp4")
    assert [frame.pts for frame in decode(tmp_path / "out.mp4")] == [0]


@pytest.mark.parametrize("seed", range(3))
def test_damaged_packets_are_an_error_or_said_and_every_frame_is_there(tmp_path, seed):
    source = make_clip(tmp_path / "in.mp4", "libx264", count=60, time_base=FINE, size=(320, 240))
    data = bytearray(source.read_bytes())
    for place in np.random.default_rng(seed).integers(len(data) // 4, len(data) // 2, 20):
        data[place] ^= 255
    source.write_bytes(bytes(data))
    broken = ""
    try:
        reader, _ = rewrite(source, tmp_path / "out.mp4")
    except BrokenClipError as error:
        broken = str(error)
    if (tmp_path / "out.mp4").exists():
        assert "frames damaged in the file, taken as decoded" in reader.notices[0]
        assert len(decode(tmp_path / "out.mp4")) == 60
    else:
        assert re.search(r"after \d+\.\d\d s", broken)
    assert left_over(tmp_path) == []


def test_times_that_go_back_are_an_error_and_those_that_jump_are_kept(tmp_path):
    parts = [make_clip(tmp_path / f"{n}.ts", "mpeg2video", time_base=Fraction(1, 25)).read_bytes() for n in "ab"]
    (tmp_path / "back.ts").write_bytes(b"".join(parts))
    with pytest.raises(BrokenClipError, match="repair it"):
        rewrite(tmp_path / "back.ts", tmp_path / "out.ts")
    assert not (tmp_path / "out.ts").exists()
    pts = [0, 40, 80, 60000, 60040]
    rewrite(make_clip(tmp_path / "jump.mkv", pts=pts), tmp_path / "out.mkv")
    assert [frame.pts for frame in decode(tmp_path / "out.mkv")] == pts


FULL = """
    import resource, signal, sys
    from deid_diffusion.imaging.clips import ClipReader, ClipWriter
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with ClipReader(sys.argv[1]) as reader:
        try:
            with ClipWriter(sys.argv[2], reader.info, segment_s=0.4) as writer:
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
                for frame in reader:
                    writer.write(frame, 255 - frame.image)
        except Exception as error:
            print(type(error).__name__, error, type(error.__cause__).__name__)
"""


@pytest.mark.parametrize(("limit", "said"), [(30_000, "wanted to write a segment"), (200_000, "wanted to")])
def test_a_disk_that_is_full_in_the_middle_leaves_whole_segments_and_no_file(tmp_path, limit, said):
    # Of segments of 130 kB the first fails; of a file of 520 kB the joining.
    source, target = make_clip(tmp_path / "in.mkv", count=40, size=(192, 128)), tmp_path / "out.mkv"
    words = [sys.executable, "-c", textwrap.dedent(FULL), source, target, str(limit)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, env=environment)
    assert done.stdout.startswith("ClipError"), done.stdout + done.stderr
    assert said in done.stdout
    assert "File too large" in done.stdout
    assert not target.exists()
    names = [path.name for path in (tmp_path / ".deid-out.mkv.segments").iterdir()]
    assert not [name for name in names if name.endswith(".part")]
    with ClipWriter(target, probe(source), segment_s=0.4) as writer:
        assert writer.frames_done == (40 if limit > 100_000 else 0)
        with ClipReader(source, after_pts=writer.resume_at(), first_index=writer.frames_done) as reader:
            for frame in reader:
                writer.write(frame, 255 - frame.image)
    assert len(decode(target)) == 40


def write_all(source, target, frames, then=lambda: None):
    with ClipWriter(target, probe(source)) as writer:
        for frame in frames:
            writer.write(frame)
        then()


@pytest.mark.parametrize("numbers", [[0, 2], [0, 0], [0, 1, 2]])
def test_a_frame_left_out_written_twice_or_missing_at_the_end_is_refused(tmp_path, numbers):
    source = make_clip(tmp_path / "in.mkv", count=12)
    frames = list(ClipReader(source))
    with pytest.raises(ClipError, match="wanted"):
        write_all(source, tmp_path / "out.mkv", [frames[number] for number in numbers])
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.parametrize(
    ("image", "changed"),
    [
        (np.zeros((64, 96), np.uint8), None),
        (np.zeros((64, 96, 3)), None),
        (0, np.zeros((96, 64), bool)),
        (0, np.ones((64, 96))),
    ],
)
def test_shapes_that_do_not_fit_are_refused(tmp_path, image, changed):
    with ClipReader(make_clip(tmp_path / "in.mkv", count=2)) as reader:
        frame = next(iter(reader))
    with pytest.raises(ClipError, match="shape"), ClipWriter(tmp_path / "out.mkv", reader.info) as writer:
        writer.write(frame, frame.image if isinstance(image, int) else image, changed)


def test_a_changed_source_is_not_joined_with_the_frames_of_the_old_one(tmp_path):
    source = make_clip(tmp_path / "in.mkv", count=12)
    frames = list(ClipReader(source))
    with pytest.raises(ClipError, match="changed"):
        write_all(source, tmp_path / "out.mkv", frames, lambda: os.utime(source, ns=(1, 1)))
    assert not (tmp_path / "out.mkv").exists()


def test_without_pyav_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ClipError, match=r"deid-diffusion\[video\]"):
        probe(Path(tmp_path))
