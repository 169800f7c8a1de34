"""Draws the report's plots, each as one figure from reports alone."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from deid_diffusion.evaluation.aggregate import DETECTED
from deid_diffusion.evaluation.privacy import RANK_1
from deid_diffusion.evaluation.results import EvalReport, JudgeResult, Metric, find_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008: distinguishable with colour-blindness, and in grey by the dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", "--", "-.", ":")
GREY = "#777777"


def draw_all(reports: tuple[EvalReport, ...]) -> list[tuple[str, Figure]]:
    """(caption, figure) of every plot that has something to show."""
    plots = [
        (
            "Re-identification rank-1. Bars: outputs, with 95 % intervals over people; grey marks: the originals; "
            "dotted line: chance. Lower is more private.",
            draw_rank1(reports),
        ),
        (
            "Privacy against utility: re-identification rank-1 against face detection rate. Best: bottom right.",
            draw_tradeoff(reports),
        ),
    ]
    for index, judge in enumerate(reports[0].judges):
        if not judge.cmc[0]:
            continue
        each = [(report.method, report.judges[index]) for report in reports]
        plots += [
            (
                f"{judge.judge}: cumulative match characteristic (identification rate at rank k or better).",
                draw_cmc(each),
            ),
            (
                f"{judge.judge}: detection error trade-off (false reject against false accept rate). Dotted: chance.",
                draw_det(each),
            ),
            (
                f"{judge.judge}: genuine (filled) and impostor (line) similarities of outputs to gallery photos. The "
                "more they overlap, the less is recognised.",
                draw_similarities(each),
            ),
        ]
    return plots


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file; the same bytes for the same figure."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "deid"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def draw_rank1(reports: tuple[EvalReport, ...]) -> Figure:
    """Bars of rank-1 by method and judge."""
    figure, axes = new_figure(max(5.0, 1.2 + 0.75 * len(reports) * len(reports[0].judges)), 3.6)
    judges = reports[0].judges
    width = 0.8 / len(judges)
    for number, judge in enumerate(judges):
        metrics = [find_metric(report.judges[number].metrics, RANK_1) for report in reports]
        x = np.arange(len(reports)) + (number - (len(judges) - 1) / 2) * width
        values = [m.value if m.value is not None else np.nan for m in metrics]
        colour = COLOURS[number % len(COLOURS)]
        axes.bar(x, values, width * 0.9, color=colour, label=judge.judge, zorder=2)
        bars = np.transpose([_error_bar(metric) for metric in metrics])
        axes.errorbar(x, values, yerr=bars, fmt="none", ecolor="#222222", capsize=3)
        for place, metric, value in zip(x, metrics, values, strict=True):
            top = max(value, metric.high or 0) if np.isfinite(value) else 0
            axes.text(place, top + 0.015, f"{value:.2f}" if np.isfinite(value) else "n/a", ha="center", fontsize=8)
            if metric.on_originals is not None:
                axes.plot([place - width * 0.45, place + width * 0.45], [metric.on_originals] * 2, color=GREY, lw=2)
    chance = find_metric(judges[0].metrics, RANK_1).chance
    if chance is not None:
        axes.axhline(chance, color=GREY, ls=":", label=f"chance ({chance:.3f})")
    axes.set_xticks(range(len(reports)), [report.method for report in reports])
    axes.set(ylim=(0, 1.12), ylabel="re-identification rank-1")
    _legend(axes)
    return figure


def draw_tradeoff(reports: tuple[EvalReport, ...]) -> Figure:
    """One point per method: face detection rate across, rank-1 of the most successful judge upwards."""
    figure, axes = new_figure(4.6, 3.8)
    for number, report in enumerate(reports):
        found = find_metric(report.utility, DETECTED)
        ranks = [m for judge in report.judges if (m := find_metric(judge.metrics, RANK_1)).value is not None]
        if found.value is None or not ranks:
            continue
        rank = max(ranks, key=lambda m: m.value or 0)
        colour = COLOURS[number % len(COLOURS)]
        across, up = (np.reshape(_error_bar(m), (2, 1)) for m in (found, rank))
        axes.errorbar(found.value, rank.value, xerr=across, yerr=up, color=colour, capsize=2, zorder=2)
        axes.scatter(found.value, rank.value, color=colour, s=60, marker="osD^vPX"[number % 7], label=report.method)
    axes.set(
        xlim=(-0.05, 1.05),
        ylim=(-0.05, 1.05),
        xlabel="face detection rate",
        ylabel="re-identification rank-1, worst judge",
    )
    _legend(axes)
    return figure


def draw_cmc(judges: list[tuple[str, JudgeResult]]) -> Figure:
    """Cumulative match curves of several methods by one judge."""
    figure, axes = new_figure(4.6, 3.4)
    for number, (method, judge) in enumerate(judges):
        axes.step(*judge.cmc, where="post", label=method, **_style(number))
    ranks = np.array(judges[0][1].cmc_originals[0])
    axes.plot(ranks, judges[0][1].cmc_originals[1], color=GREY, lw=1, label="originals")
    axes.plot(ranks, ranks / judges[0][1].people, color=GREY, ls=":", label="chance")
    axes.set(ylim=(-0.02, 1.05), xlabel=f"rank k, among {judges[0][1].people} people", ylabel="identification rate")
    _legend(axes)
    return figure


def draw_det(judges: list[tuple[str, JudgeResult]]) -> Figure:
    """Detection error trade-off curves of several methods by one judge."""
    figure, axes = new_figure(4.6, 3.4)
    for number, (method, judge) in enumerate(judges):
        axes.plot(*judge.det, label=method, **_style(number))
    axes.plot(*judges[0][1].det_originals, color=GREY, lw=1, label="originals")
    chance = np.geomspace(min(judges[0][1].det[0]), 1, 50)
    axes.plot(chance, 1 - chance, color=GREY, ls=":", label="chance")
    axes.set(xscale="log", ylim=(-0.03, 1.05), xlabel="false accept rate", ylabel="false reject rate")
    _legend(axes)
    return figure


def draw_similarities(judges: list[tuple[str, JudgeResult]]) -> Figure:
    """One panel per method: genuine and impostor similarities."""
    figure, _ = new_figure(5.0, 0.6 + 0.9 * len(judges), axes=False)
    panels = figure.subplots(len(judges), 1, sharex=True, squeeze=False)[:, 0]
    drawn = [np.array(c[0])[np.array(c[1]) > 0.002] for _, j in judges for c in (j.genuine, j.impostor)]
    low, high = min(d.min() for d in drawn if len(d)), max(d.max() for d in drawn if len(d))
    for number, (panel, (method, judge)) in enumerate(zip(panels, judges, strict=True)):
        width = judge.genuine[0][1] - judge.genuine[0][0]
        panel.bar(*judge.genuine, width, color=COLOURS[number % len(COLOURS)], alpha=0.75)
        panel.step(*judge.impostor, where="mid", color="#222222", lw=1)
        panel.set(yticks=[], xlim=(low - 0.05, high + 0.05))
        panel.set_ylabel(method, rotation=0, ha="right", va="center")
        panel.spines[["top", "right", "left"]].set_visible(False)
    panels[-1].set_xlabel("cosine similarity")
    return figure


def _style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "ls": _DASHES[number % len(_DASHES)], "lw": 2.0}


def _error_bar(metric: Metric) -> tuple[float, float]:
    """How far the interval reaches below and above the value."""
    if metric.value is None or metric.low is None or metric.high is None:
        return 0.0, 0.0
    return max(metric.value - metric.low, 0.0), max(metric.high - metric.value, 0.0)


def new_figure(width: float, height: float, axes: bool = True) -> tuple[Figure, Any]:
    """A figure with one panel, or with none.

    Args:
        width, height: in inches.
        axes: whether it gets a panel.
    """
    # The object interface: pyplot would keep every figure and pick a window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if not axes:
        return figure, None
    panel = figure.subplots()
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#dddddd", lw=0.6, zorder=0)
    return figure, panel


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
