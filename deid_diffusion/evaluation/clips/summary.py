"""Summarises clips: sentences for one, and a Markdown table of all."""

from __future__ import annotations

from collections.abc import Sequence

from deid_diffusion.evaluation.clips import results as names
from deid_diffusion.evaluation.clips.motion import MOTIONS
from deid_diffusion.evaluation.clips.results import ClipReport
from deid_diffusion.evaluation.results import Metric, find_metric


def clip_headline(report: ClipReport) -> list[str]:
    """The main findings about one clip, a sentence each."""
    exposed = find_metric(report.metrics, names.EXPOSED)
    if exposed.value is None:
        said = [f"No face was found in {report.frames} frames."]
    else:
        count = round(exposed.value * exposed.n)
        said = [f"{count} of {exposed.n} face-frames are exposed."]
        said += [sentence for judge in report.judges for sentence in _recognised(judge)]
        if (flicker := find_metric(report.metrics, names.FLICKER)).value is not None:
            said.append(f"Flicker is {flicker.value:.2f} times the original's.")
    wrong = [check.name for check in report.files if not check.same]
    said.append(f"The file differs in: {', '.join(wrong)}." if wrong else "The file kept all that it was to keep.")
    return said


def _recognised(judge: names.ClipJudge) -> list[str]:
    pooled, frames = (find_metric(judge.metrics, name) for name in (names.POOLED, names.FRAME_HITS))
    if pooled.value is None:
        return []
    said = f"{judge.judge}: the mean of all frames has a cosine of {pooled.value:.2f} to the original's"
    if judge.threshold is None or frames.value is None:
        return [f"{said}."]
    verdict = "recognised" if pooled.value >= judge.threshold else "not recognised"
    return [f"{said}: {verdict} ({judge.threshold:.2f} is one person's); {frames.value:.1%} of the single frames are."]


def clip_table(reports: Sequence[ClipReport]) -> str:
    """A row for each clip, Markdown; a last one for all, where there are several.

    Args:
        reports: with the same judges.
    """
    titles, rows = table_rows(reports)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table_rows(reports: Sequence[ClipReport]) -> tuple[list[str], list[list[str]]]:
    """Titles of the columns, and the rows of `clip_table`.

    Args:
        reports: with the same judges.
    """
    several = len({report.method for report in reports}) > 1
    titles = ["clip", "frames", "face-frames", "exposed", "found", "flicker, 95th percentile"]
    for judge in reports[0].judges:
        titles += [f"{judge.judge}: {part}" for part in
                   ("frame, best, pooled", "recognised", "adjacent, original's", "spread, original's")]  # fmt: skip
    titles += [*MOTIONS, "files"]
    rows = [_row(report, f"{report.method}: {report.clip}" if several else report.clip) for report in reports]
    for method in dict.fromkeys(report.method for report in reports):
        own = [report for report in reports if report.method == method]
        if len(own) > 1:
            rows.append(_all(own, f"*{method}: all*" if several else "*all*"))
    return titles, rows


def _row(report: ClipReport, title: str) -> list[str]:
    exposed, uncovered = (find_metric(report.metrics, name) for name in (names.EXPOSED, names.UNCOVERED))
    row = [
        title,
        str(report.frames),
        str(report.face_frames),
        _counts(exposed, uncovered),
        _cell(report.metrics, names.FOUND),
    ]
    row.append(_two(report.metrics, names.FLICKER, names.FLICKER_95))
    for judge in report.judges:
        row += [
            ", ".join(filter(None, (_cell(judge.metrics, name) for name in (names.OWN, names.BEST, names.POOLED)))),
            _cell(judge.metrics, names.FRAME_HITS),
            *(_beside(find_metric(judge.metrics, name)) for name in (names.ADJACENT, names.SPREAD)),
        ]
    row += [_two(report.metrics, names.correlation_of(name), names.slope_of(name)) for name in MOTIONS]
    wrong = [check.name for check in report.files if not check.same]
    return [*row, ", ".join(wrong) or "kept"]


def _all(reports: Sequence[ClipReport], title: str) -> list[str]:
    """Counts are added up; all else is the mean over what it rests on, and best frame and pooled are the highest."""
    row = [title, str(sum(report.frames for report in reports)), str(sum(report.face_frames for report in reports))]

    def over(name: str, judge: int | None = None) -> Metric:
        metrics = [report.metrics if judge is None else report.judges[judge].metrics for report in reports]
        return mean_of([find_metric(one, name) for one in metrics])

    def highest(name: str, judge: int) -> str:
        values = [find_metric(report.judges[judge].metrics, name).value for report in reports]
        return f"{max((value for value in values if value is not None), default=float('nan')):.2f}"

    row.append(_counts(over(names.EXPOSED), over(names.UNCOVERED)))
    row += [_text(over(names.FOUND)), f"{_text(over(names.FLICKER))}, {_text(over(names.FLICKER_95))}"]
    for number in range(len(reports[0].judges)):
        row.append(f"{_text(over(names.OWN, number))}, {highest(names.BEST, number)}, {highest(names.POOLED, number)}")
        row.append(_text(over(names.FRAME_HITS, number)))
        row += [_beside(over(name, number)) for name in (names.ADJACENT, names.SPREAD)]
    for name in MOTIONS:
        row.append(f"{_text(over(names.correlation_of(name)))}, {_text(over(names.slope_of(name)))}")
    wrong = sum(not all(check.same for check in report.files) for report in reports)
    return [*row, f"{wrong} differ" if wrong else "kept"]


def mean_of(metrics: Sequence[Metric]) -> Metric:
    """One metric of several clips, weighted by what each rests on; without a value where none has one.

    Args:
        metrics: of one name.
    """
    known = [
        (metric.value, metric.n, metric.on_originals) for metric in metrics if metric.value is not None and metric.n
    ]
    if not known:
        return Metric.missing(metrics[0].name, metrics[0].reason or "in no clip", metrics[0].unit)
    total = sum(n for _, n, _ in known)
    bases = [(base, n) for _, n, base in known if base is not None]
    base = sum(base * n for base, n in bases) / sum(n for _, n in bases) if bases else None
    value = sum(value * n for value, n, _ in known) / total
    return Metric(metrics[0].name, value, n=total, unit=metrics[0].unit, on_originals=base)


def _counts(exposed: Metric, uncovered: Metric) -> str:
    """Face-frames by pixels, and by masks where there were some."""
    return ", ".join(str(round(one.value * one.n)) for one in (exposed, uncovered) if one.value is not None)


def _text(metric: Metric) -> str:
    if metric.value is None:
        return "still" if "hardly moves" in metric.reason else ""
    return f"{metric.value:.2f}"


def _cell(metrics: Sequence[Metric], name: str) -> str:
    return _text(find_metric(tuple(metrics), name))


def _two(metrics: Sequence[Metric], *pair: str) -> str:
    cells = [_cell(metrics, name) for name in pair]
    return cells[0] if cells[0] in ("", "still") else ", ".join(cells)


def _beside(metric: Metric) -> str:
    base = "" if metric.on_originals is None else f", {metric.on_originals:.2f}"
    return _text(metric) + base if metric.value is not None else ""
