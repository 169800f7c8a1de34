"""Says what a clip's file kept of the original's, and what it still holds."""

from __future__ import annotations

from collections.abc import Sequence

from deid_diffusion.evaluation.clips.files import ClipFile, Sound
from deid_diffusion.evaluation.clips.results import FileCheck

TICK_MS = 1.0  # containers count time in different units


def check_files(
    before: ClipFile, after: ClipFile, times_s: tuple[Sequence[float], Sequence[float]], whole: bool
) -> tuple[FileCheck, ...]:
    """All that is to be known of two files but their pixels.

    Args:
        before, after: original and output.
        times_s: of their frames, as many of the one as of the other.
        whole: whether the output is to hold all of the original, and not a part of it.
    """
    apart = max(abs((a - times_s[0][0]) - (b - times_s[1][0])) for a, b in zip(*times_s, strict=True)) * 1e3
    # A part begins at a time of its own.
    most = max(apart, abs(times_s[0][0] - times_s[1][0]) * 1e3 if whole else 0.0)
    length = times_s[0][-1] - times_s[0][0], times_s[1][-1] - times_s[1][0]
    return (
        FileCheck("frames", str(len(times_s[0])), str(len(times_s[1])), True),
        FileCheck("from first to last frame", f"{length[0]:.3f} s", f"{length[1]:.3f} s", apart < TICK_MS),
        FileCheck("times of the frames", "the same", f"at most {most:.2f} ms apart", most < TICK_MS),
        *_sounds(before.sounds, after.sounds, whole),
        FileCheck("metadata", "none", ", ".join(after.tags) or "none", not after.tags),
        FileCheck("other streams", "none", ", ".join(after.others) or "none", not after.others),
        _same("pixel format", before.pix_fmt, after.pix_fmt),
        _same("rotation", f"{before.rotation_deg} degrees", f"{after.rotation_deg} degrees"),
        _same("aspect of a pixel", before.aspect, after.aspect, "unspecified", "1"),
        _same("colour tags", _colour(before), _colour(after)),
        FileCheck("codec", before.codec, after.codec, True),
    )  # fmt: skip


def _colour(file: ClipFile) -> str:
    """Range, primaries, transfer, matrix; an unspecified range is the limited one."""
    return " ".join(map(str, (file.colour[0] or 1, *file.colour[1:])))


def _same(name: str, wanted: str, got: str, *alike: str) -> FileCheck:
    return FileCheck(name, wanted, got, wanted == got or {wanted, got} <= set(alike))


def _sounds(before: Sequence[Sound], after: Sequence[Sound], whole: bool) -> list[FileCheck]:
    if not before and not after:
        return [FileCheck("audio", "none", "none", True)]
    if not after:
        return [FileCheck("audio", f"{len(before)} streams, or dropped", "dropped", True)]
    wanted = f"{len(before)} streams, bit for bit"
    if len(before) != len(after):
        return [FileCheck("audio", wanted, f"{len(after)} streams", False)]
    places = [_place(one, two) for one, two in zip(before, after, strict=True)]
    good = all(
        place is not None and (not whole or len(one.digests) == len(two.digests))
        for place, one, two in zip(places, before, after, strict=True)
    )
    packets = sum(len(one.digests) for one in after)
    said = f"{len(after)} streams, {packets} packets, {'bit for bit' if good else 'changed'}"
    checks = [FileCheck("audio", wanted if whole else f"a part of {wanted}", said, good)]
    if good and whole:
        pairs = [zip(one.times_s, two.times_s, strict=True) for one, two in zip(before, after, strict=True)]
        apart = max((abs(a - b) for pair in pairs for a, b in pair), default=0.0) * 1e3
        checks.append(
            FileCheck("audio against picture", "as before", f"at most {apart:.2f} ms apart", apart < 2 * TICK_MS)
        )
    return checks


def _place(before: Sound, after: Sound) -> int | None:
    """Number of the packet with which the output's begin in the original; None where they are others."""
    count = len(after.digests)
    for first in range(len(before.digests) - count + 1):
        if (
            before.digests[first] == (after.digests[0] if count else b"")
            and before.digests[first : first + count] == after.digests
        ):
            return first
    return 0 if not count else None
