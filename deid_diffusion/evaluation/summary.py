"""Summarises reports: a few sentences a method, and Markdown tables of all methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deid_diffusion.evaluation.aggregate import BACKGROUND_PSNR, DETECTED, LANDMARK_ERROR
from deid_diffusion.evaluation.attacks import ADAPTIVE, PARROT_1, POOLED, POOLED_PARROT, RANK_1
from deid_diffusion.evaluation.privacy import EER, OWN_SIMILARITY, TAR_1
from deid_diffusion.evaluation.results import EvalReport, JudgeResult, Metric, find_metric

_ATTACKERS = (PARROT_1, POOLED, POOLED_PARROT)
_LEAK = 1.5  # times chance, with the whole interval above chance, is called above chance


def markdown_table(reports: tuple[EvalReport, ...]) -> str:
    """The table of the terminal: a row per method, columns per judge, then utility and image quality.

    Args:
        reports: one per method, with the same judges.
    """
    per_judge = (RANK_1, *_present(reports), TAR_1, EER, OWN_SIMILARITY)
    head = f"{reports[0].test}, n = {', '.join(f'{r.faces} ({r.method})' for r in reports)}"
    return f"{head}\n\n{_table(reports, per_judge, (DETECTED, LANDMARK_ERROR, BACKGROUND_PSNR))}\n"


def comparison_table(reports: tuple[EvalReport, ...]) -> str:
    """A narrow table for a README: rank-1 without and with training of the attacker, and utility, by method.

    Args:
        reports: one per method, with the same judges.
    """
    faces = ", ".join(f"{report.faces} faces ({report.method})" for report in reports)
    head = f"Gallery of {reports[0].judges[0].people} people: {reports[0].test}. Judged: {faces}."
    text = _table(reports, (RANK_1, ADAPTIVE, *_present(reports)), (DETECTED, LANDMARK_ERROR))
    return f"{head} 95 % intervals by person.\n\n{text}\n"


def headline(report: EvalReport) -> list[str]:
    """The main findings about one method, a sentence each."""
    said = [_verdict(judge) for judge in report.judges]
    unchanged = report.recogniser_free[0]
    if unchanged.value:
        said.append(f"{round(unchanged.value * unchanged.n)} of {unchanged.n} faces are unchanged.")
    detected = find_metric(report.utility, DETECTED)
    if detected.value is not None:
        said.append(f"Face detection rate in the outputs: {_percent(detected.value)}.")
    if report.problem_counts:
        said.append("Excluded or irregular files: " + ", ".join(f"{n} x {k}" for k, n in report.problem_counts) + ".")
    return said


def _table(reports: tuple[EvalReport, ...], per_judge: tuple[str, ...], once: tuple[str, ...]) -> str:
    """The metrics `per_judge` of every judge, and those that are measured `once`; two last rows give the baselines."""
    judges = [judge.judge for judge in reports[0].judges]
    columns = [_metrics(report, per_judge, once) for report in reports]
    first = columns[0]
    titles = ["method", *(f"{name}, {judge}" for judge in judges for name in per_judge)]
    titles += [_title(metric) for metric in first[len(first) - len(once) :]]
    rows = [[report.method, *map(_cell, metrics)] for report, metrics in zip(reports, columns, strict=True)]
    rows.append(["*originals*", *_baseline(first, lambda metric: metric.on_originals)])
    rows.append(["*chance*", *_baseline(first, lambda metric: metric.chance)])
    if any(metric.floor is not None for metric in first):
        rows.append(["*surroundings alone*", *_baseline(first, lambda metric: metric.floor)])
        rows += [[f"{report.method}: over the surroundings", *map(_excess, metrics)] for report, metrics in
                 zip(reports, columns, strict=True)]  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in [titles, ["---"] * len(titles), *rows])


def _metrics(report: EvalReport, per_judge: tuple[str, ...], once: tuple[str, ...]) -> list[Metric]:
    found = [find_metric(judge.metrics, name) for judge in report.judges for name in per_judge]
    return [*found, *(find_metric((*report.utility, *report.quality), name) for name in once)]


def _present(reports: tuple[EvalReport, ...]) -> tuple[str, ...]:
    """Names of the parrot and pooled attackers that were measured in some report."""
    found = {metric.name for report in reports for judge in report.judges for metric in judge.metrics}
    return tuple(name for name in _ATTACKERS if name in found)


def _excess(metric: Metric) -> str:
    """`+0.01 [-0.02, +0.04]`; empty where there is no floor."""
    if metric.excess is None:
        return ""
    value, low, high = metric.excess
    return f"{value:+.2f}" + ("" if low is None else f" [{low:+.2f}, {high:+.2f}]")


def _title(metric: Metric) -> str:
    return metric.name if metric.unit == "proportion" else f"{metric.name}, {metric.unit}"


def _baseline(metrics: Sequence[Metric], of: Callable[[Metric], float | None]) -> list[str]:
    return ["" if (value := of(metric)) is None else f"{value:.2f}" for metric in metrics]


def _verdict(judge: JudgeResult) -> str:
    rank = find_metric(judge.metrics, RANK_1)
    if rank.value is None:
        own = find_metric(judge.metrics, OWN_SIMILARITY)
        return f"{judge.judge}: {RANK_1} not measured ({rank.reason}); {OWN_SIMILARITY} {own.text()}."
    text = (
        f"{judge.judge}: {RANK_1} {_percent(rank.value)}, 95 % CI {_percent(rank.low)} to {_percent(rank.high)}, "
        f"among {judge.people} people; chance {_percent(rank.chance)}, originals {_percent(rank.on_originals)}: "
        f"{'above chance' if _leaks(rank) else 'not distinguishable from chance'}."
    )
    adaptive = find_metric(judge.metrics, ADAPTIVE)
    if adaptive.value is not None and _leaks(adaptive):
        text += (
            f" An adaptive attacker, trained on pairs of other people, reaches {_percent(adaptive.value)}, chance "
            f"{_percent(adaptive.chance)}."
        )
    return " ".join([text, *(_attacker(judge, name) for name in (RANK_1, *_ATTACKERS) if _says(judge, name))])


def _says(judge: JudgeResult, name: str) -> bool:
    metric = find_metric(judge.metrics, name)
    return metric.value is not None and (name != RANK_1 or metric.floor is not None)


def _attacker(judge: JudgeResult, name: str) -> str:
    """What one attacker achieves, and how much of it the surroundings tell alone."""
    metric = find_metric(judge.metrics, name)
    said = "" if name == RANK_1 else f"{name[0].upper()}{name[1:]}: {_percent(metric.value)}, chance "
    said += "" if name == RANK_1 else f"{_percent(metric.chance)}. "
    if metric.excess is None:
        return said.strip()
    more, low, high = (100 * (value or 0) for value in metric.excess)
    what = "What the faces add to that"
    if metric.excess[1] is None or low <= 0 <= high:
        verdict = "cannot be told from nothing"
    else:
        verdict = "is real" if more > 0 else "is negative: they hide more than an average face does"
    return (
        f"{said}With one and the same face in every picture it is {_percent(metric.floor)}: that much the "
        f"surroundings tell. {what}, {more:+.1f} points (95 % CI {low:+.1f} to {high:+.1f}), {verdict}."
    )


def _leaks(rank: Metric) -> bool:
    if rank.value is None or rank.low is None or rank.chance is None:
        return False
    return rank.low > rank.chance and rank.value > _LEAK * rank.chance


def _cell(metric: Metric) -> str:
    return "not measured" if metric.value is None else metric.text()


def _percent(proportion: float | None) -> str:
    if proportion is None:
        return "?"
    return f"{100 * proportion:.1f} %" if 0 < proportion < 0.1 else f"{100 * proportion:.0f} %"
