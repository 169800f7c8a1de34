"""Says what the numbers mean, in plain words and in one small table."""

from __future__ import annotations

from deid_diffusion.evaluation.averages import FOUND
from deid_diffusion.evaluation.privacy import LEARNED, OWN, RANK_1
from deid_diffusion.evaluation.results import EvalReport, JudgeResult, Measure, find

_KEY = (RANK_1, "TAR at FAR 1 %", "EER", OWN)
_KEPT = (FOUND, "landmark error")  # beside them: what the same networks say of the originals' mirror images
_LEAK = 1.5  # times chance, with the whole interval above chance, is said to be more than guessing


def table(reports: tuple[EvalReport, ...]) -> str:
    """The table of the terminal and of a README, in Markdown: a row per method, columns per judge."""
    judges = [judge.judge for judge in reports[0].judges]
    titles = [name if len(judges) == 1 else f"{name}, {judge}" for judge in judges for name in _KEY]
    titles += [FOUND, "landmark error, % of eye distance", "PSNR off the faces, dB"]
    rows = []
    for report in reports:
        cells = [find(judge.measures, name) for judge in report.judges for name in _KEY]
        cells += [find(report.utility, FOUND), find(report.utility, "landmark error")]
        cells.append(find(report.quality, "PSNR off the faces"))
        rows.append([report.method, *(_cell(m) for m in cells)])
    ceilings = [find(judge.measures, name).ceiling for judge in reports[0].judges for name in _KEY]
    ceilings += [find(reports[0].utility, name).ceiling for name in _KEPT]
    rows.append(["*originals*", *("" if c is None else f"{c:.2f}" for c in ceilings), "inf"])
    chances = [find(judge.measures, name).chance for judge in reports[0].judges for name in _KEY]
    rows.append(["*guessing*", *("" if c is None else f"{c:.2f}" for c in chances), "", "", ""])
    lines = [["method", *titles], ["---"] * (len(titles) + 1), *rows]
    head = f"{reports[0].test}, n = {', '.join(f'{r.faces} ({r.method})' for r in reports)}"
    return head + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def comparison(reports: tuple[EvalReport, ...]) -> str:
    """A narrow table for a README: how often each method's people are recognised, plainly and by who learned, and what
    is left to use."""
    names = (RANK_1, LEARNED)
    judges = [judge.judge for judge in reports[0].judges]
    titles = [f"{name}, {judge}" for judge in judges for name in names] + [FOUND, "landmark error, % of eye distance"]
    rows = []
    for report in reports:
        measures = [find(judge.measures, name) for judge in report.judges for name in names]
        measures += [find(report.utility, FOUND), find(report.utility, "landmark error")]
        rows.append([report.method, *(_cell(m) for m in measures)])
    first = [find(judge.measures, name) for judge in reports[0].judges for name in names]
    usual = [*first, *(find(reports[0].utility, name) for name in _KEPT)]
    rows.append(["*originals*", *("" if m.ceiling is None else f"{m.ceiling:.2f}" for m in usual)])
    rows.append(["*guessing*", *("" if m.chance is None else f"{m.chance:.2f}" for m in first), "", ""])
    lines = [["method", *titles], ["---"] * (len(titles) + 1), *rows]
    faces = ", ".join(f"{report.faces} faces ({report.method})" for report in reports)
    head = f"Gallery of {reports[0].judges[0].people} people: {reports[0].test}. Judged: {faces}."
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{head} 95 % intervals by person.\n\n{text}\n"


def headline(report: EvalReport) -> list[str]:
    """What to take away from one method, a sentence each."""
    said = [_verdict(report, judge) for judge in report.judges]
    left = report.general[0]
    if left.value:
        count = round(left.value * left.n)
        said.append(f"{count} of {left.n} faces were left as they were: anybody recognises them.")
    found = find(report.utility, FOUND)
    if found.value is not None:
        said.append(f"A face is still found in {_percent(found.value)} of the outputs.")
    if report.problem_counts:
        said.append(
            "Not everything could be judged: " + ", ".join(f"{n} x {k}" for k, n in report.problem_counts) + "."
        )
    return said


def _verdict(report: EvalReport, judge: JudgeResult) -> str:
    rank = find(judge.measures, RANK_1)
    if rank.value is None:
        own = find(judge.measures, OWN)
        return (
            f"{judge.judge}: re-identification not measured ({rank.reason}); similarity to the original {own.text()}."
        )
    text = (
        f"{judge.judge} names the right person, out of {judge.people}, for {_percent(rank.value)} of the outputs "
        f"(95 % interval {_percent(rank.low)} to {_percent(rank.high)}); guessing gives {_percent(rank.chance)}, "
        f"the untouched pictures {_percent(rank.ceiling)}."
    )
    said = "is more than guessing: something of the person is left" if _leaks(rank) else "cannot be told from guessing"
    text += f" That {said}."
    learned = find(judge.measures, LEARNED)
    if learned.value is not None and _leaks(learned):
        text += (
            f" An attacker who studied outputs of other people names {_percent(learned.value)}, where guessing gives "
            f"{_percent(learned.chance)}."
        )
    return text


def _leaks(rank: Measure) -> bool:
    return rank.low is not None and rank.low > rank.chance and rank.value > _LEAK * rank.chance


def _cell(measure: Measure) -> str:
    return "not measured" if measure.value is None else measure.text()


def _percent(share: float | None) -> str:
    if share is None:
        return "?"
    return f"{100 * share:.1f} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"
