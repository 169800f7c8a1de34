"""Opens an encoder of the clip's own family for an output file, with the clip's size, times and colour."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ..messages import brief, brief_error, brief_path
from .clip_info import ClipError, ClipInfo, load_av

# FFmpeg's decoder to the encoder of the same family. Others have to be chosen by hand.
ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "libvpx-vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "libdav1d": "libsvtav1",
    "prores": "prores_ks",
    **{
        n: n
        for n in "mpeg4 mpeg2video mpeg1video mjpeg ffv1 rawvideo huffyuv ffvhuff utvideo png qtrle magicyuv".split()
    },
}
_PRORES_PROFILES = {"Proxy": 0, "LT": 1, "Standard": 2, "HQ": 3, "4444": 4, "XQ": 5}
# These want frames evenly spaced, in a time base of few ticks a second.
COUNTING = {"mpeg4", "mpeg2video", "mpeg1video"}
# Containers that write a display rotation.
_TURNING = {"mp4", "mov", "matroska", "webm", "ipod"}


@dataclass(frozen=True)
class Coding:
    """What is chosen about the encoding.

    Attributes:
        codec: FFmpeg's name of an encoder, or None for the clip's own family.
        crf: quality as x264 counts it, 0 (lossless) to 51; other encoders' own scales are set to match roughly.
        preset: of x264 and x265.
        threads: of the encoder; 0 lets it choose.
    """

    codec: str | None = None
    crf: int = 18
    preset: str = "veryfast"
    threads: int = 0

    def encoder(self, info: ClipInfo) -> str:
        """FFmpeg's name of the encoder.

        Raises:
            ClipError: there is none, or none of that name.
        """
        av = load_av()
        name = self.codec or ENCODERS.get(info.codec) or ""
        if not 0 <= self.crf <= 51:
            raise ClipError(f"wanted a crf from 0 (lossless) to 51, got {brief(self.crf)}")
        try:
            av.codec.Codec(name, "w")
        except (av.codec.codec.UnknownCodecError, ValueError):
            raise ClipError(
                f"{brief_path(info.path)}: wanted an encoder, got none of the name {brief(name or info.codec)}; "
                "choose one with --codec (libx264, libx265, libvpx-vp9, libsvtav1, ffv1 ...)"
            ) from None
        return name

    def options(self, name: str, info: ClipInfo) -> dict[str, str]:
        """What the encoder is told.

        Args:
            name: FFmpeg's name of the encoder, as from `encoder`.
            info: of the source.

        Returns:
            FFmpeg's names of options -> values; empty for encoders that are left as they are.
        """
        crf = str(self.crf)
        if name in ("libx264", "libx264rgb"):
            # Captions and unregistered data of the source would be passed through.
            return {"crf": crf, "preset": self.preset, "a53cc": "0", "udu_sei": "0"}
        if name == "libx265":
            return {"crf": crf, "preset": self.preset, "x265-params": "log-level=error", "a53cc": "0", "udu_sei": "0"}
        if name in ("libvpx", "libvpx-vp9", "libsvtav1"):
            wide = str(round(self.crf * 63 / 51))
            if name == "libsvtav1":
                return {"crf": wide, "preset": "9"}
            rate = "0" if name == "libvpx-vp9" else "100M"
            return {"crf": wide, "b": rate, "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        if name in ("mpeg4", "mpeg2video", "mpeg1video", "mjpeg"):
            return {"flags": "+qscale", "global_quality": str(118 * max(2, round((self.crf - 12) / 3)))}
        if name == "prores_ks":
            return {"profile": str(_PRORES_PROFILES.get(info.profile or "", 3))}
        return {"level": "3", "slicecrc": "1"} if name == "ffv1" else {}


def muxer(path: Any) -> str:
    """FFmpeg's name of the format that a file's ending stands for.

    Raises:
        ClipError: none that holds video.
    """
    formats = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
    formats |= {".ts": "mpegts", ".mts": "mpegts", ".m2ts": "mpegts", ".nut": "nut"}
    if path.suffix.lower() not in formats:
        raise ClipError(
            f"{brief_path(path)}: wanted a name that ends in {', '.join(formats)}, got {brief(path.suffix)}"
        )
    return formats[path.suffix.lower()]


def new_encoder(info: ClipInfo, coding: Coding, kind: str) -> Any:
    """An `av` codec context like that of `open_output`, without a container: one for each segment.

    Args:
        info: of the source.
        coding: how to encode.
        kind: `muxer`'s name of the format that the packets will be put into.
    """
    av, name = load_av(), coding.encoder(info)
    context = av.CodecContext.create(name, "w")
    if av.ContainerFormat(kind, "w").flags & av.format.Flags.global_header.value:
        context.flags |= av.codec.context.Flags.global_header.value
    context.options = coding.options(name, info)
    _shape(context, info, coding, kind)
    return context


def open_output(path: Any, kind: str, info: ClipInfo, coding: Coding, audio: list[Any]) -> tuple[Any, Any, list[Any]]:
    """A file open for writing, its header written: container, video stream (encoder open), audio streams.

    Args:
        path: the file.
        kind: `muxer`'s name of the format.
        info: of the source.
        coding: how to encode.
        audio: the source's audio streams that are to be copied.

    Raises:
        ClipError: the encoder or the container does not take such a clip.
    """
    av, name = load_av(), coding.encoder(info)
    os.environ.setdefault("SVT_LOG", "1")  # or the AV1 encoder greets on stderr for each segment
    if info.matrix is not None and kind not in _TURNING:
        raise ClipError(
            f"{brief_path(info.path)}: wanted a container that holds a rotation, got {kind}; write .mp4 or .mkv"
        )
    if kind == "avi" and info.variable_rate and info.container != "avi":
        raise ClipError(f"{brief_path(info.path)}: wanted a container of variable rate, got avi; write .mp4 or .mkv")
    options = {"movflags": "+faststart"} if kind in ("mp4", "mov") else {}
    if kind in ("mp4", "mov"):
        # The second one counts where tracks begin; at its 1,000 a second, sound moves by up to a millisecond.
        options |= dict.fromkeys(("video_track_timescale", "movie_timescale"), str(info.time_base.denominator))
    container = av.open(str(path), "w", format=kind, container_options=options)
    try:
        container.flags |= av.container.Flags.bitexact.value
        stream = container.add_stream(name, rate=info.rate, options=coding.options(name, info))
        _shape(stream.codec_context, info, coding, kind)
        stream.time_base = 1 / info.rate if kind == "avi" else info.time_base  # AVI counts frames
        if info.matrix is not None:
            stream.set_display_matrix(info.matrix)
        copies = [container.add_stream_from_template(source) for source in audio]
        for copy in copies:
            copy.metadata.clear()
        container.start_encoding()
    except (av.FFmpegError, ValueError, OverflowError) as error:
        container.close()
        raise refusal(info, coding, kind, audio, error) from None
    return container, stream, copies


def refusal(info: ClipInfo, coding: Coding, kind: str, audio: list[Any], got: Exception | str) -> ClipError:
    """The error of a clip that an encoder or container does not take.

    Args:
        info: of the source.
        coding: how it was to be encoded.
        kind: `muxer`'s name of the format.
        audio: the source's audio streams that were to be copied.
        got: what came instead, an exception of PyAV or words.
    """
    what = brief_error(getattr(got, "strerror", None) or got)
    sounds = ", ".join(dict.fromkeys(source.codec_context.name for source in audio)) or "no audio"
    return ClipError(
        f"{brief_path(info.path)}: wanted to write {coding.encoder(info)} {info.pix_fmt} {info.width} x {info.height} "
        f"and {sounds} as {kind}, got {what}; choose another --codec or ending, or --audio drop"
    )


def _shape(context: Any, info: ClipInfo, coding: Coding, kind: str) -> None:
    """Gives the encoder the clip's size, times and colour."""
    context.width, context.height, context.pix_fmt = info.width, info.height, info.pix_fmt
    context.time_base = 1 / info.rate if context.name in COUNTING else info.time_base
    context.framerate = info.rate
    context.thread_count = coding.threads
    context.color_range, context.colorspace = info.color_range, info.color_matrix
    context.color_primaries, context.color_trc = info.color_primaries, info.color_trc
    if info.sample_aspect:
        context.sample_aspect_ratio = info.sample_aspect
    if kind == "avi":
        context.max_b_frames = 0  # nor can it say in which other order to show them
    if context.name == "libx265" and kind in ("mp4", "mov"):
        context.codec_tag = "hvc1"  # players of Apple take no other
