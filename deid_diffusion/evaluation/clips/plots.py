"""Draws what happens over the time of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deid_diffusion.evaluation.clips.motion import MOTIONS
from deid_diffusion.evaluation.clips.results import ClipReport
from deid_diffusion.evaluation.clips.tracks import EvalTrack
from deid_diffusion.evaluation.plots import COLOURS, GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 600  # of a line, at most: an hour of frames would be megabytes of drawing
LINES = 7  # tracks that are drawn, the longest ones


def thinned(values: np.ndarray, points: int = POINTS) -> np.ndarray:
    """(n,) -> (m,), m <= points: means of neighbours; NaN only where all of them are."""
    if len(values) <= points:
        return values
    parts = np.array_split(values, points)
    return np.array([np.nan if np.isnan(part).all() else np.nanmean(part) for part in parts])


def draw_clip(report: ClipReport, tracks: Sequence[EvalTrack]) -> Figure:
    """Similarity to the source, flicker and motion over time, of the longest tracks.

    Args:
        report: of the clip.
        tracks: its faces.
    """
    longest = sorted(tracks, key=lambda track: -len(track.rows["frame"]))[:LINES]
    read = [name for name in MOTIONS if any(np.isfinite(track.rows[f"{name}_before"]).any() for track in longest)]
    panels = 1 + len(report.judges) + len(read)
    figure, _ = new_figure(8.0, 0.5 + 1.25 * panels, axes=False)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.01)
    for number, judge in enumerate(report.judges):
        for colour, track in zip(COLOURS, longest, strict=False):
            _line(axes[number], track, f"own_{number}", color=colour)
        if judge.threshold is not None:
            axes[number].axhline(judge.threshold, color=GREY, ls=":", lw=1)
        axes[number].set_ylabel(f"similarity\n{judge.judge}", fontsize=8)
    flicker = axes[len(report.judges)]
    for colour, track in zip(COLOURS, longest, strict=False):
        _line(flicker, track, "flicker_before", color=GREY, lw=0.8)
        _line(flicker, track, "flicker_after", color=colour)
    flicker.set_ylabel("flicker\nlevels", fontsize=8)
    for panel, name in zip(axes[len(report.judges) + 1 :], read, strict=True):
        for colour, track in zip(COLOURS, longest, strict=False):
            _line(panel, track, f"{name}_before", color=GREY, lw=0.8)
            _line(panel, track, f"{name}_after", color=colour)
        panel.set_ylabel(name, fontsize=8)
    for start, stop, why in report.look_at[:200]:
        for panel in axes[:1]:
            panel.axvspan(
                start - 0.02, stop + 0.02, color="#D55E00" if why == "exposed" else "#E69F00", alpha=0.3, lw=0
            )
    axes[-1].set_xlabel("seconds")
    return figure


def _line(panel: Any, track: EvalTrack, name: str, **style: Any) -> None:
    values, times = thinned(track.rows[name]), thinned(track.rows["time"])
    panel.plot(times, values, **{"lw": 1.2, "marker": "." if len(times) < 3 else None, **style})
