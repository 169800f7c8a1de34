"""Many tiny pictures on a Ray cluster of this machine: pictures a second, CPU seconds, and memory as the run goes on.

    python benchmarks/many.py [--pictures 100000] [--workers 1 2] [--seconds 600]

The pictures are noise of 48 px without a face, hidden by `--method blur`: what is measured is all that surrounds the
model. `--seconds` stops each run, as Ctrl-C does, and the report still is written.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

CHECKOUT = Path(__file__).parent.parent
CODE = "import sys; from deid_diffusion.cli import main; raise SystemExit(main(sys.argv[1:]))"
EVERY_S = 5


def make(folder: Path, count: int) -> None:
    """Writes the pictures, a thousand a folder: each has pixels of its own in a corner."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8)
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:03}").mkdir(parents=True)
        noise[0, :2].flat[:6] = list(number.to_bytes(6, "big"))
        Image.fromarray(noise).save(folder / f"{number // 1000:03}" / f"{number % 1000:03}.png", compress_level=1)


def go(folder: Path, out: Path, workers: int, limit: float) -> None:
    """One run; prints what it did, and its memory at the first picture, in the middle, and at its end."""
    report, words = out / "report.json", ["--method", "blur", "--ray", "local", "--seed", "1"]
    command = [sys.executable, "-c", CODE, "run", folder, "-o", out, "--report", report, "--workers", workers, *words]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    with open(out.with_suffix(".txt"), "w") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment, cwd=CHECKOUT)
    own, begin, rows = psutil.Process(process.pid), time.perf_counter(), []
    seconds: dict[int, float] = {}  # of CPU, by process
    while process.poll() is None:
        time.sleep(EVERY_S)
        done = out.with_suffix(".txt").read_bytes().count(b" -> ")
        with suppress(psutil.NoSuchProcess):
            for one in (own, *own.children(recursive=True)):
                seconds[one.pid] = sum(one.cpu_times()[:2])
            rows.append((time.perf_counter() - begin, done, own.memory_info().rss / 2**20, sum(seconds.values())))
        if rows and rows[-1][0] > limit:
            process.send_signal(signal.SIGINT)
            limit = float("inf")
    told = json.loads(report.read_text())
    good = sum(not row["error"] for row in told["files"])
    busy = [row for row in rows if 0 < row[1] < rows[-1][1]] or rows
    took, more, _, cpu_s = (last - first for first, last in zip(busy[0], busy[-1], strict=True))
    print(f"{workers} workers: {good} done in {rows[-1][0]:.0f} s, complete: {told['complete']}; once under way "
          f"{more / max(took, 1e-9):.1f} a second, {1000 * cpu_s / max(more, 1):.1f} CPU ms each in all processes; "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    for at, done, memory, _ in (busy[0], busy[len(busy) // 2], busy[-1]):
        print(f"  after {at:5.0f} s {done:7} pictures, memory of the run {memory:.0f} MiB", flush=True)


def main() -> None:
    """Makes the pictures, and runs once for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        begin = time.perf_counter()
        make(Path(name) / "in", options.pictures)
        print(f"{options.pictures} pictures made in {time.perf_counter() - begin:.0f} s", flush=True)
        for workers in options.workers:
            go(Path(name) / "in", Path(name) / f"out{workers}", workers, options.seconds)


if __name__ == "__main__":
    main()
