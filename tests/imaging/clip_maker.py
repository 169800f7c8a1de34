"""Makes small clips with everything in them that a clip of a phone, a camera or the web may have."""

from fractions import Fraction

import numpy as np

TURN_90 = (0, 65536, 0, -65536, 0, 0, 64 << 16, 0, 1 << 30)
MIRROR = (-65536, 0, 0, 0, 65536, 0, 96 << 16, 0, 1 << 30)
SECRET = "48.8583+2.2945"


def make_clip(
    path,
    codec="ffv1",
    pix_fmt="yuv420p",
    size=(96, 64),
    count=12,
    pts=None,
    time_base=Fraction(1, 1000),
    rate=25,
    matrix=None,
    colour=None,
    aspect=None,
    sound=None,
    options=None,
    b_frames=None,
    extras=False,
    container_options=None,
):
    """A moving pattern of blocks. `colour`: range, primaries, transfer, matrix; `extras`: what must not survive."""
    import av

    blocks = np.random.default_rng(0).integers(0, 255, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=np.uint8)
    pattern = blocks.repeat(4, 0).repeat(4, 1)[: size[1], : size[0]]
    pts = pts or [round(i / rate / time_base) for i in range(count)]
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = *size, pix_fmt
        stream.time_base = context.time_base = time_base
        if colour:
            context.color_range, context.color_primaries, context.color_trc, context.colorspace = colour
        if aspect:
            context.sample_aspect_ratio = aspect
        if b_frames is not None:
            context.max_b_frames = b_frames
        if matrix:
            stream.set_display_matrix(matrix)
        audio = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        second = add_extras(container, stream, size) if extras else None
        for number, stamp in enumerate(pts):
            picture = av.VideoFrame.from_ndarray(np.roll(pattern, 3 * number, 1), "rgb24").reformat(format=pix_fmt)
            picture.pts, picture.time_base = stamp, time_base
            if colour:
                picture.color_range, picture.color_primaries, picture.color_trc, picture.colorspace = colour
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if second:
            container.mux(second.encode(av.VideoFrame(*size, "yuv420p")) + second.encode(None))
        if audio:
            add_sound(container, audio, float(pts[-1] * time_base))
    return path


def add_extras(container, stream, size):
    container.metadata.update(title=SECRET, comment=SECRET, location=SECRET)
    stream.metadata.update(title=SECRET, handler_name=SECRET)
    name = {"id": 1, "start": 0, "end": 400, "time_base": Fraction(1, 1000), "metadata": {"title": SECRET}}
    container.set_chapters([name])
    second = container.add_stream("libx264", rate=25)
    second.width, second.height, second.pix_fmt = *size, "yuv420p"
    return second


def add_sound(container, audio, seconds):
    import av

    layout = audio.codec_context.format.name
    length = audio.codec_context.frame_size or 960
    for start in range(0, int(seconds * 48000), length):
        wave = 9000 * np.sin(np.arange(start, start + length) / 20)[None]
        samples = wave.astype(np.int16) if layout.startswith("s16") else (wave / 32768).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format=layout, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))
