"""Shows a run while it goes: a bar with faces and time left on a terminal, a line a picture everywhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from deid_diffusion.jobs.plan import Job, Skipped
from deid_diffusion.jobs.run import JobResult

from . import complain

EVERY_S = 10.0  # between two lines about a clip


@contextmanager
def shown(total: int) -> Iterator[Callable[[JobResult], None]]:
    """Gives a function to call with each result. The bar goes to stderr, results to stdout."""
    if not sys.stderr.isatty():
        yield print_result
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("pictures"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[faces]} faces"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("left"),
    )
    # The speed of the last hour: rich's half minute would hold less than one picture of many people.
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        speed_estimate_period=3600,
    ) as progress:
        task = progress.add_task("", total=total, faces=0)
        faces = 0

        def show(result: JobResult) -> None:
            nonlocal faces
            faces += len(result.faces)
            print_result(result)
            progress.update(task, advance=1, faces=faces)

        yield show


def print_result(result: JobResult) -> None:
    """One line: to stdout for an output, to stderr for a failure; and one to stderr for each notice."""
    job = result.job
    if not result.ok:
        complain(result.error, 1)
        return
    for note in result.picture.get("notes", ()):
        print(f"deid: {job.name}: {note}", file=sys.stderr, flush=True)
    if spans := result.picture.get("review"):
        print(f"deid: {job.name}: {len(spans)} spans to look at, --report lists them", file=sys.stderr, flush=True)
    took = "done before" if result.earlier else f"{sum(result.seconds.values()):.1f} s"
    print(f"{job.in_path} -> {job.out_path}  {faces_in_words([result])}, {took}", flush=True)
    for notice in result.picture.get("notices", ()):
        print(f"deid: {job.in_path}: {notice}", file=sys.stderr, flush=True)


def watch(job: Job) -> Callable[[str, int, int | None], None]:
    """What is told how far a clip is: it writes a line to stderr every `EVERY_S`."""
    start = said = time.perf_counter()
    stage = ""

    def tell(now: str, done: int, total: int | None) -> None:
        nonlocal start, said, stage
        clock = time.perf_counter()
        if now != stage:
            start = said = clock
            stage = now
        if clock - said < EVERY_S:
            return
        said, rate = clock, done / max(clock - start, 1e-6)
        left = f", {max(total - done, 0) / rate:.0f} s left" if total else ""
        frames = f"{done} of {total} frames" if total else f"{done} frames"
        words = {"look": "looking", "write": "writing"}[now]
        print(f"deid: {job.name}: {words}, {frames}, {rate:.1f} fps{left}", file=sys.stderr, flush=True)

    return tell


def faces_in_words(results: Iterable[JobResult]) -> str:
    """`3 faces: 2 replaced, 1 redacted`."""
    outcomes: Counter[str] = Counter()
    borderline, unsearched = 0, False
    for result in results:
        outcomes.update(face["outcome"] for face in result.faces)
        borderline += sum(bool(face.get("borderline")) for face in result.faces)
        unsearched |= result.job.boxes == ()
    if not outcomes:
        return "no face, as the boxes say" if unsearched else "no face found"
    parts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items(), reverse=True))
    parts += f"; {borderline} borderline, hidden" if borderline else ""
    return f"{outcomes.total()} face{'s' * (outcomes.total() != 1)}: {parts}"


def summary(results: Sequence[JobResult], total: int, skipped: Sequence[Skipped], seconds: float) -> str:
    """The last line of a run."""
    done = sum(result.ok for result in results)
    # Of pictures that failed nothing is known: "no face found" would sound like an all-clear.
    faces = faces_in_words(result for result in results if result.ok) if done else ""
    parts = [f"{done} of {total} pictures done" + (f", {faces}" if done else "")]
    parts += [f"{len(results) - done} failed"] if done < len(results) else []
    parts += [left_out(skipped)] if skipped else []
    return "; ".join([*parts, f"{seconds:.1f} s"])


def left_out(skipped: Sequence[Skipped]) -> str:
    """`3 left out (2 hidden, 1 excluded)`."""
    reasons = Counter(item.reason for item in skipped).most_common()
    return f"{len(skipped)} left out ({', '.join(f'{count} {reason}' for reason, count in reasons)})"
