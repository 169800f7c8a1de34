"""Seconds of `deid run photo.jpg` before the picture is touched: the whole command, less the picture's own stages.

    python benchmarks/startup.py [--repeats 5] [--imports]

Wall and CPU seconds of fresh processes, from a warm disk and with the graph in the cache (one unmeasured run makes
it), beside `import torch` in the same turns: other programs change seconds, and hardly the ratio.
"""

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from skimage.data import astronaut

RUN = ["-m", "deid_diffusion", "run"]


def timed(words: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a fresh Python."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def before_the_picture(folder: Path) -> tuple[float, float, float]:
    """Wall seconds before the picture is touched, those of the picture, and CPU seconds of all."""
    report = folder / "report.json"
    words = [*RUN, str(folder / "photo.png"), "-o", str(folder / "out.png"), "--overwrite", "--report", str(report)]
    wall, cpu = timed(words)
    picture = sum(json.loads(report.read_text())["files"][0]["seconds"].values())
    return wall - picture, picture, cpu


def imports(folder: Path) -> list[tuple[str, float]]:
    """Self seconds of imports by package, two names deep, the largest first (`-X importtime`)."""
    words = [sys.executable, "-X", "importtime", *RUN, str(folder / "photo.png"), "-o", str(folder / "out.png")]
    done = subprocess.run([*words, "--overwrite"], capture_output=True, text=True, check=True)
    total: collections.Counter[str] = collections.Counter()
    for line in done.stderr.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if line.startswith("import time:") and parts[0].strip().isdecimal():
            total[".".join(parts[2].strip().split(".")[:2])] += int(parts[0])
    return [(name, micro / 1e6) for name, micro in total.most_common(20)]


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--imports", action="store_true", help="also list what is imported")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(astronaut()[:256, 96:352]).save(folder / "photo.png")
        before_the_picture(folder)
        rows, torch = [], []
        for _ in range(options.repeats):
            rows.append(before_the_picture(folder))
            torch.append(timed(["-c", "import torch"]))
        before, picture, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        unit, unit_cpu = (statistics.median(column) for column in zip(*torch, strict=True))
        load = os.getloadavg()[0]
        print(f"load {load:.1f}, {options.repeats} turns; medians in seconds, in brackets by those of `import torch`")
        print(f"before the picture {before:.2f} ({before / unit:.2f})   picture {picture:.2f}")
        print(f"CPU, all {cpu:.2f} ({cpu / unit_cpu:.2f})   import torch {unit:.2f}, CPU {unit_cpu:.2f}")
        for name, seconds in imports(folder) if options.imports else ():
            print(f"{seconds:7.2f}  {name}")


if __name__ == "__main__":
    main()
