"""Worker processes are real here, and so is what kills them; only the anonymizer in them is the tests'."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from deid_diffusion import FaceAnonymizer
from deid_diffusion.imaging.pictures import load_picture
from deid_diffusion.jobs import machine, workers
from deid_diffusion.jobs.journal import NAME, Journal
from deid_diffusion.jobs.plan import plan
from deid_diffusion.jobs.run import Job, JobsStopped, run
from deid_diffusion.jobs.workers import count_workers, spread
from deid_diffusion.settings import Settings

from ..fakes import Inverter, photo

CHECKOUT = Path(__file__).parent.parent.parent


class Deadly(Inverter):
    """Its process is killed at b.png, the first time only, and at c.png always; d.png fills the disk."""

    def __init__(self, marks: Path):
        super().__init__()
        self.marks = marks

    def __call__(self, image, seed=0, boxes=None, settings=None):
        times = self.marks / image.name
        count = len(times.read_text()) if times.exists() else 0
        times.write_text("x" * (count + 1))
        if image.name == "c.png" or (image.name == "b.png" and not count):
            os.kill(os.getpid(), signal.SIGKILL)
        if image.name == "d.png":
            raise OSError(28, "No space left on device")
        if image.name == "slow.png":
            time.sleep(60)
        return super().__call__(image, seed, boxes, settings)


class NoModel(Inverter):
    """Cannot be loaded by a worker."""

    def __reduce__(self):
        return _fail, ()


def _fail():
    raise MemoryError("no room for the model")


def tree(folder: Path, names: str) -> Path:
    for name in names.split():
        photo(folder / "in" / name)
    return folder / "in"


def work(source: Path, out: Path, anonymize, count: int = 2) -> list:
    planned = plan([source], out, seed=5)
    spreading = partial(spread, count, "cpu")
    return list(run(planned.jobs, anonymize, Settings(), Journal(planned.folder), map=spreading))


def test_workers_make_what_one_process_makes_past_a_killed_one(tmp_path):
    source = tree(tmp_path, "a.png b.png e.png sub/f.png g.png c.png")
    marks = tmp_path / "marks"
    marks.mkdir()
    results = work(source, tmp_path / "out", Deadly(marks))
    alone = work(source, tmp_path / "alone", Inverter(), 1)
    assert sorted(result.job.name for result in results) == sorted(result.job.name for result in alone)
    failed = [result for result in results if not result.ok]
    assert [result.job.name for result in failed] == ["c.png"]
    assert "was ended by signal 9, twice; nothing was written" in failed[0].error
    assert {name: (marks / name).read_text() for name in ("a.png", "b.png", "c.png")} == {
        "a.png": "x",
        "b.png": "xx",
        "c.png": "xx",
    }
    faces = {result.job.name: result.faces for result in results}
    for one in alone:
        name = one.job.name
        if name != "c.png":
            assert faces[name] == one.faces
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert not (tmp_path / "out" / "c.png").exists()
    rows = [json.loads(row) for row in (tmp_path / "out" / NAME).read_text().splitlines() if row]
    assert sorted(row["out"] for row in rows if row.get("state") == "done") == sorted(faces.keys() - {"c.png"})
    assert multiprocessing.active_children() == []
    again = Inverter()
    assert sum(result.earlier for result in work(source, tmp_path / "out", again, 1)) == 5
    assert [call[0] for call in again.calls] == ["c.png"]


def test_a_full_disk_in_a_worker_stops_the_run_and_all_workers(tmp_path):
    source = tree(tmp_path, "a.png d.png slow.png")
    start = time.monotonic()
    with pytest.raises(JobsStopped, match="No space left"):
        work(source, tmp_path / "out", Deadly(tmp_path), 3)
    assert time.monotonic() - start < 55  # nobody waited for the slow one
    assert multiprocessing.active_children() == []


def test_workers_that_cannot_load_the_model_end_the_run_with_the_reason(tmp_path):
    source = tree(tmp_path, "a.png b.png")
    with pytest.raises(JobsStopped, match="MemoryError: no room for the model; give fewer --workers"):
        work(source, tmp_path / "out", NoModel())
    assert not (tmp_path / "out" / "a.png").exists()


PARENT = """
import sys
from pathlib import Path
from tests.jobs.test_workers import Deadly, work
if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]), Deadly(Path(sys.argv[3])))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_run(tmp_path, sent):
    source = tree(tmp_path, "a.png slow.png")
    heed = "import signal as s; s.signal(s.SIGINT, s.default_int_handler)"
    process = subprocess.Popen(
        [sys.executable, "-c", heed + PARENT, source, tmp_path / "out", tmp_path], cwd=CHECKOUT,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not (tmp_path / "slow.png").exists() or not (tmp_path / "out" / "a.png").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does
    else:
        process.kill()
    err = process.communicate(timeout=60)[1]
    _gone, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    assert err.count("Traceback") == (1 if sent == signal.SIGINT else 0), err  # the run's own, and no worker's
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [NAME, "a.png"]


def test_how_many_workers(monkeypatch):
    pictures = [Job(Path(f"{n}.png"), Path(f"{n}.out.png"), n) for n in range(40)]
    clip = [Job(Path("c.mp4"), Path("c.out.mp4"), 0)]
    monkeypatch.setattr(workers, "cores", lambda: 4)
    monkeypatch.setattr(workers, "own_memory", lambda: 1 << 30)
    monkeypatch.setattr(workers, "free_memory", lambda: 100 << 30)
    assert count_workers(None, pictures) == 4
    assert count_workers(None, pictures[:3]) == 1  # loading the model again takes longer
    assert count_workers(None, clip) == 1
    assert count_workers(None, pictures[:6]) == 4
    assert count_workers(None, clip + pictures[:1]) == 2
    assert count_workers(None, pictures, "cuda:1") == 1
    assert count_workers(3, pictures, "cuda") == 3
    assert count_workers(9, pictures[:2]) == 2
    assert count_workers(None, []) == 1
    monkeypatch.setattr(workers, "free_memory", lambda: 4 << 30)
    assert count_workers(None, pictures) == 2
    monkeypatch.setattr(workers, "free_memory", lambda: 0)
    assert count_workers(None, pictures) == 1


def test_a_container_s_limits_count(tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert machine.cores(tmp_path) == min(2, machine.cores(tmp_path / "none"))
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cores(tmp_path) == machine.cores(tmp_path / "none")
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 250000\n")
    assert machine.free_memory(tmp_path) == 750000
    assert machine.free_memory(tmp_path / "none") > 750000
    assert machine.own_memory() > 10 << 20


def test_an_anonymizer_travels_as_its_spec(tmp_path, weights, astronaut):
    anonymize = FaceAnonymizer.from_pretrained(backend="torch")
    again = pickle.loads(pickle.dumps(anonymize))
    assert again.spec == anonymize.spec
    assert (again(astronaut, seed=3).image == anonymize(astronaut, seed=3).image).all()
    by_hand = FaceAnonymizer(anonymize.pipeline, anonymize.estimator, anonymize.bank, anonymize.thresholds)
    with pytest.raises(pickle.PicklingError, match="put together by hand"):
        pickle.dumps(by_hand)


@pytest.mark.parametrize("method", ["inpaint"])
def test_the_shipped_model_paints_the_same_in_workers(tmp_path, weights, astronaut, method):
    from PIL import Image

    from deid_diffusion import cli

    portrait = astronaut[:256, 96:352]
    for name, picture in {"a.png": portrait, "b.png": portrait[:, ::-1]}.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / "in" / name)
    for count in (1, 2):
        words = ["run", tmp_path / "in", "-o", tmp_path / str(count), "--seed", 4, "--workers", count]
        assert cli.main([*map(str, words), "--report", str(tmp_path / f"{count}.json")]) == 0
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    assert one["faces"] == two["faces"]
    assert [face["outcome"] for face in one["faces"]] == ["replaced", "replaced"]
    for name in ("a.png", "b.png"):
        pixels = [load_picture(tmp_path / str(count) / name).image for count in (1, 2)]
        assert (pixels[0] == pixels[1]).all()
