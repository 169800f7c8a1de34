"""What is to be chosen about a clip."""

from __future__ import annotations

from dataclasses import dataclass

from .messages import brief


@dataclass(frozen=True)
class ClipOptions:
    """What is to be chosen about a clip and not about its faces.

    Attributes:
        audio: "keep" copies it as it is; a voice identifies. "drop" leaves it out.
        crf: constant rate factor of the encoder; lower is better and larger.
        codec: of the output; None for that of the source's family.
        stride: a new face is generated every so many frames, and carried along between; None for 3.
        motion: "fine" passes speech and blinks in eighths of a step; "coarse" in the steps of photos.
        start_s, stop_s: what part of the clip is written; None for all.
        ahead_s: how far a stream looks ahead.
    """

    audio: str = "keep"
    crf: int = 18
    codec: str | None = None
    stride: int | None = None
    motion: str = "fine"
    start_s: float | None = None
    stop_s: float | None = None
    ahead_s: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in (("audio", ("keep", "drop")), ("motion", ("fine", "coarse"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {brief(getattr(self, name))}")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride must be >= 1, got {brief(self.stride)}")
        if self.start_s is not None and self.stop_s is not None and not self.start_s < self.stop_s:
            raise ValueError(f"wanted a part that stops after it starts, got {self.start_s} s to {self.stop_s} s")
