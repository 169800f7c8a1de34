"""Writes `report.html`: one file, no outside request, summary before tables before plots."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.results import EvalReport, Metric, find_metric
from deid_diffusion.evaluation.summary import headline

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd }
h3 { font-size: 1.05rem; margin-bottom: .3rem }
table { border-collapse: collapse; font-size: .85rem; margin: .6rem 0; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #e4e4e4; padding: .25rem .6rem; text-align: left; vertical-align: top }
thead th { background: #f5f5f5 } .scroll { overflow-x: auto }
.small { color: #666; font-size: .8rem } .why { color: #8a5a00 }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; max-width: 520px; vertical-align: top }
figure img { max-width: 100% } figcaption { font-size: .8rem; color: #444 }
.faces img { width: 120px; height: 120px; margin: 2px }
"""


def write_page(path: Path, reports: tuple[EvalReport, ...], examples: list[list[np.ndarray]]) -> None:
    """Writes the page of one or more methods judged in one run.

    Args:
        path: the HTML file.
        reports: one per method, with the same judges.
        examples: per method, (h, w, 3) uint8 crops of *outputs*; never originals.
    """
    first = reports[0]
    about = f"{first.people} people, {first.pictures} pictures; test: {first.test}."
    parts = [
        "<h1>Anonymization report: privacy, utility, image quality</h1>",
        f"<p>{escape(about)}</p>",
        *(_summary(report, shown) for report, shown in zip(reports, examples, strict=True)),
        "<h2>Re-identification</h2>",
        *_judge_tables(reports),
        "<h3>Without a recogniser</h3>",
        _table(reports, [report.recogniser_free for report in reports]),
        "<h2>Plots</h2>",
        *_plots(reports),
        "<h2>Utility</h2>",
        _table(reports, [report.utility for report in reports], "originals, mirrored: noise floor"),
        "<h2>Image quality</h2>",
        _table(reports, [report.quality for report in reports], "originals, two halves: noise floor"),
        "<h2>By group</h2>",
        *(_groups(report) for report in reports),
        "<h2>Excluded and irregular files</h2>",
        *(_problems(report) for report in reports),
        "<h2>Method notes</h2>",
        "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in first.notes) + "</ul>",
        setup_table(first.setup),
    ]
    write_document(path, parts)


def write_document(path: Path, parts: Sequence[str]) -> None:
    """Writes a page of one file.

    Args:
        path: of it.
        parts: of its body, HTML.
    """
    body = "\n".join(parts)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>deid eval</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def figure_tag(caption: str, svg_file: bytes) -> str:
    """A figure with its caption, HTML.

    Args:
        caption: in words, not yet escaped.
        svg_file: the picture.
    """
    words, data = escape(caption), base64.b64encode(svg_file).decode()
    picture = f'<img alt="{words}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{picture}<figcaption>{words}</figcaption></figure>"


def _summary(report: EvalReport, examples: list[np.ndarray]) -> str:
    sentences = "".join(f"<li>{escape(s)}</li>" for s in headline(report))
    shown = "".join(f'<img alt="an anonymized face" src="{_png(picture)}">' for picture in examples)
    faces = f'<div class="faces">{shown}</div>' if shown else ""
    return f"<h2>{escape(report.method)}</h2><ul>{sentences}</ul>{faces}"


def _judge_tables(reports: tuple[EvalReport, ...]) -> list[str]:
    tables = []
    for index, judge in enumerate(reports[0].judges):
        title = f"<h3>{escape(judge.judge)}, {judge.people} people in the gallery</h3>"
        tables.append(title + _table(reports, [report.judges[index].metrics for report in reports]))
    return tables


def _table(reports: tuple[EvalReport, ...], columns: list[tuple[Metric, ...]], baseline: str = "originals") -> str:
    names = list(dict.fromkeys(m.name for column in columns for m in column))
    head = "".join(f"<th>{escape(report.method)}</th>" for report in reports)
    rows = []
    for name in names:
        metrics = [find_metric(column, name) for column in columns]
        same = next((m for m in metrics if m.value is not None), metrics[0])
        cells = "".join(f"<td>{html_cell(m)}</td>" for m in metrics)
        rows.append(
            f"<tr><td>{escape(name)} <span class=small>{escape(same.unit)}</span></td>{cells}"
            f"<td>{short_number(same.on_originals)}</td><td>{short_number(same.chance)}</td><td>{short_number(same.floor)}</td></tr>"
        )
    baselines = "".join(
        f"<th>{name}</th>" for name in (baseline, "chance (similarity: impostor mean)", "surroundings alone")
    )
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{head}{baselines}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def html_cell(metric: Metric) -> str:
    """Value, interval and number of faces, or why there is none, HTML."""
    if metric.value is None:
        return f'<span class="why">{escape(metric.text())}</span>'
    more = ""
    if metric.excess is not None and metric.excess[1] is not None:
        more = "<br><span class=small>over the surroundings {:+.2f} [{:+.2f}, {:+.2f}]</span>".format(*metric.excess)
    return f"{escape(metric.text())} <span class=small>n={metric.n}</span>{more}"


def short_number(value: float | None) -> str:
    """Three digits; empty for None."""
    return "" if value is None else f"{value:.3g}"


def _plots(reports: tuple[EvalReport, ...]) -> list[str]:
    if importlib.util.find_spec("matplotlib") is None:
        return ['<p class="why">No plots: matplotlib is not installed (pip install "deid-diffusion[eval]").</p>']
    from deid_diffusion.evaluation.plots import draw_all, svg

    return [figure_tag(caption, svg(figure)) for caption, figure in draw_all(reports)]


def _groups(report: EvalReport) -> str:
    if not report.groups:
        return ""
    names = list(dict.fromkeys(m.name for group in report.groups for m in group.metrics))
    measured = [n for n in names if any(find_metric(g.metrics, n).value is not None for g in report.groups)]
    head = "".join(f"<th>{escape(name)}</th>" for name in measured)
    rows = "".join(
        f"<tr><td>{escape(group.attribute)}: {escape(group.group)}</td><td>{group.people}</td>"
        + "".join(f"<td>{html_cell(find_metric(group.metrics, name))}</td>" for name in measured)
        + "</tr>"
        for group in report.groups
    )
    return (
        f'<h3>{escape(report.method)}</h3><div class="scroll"><table><thead><tr><th>group</th><th>people</th>{head}'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _problems(report: EvalReport) -> str:
    if not report.problem_counts:
        return f"<p>{escape(report.method)}: everything was judged.</p>"
    counts = ", ".join(f"{number} x {escape(kind)}" for kind, number in report.problem_counts)
    lines = "".join(
        f"<li>{escape(p.kind)}: {escape(p.file)} <span class=small>{escape(p.detail)}</span></li>"
        for p in report.problems[:50]
    )
    return (
        f"<h3>{escape(report.method)}</h3><p>{counts}</p><details><summary>Files</summary><ul>{lines}</ul></details>"
    )


def setup_table(setup: Sequence[tuple[str, str]]) -> str:
    """Seeds, versions and hashes, HTML."""
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in setup)
    return f"<details><summary>Seeds, versions, hashes</summary><table>{rows}</table></details>"


def _png(picture: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
