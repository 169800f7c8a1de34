"""Writes `report.html` of clips: one file, no outside request; a table of all, then each clip with its filmstrip."""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Sequence
from html import escape
from pathlib import Path

from deid_diffusion.evaluation.clips.results import ClipEvaluation, ClipPerson, ClipReport, FileCheck
from deid_diffusion.evaluation.clips.summary import clip_headline, table_rows
from deid_diffusion.evaluation.clips.tracks import EvalTrack, Picture
from deid_diffusion.evaluation.html_report import figure_tag, html_cell, setup_table, short_number, write_document
from deid_diffusion.evaluation.results import Metric

STRIPS = 8  # tracks that are shown, the longest ones
_CAPTION = (
    "Over time, a colour for each face; grey: the original. Dotted: from there on the recogniser calls it one person. "
    "Red: exposed. Yellow: no face found in the output."
)
_FILM = (
    "<style>.film figure { margin: 2px; width: 112px } .film img { width: 112px; height: 112px } "
    ".film { margin: .3rem 0 .8rem }</style>"
)


def write_clip_page(
    path: Path, found: ClipEvaluation, tracks: Sequence[Sequence[EvalTrack]], shows_faces: bool = True
) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        found: what was measured.
        tracks: for each report, its faces.
        shows_faces: whether to show filmstrips, of *outputs*; originals are never shown.
    """
    titles, rows = table_rows(found.reports)
    problems = "".join(
        f"<li>{escape(f'{method}: {one.kind}: {one.file}')} <span class=small>{escape(one.detail)}</span></li>"
        for method, one in found.problems
    )
    parts = [
        _FILM,
        "<h1>Anonymized clips: privacy, stability, motion, files</h1>",
        f"<p>{len(found.reports)} clips judged. Two or three numbers in a cell are what its title names, in that "
        "order; of a motion, correlation and slope.</p>",
        _table(titles, rows),
        *(part for report, own in zip(found.reports, tracks, strict=True) for part in _clip(report, own, shows_faces)),
        "<h2>Clips that could not be judged as wanted</h2>",
        f"<ul>{problems}</ul>" if problems else "<p>None.</p>",
        "<h2>Method notes</h2>",
        "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in found.notes) + "</ul>",
        setup_table(found.setup),
    ]
    write_document(path, parts)


def _clip(report: ClipReport, tracks: Sequence[EvalTrack], shows_faces: bool) -> list[str]:
    parts = [
        f"<h2>{escape(report.method)}: {escape(report.clip)}</h2>",
        "<ul>" + "".join(f"<li>{escape(said)}</li>" for said in clip_headline(report)) + "</ul>",
    ]
    if shows_faces:
        longest = sorted(tracks, key=lambda track: -len(track.rows["frame"]))[:STRIPS]
        parts += [_strip(track) for track in sorted(longest, key=lambda track: track.number)]
        if len(tracks) > STRIPS:
            parts.append(f"<p class=small>{len(tracks) - STRIPS} shorter tracks are not shown.</p>")
    if tracks:
        parts.append(_plot(report, tracks))
    parts.append(_metrics(report.metrics))
    for judge in report.judges:
        known = (
            "no threshold" if judge.threshold is None else f"threshold {judge.threshold:.2f}, {judge.threshold_from}"
        )
        title = (
            f"{judge.judge}: {len(judge.people)} people in the clip, {judge.strangers} photos of strangers, {known}"
        )
        parts += [f"<h3>{escape(title)}</h3>", _metrics(judge.metrics), _people(judge.people)]
    parts += ["<h3>File</h3>", _files(report.files)]
    if report.look_at:
        spans = "".join(
            f"<li>{start:.2f} s to {stop:.2f} s: {escape(why)}</li>" for start, stop, why in report.look_at[:100]
        )
        parts.append(f"<details><summary>{len(report.look_at)} spans to look at</summary><ul>{spans}</ul></details>")
    return parts


def _strip(track: EvalTrack) -> str:
    pictures = "".join(map(_figure, track.strip.pictures()))
    title = f"face {track.number}, {track.start_s:.2f} s to {track.time_s:.2f} s"
    return f'<h3>{title}</h3><div class="film">{pictures}</div>'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.jpeg).decode()
    words = f"{picture.time_s:.2f} s {escape(picture.reason)}"
    image = f'<img alt="an anonymized face at {picture.time_s:.2f} s" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{image}<figcaption>{words}</figcaption></figure>"


def _plot(report: ClipReport, tracks: Sequence[EvalTrack]) -> str:
    if importlib.util.find_spec("matplotlib") is None:
        return '<p class="why">No plots: matplotlib is not installed (pip install "deid-diffusion[eval]").</p>'
    from deid_diffusion.evaluation.clips.plots import draw_clip
    from deid_diffusion.evaluation.plots import svg

    figure = figure_tag(_CAPTION, svg(draw_clip(report, tracks)))
    return figure.replace("<figure>", '<figure style="max-width: 900px">', 1)


def _metrics(metrics: Sequence[Metric]) -> str:
    rows = "".join(
        f"<tr><td>{escape(metric.name)} <span class=small>{escape(metric.unit)}</span></td>"
        f"<td>{html_cell(metric)}</td>"
        f"<td>{short_number(metric.on_originals)}</td><td>{short_number(metric.chance)}</td></tr>"
        for metric in metrics
    )
    head = "<tr><th></th><th>output</th><th>original</th><th>chance (similarity: strangers' mean)</th></tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _people(people: Sequence[ClipPerson]) -> str:
    """A row for each: a hand that was taken for a face is easily told from somebody who is recognised."""
    rows = [
        [", ".join(map(str, one.tracks[:20])), f"{one.start_s:.2f} s", str(one.frames), str(one.exposed),
         f"{one.best:.2f}", f"{one.pooled:.2f}"]
        for one in people
    ]  # fmt: skip
    titles = ("faces of one person", "first seen", "face-frames", "exposed", "similarity, best frame", "pooled")
    return _table(titles, rows) if len(people) > 1 else ""


def _files(checks: Sequence[FileCheck]) -> str:
    rows = [
        [
            escape(check.name),
            escape(check.wanted),
            escape(check.got),
            "" if check.same else "<span class=why>differs</span>",
        ]
        for check in checks
    ]
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    head = "<tr><th></th><th>original, or wanted</th><th>output</th><th></th></tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
