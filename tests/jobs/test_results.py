"""Runs of any length: results, journal and report must not be held in memory whole."""

import json
import tracemalloc
from itertools import islice
from pathlib import Path

from deid_diffusion.jobs import results as module
from deid_diffusion.jobs.journal import OUTPUTS, Journal
from deid_diffusion.jobs.report import write_report
from deid_diffusion.jobs.results import Results
from deid_diffusion.jobs.run import Job, JobResult


def made(count: int):
    """Results of pictures of three faces, last name first."""
    face = {"outcome": "replaced", "seed": 7, "reason": "", "attributes": {f"a{n}": 0.123456 for n in range(18)}}
    for number in reversed(range(count)):
        job = Job(Path(f"in/{number:05}.png"), Path(f"out/{number:05}.png"), number, f"{number:05}.png")
        yield JobResult(job, (face, face, face), {"detect": 0.1}, {"width": 8, "height": 9, "sha256": "x" * 64})


def test_the_report_of_a_sequence_on_disk_is_that_of_a_list(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY", 1000)
    kept, rows = Results(), list(made(20))
    for row in rows:
        kept.append(row)
    assert len(kept) == 20
    assert kept[-1] == rows[-1]
    assert kept[2:4] == rows[2:4]
    assert list(kept) == rows
    for name, value in {"a.json": kept, "b.json": rows}.items():
        write_report(tmp_path / name, value, {"complete": True}, [("x", "hidden")], seeds=True)
    told = json.loads((tmp_path / "a.json").read_text())
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    assert [row["file"] for row in told["files"]] == sorted(row.job.name for row in rows)
    assert len(told["faces"]) == 60


def test_memory_does_not_grow_with_what_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY", 1 << 17)
    journal, kept, count = Journal(tmp_path / "out"), Results(), 1000

    def work(some):
        for row in some:
            line = {"state": "done", "made_with": "x", "source": [1], "faces": list(row.faces), "seconds": {}}
            journal.add([(tmp_path / row.job.out_path, line)])
            kept.append(row)

    rows = made(count)
    work(islice(rows, 100))
    tracemalloc.start()
    try:
        work(rows)
        grown = tracemalloc.get_traced_memory()[0]
        write_report(tmp_path / "report.json", kept, {})
        journal.finish(keep_list=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = (tmp_path / "report.json").stat().st_size
    assert size > 1 << 20
    assert grown < size / 3
    assert peak < size / 2  # names and places, but not what was done
    rows = (tmp_path / "out" / OUTPUTS).read_text().splitlines()
    assert len(rows) == count
    assert not journal.path.exists()
