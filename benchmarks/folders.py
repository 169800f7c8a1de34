"""Pictures a minute of `deid run FOLDER`: with workers, with one, two runs at once, and by another checkout.

    python benchmarks/folders.py PHOTOS [--pictures 16] [--turns 3] [--ray] [--against OTHER_CHECKOUT]

All take turns, each in a fresh process that starts and loads the model, on copies of the first pictures of a folder.
Wall seconds depend on what else runs; CPU seconds (of the run and its workers) hardly. Read the ratios. Ray's workers
are nobody's children: of them only wall seconds are known.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

CHECKOUT = Path(__file__).parent.parent
CODE = "import sys; from deid_diffusion.cli import main; raise SystemExit(main(sys.argv[1:]))"


def start(folder: Path, out: Path, checkout: Path, words: list[str]) -> subprocess.Popen:
    """`deid run folder -o out` in a fresh process."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", CODE, "run", str(folder), "-o", str(out), "--seed", "1", *words]
    own = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    return subprocess.Popen(command, env=own | {"PYTHONPATH": str(checkout)}, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, cwd=checkout)  # fmt: skip


def end(process: subprocess.Popen) -> float:
    """CPU seconds of a process and its workers, once it has ended."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a run ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Prints medians, and ratios to the first row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", type=int, default=768, help="pictures are made smaller, to this many pixels")
    parser.add_argument("--against", type=Path, help="another checkout, run without --workers")
    parser.add_argument("--quick", action="store_true", help="no two runs at once")
    parser.add_argument("--ray", action="store_true", help="also one and two actors of a Ray cluster of this machine")
    options = parser.parse_args()
    kinds = {"one worker": (CHECKOUT, ["--workers", "1"], 1), "two workers": (CHECKOUT, ["--workers", "2"], 1)}
    kinds["two runs at once, two workers each"] = (CHECKOUT, ["--workers", "2"], 2)
    if options.against is not None:
        kinds = {"the other checkout": (options.against, [], 1)} | kinds
        kinds["two runs at once of the other"] = (options.against, [], 2)
    if options.ray:
        ray = ["--ray", "local", "--workers"]
        kinds |= {f"Ray, {n} actor{'s' * (n > 1)}": (CHECKOUT, [*ray, str(n)], 1) for n in (1, 2)}
    if options.quick:
        kinds = {name: kind for name, kind in kinds.items() if kind[2] == 1}
    found = [path for path in sorted(options.photos.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        folder.mkdir()
        for number, path in enumerate(found[: options.pictures]):
            picture = Image.open(path).convert("RGB")
            picture.thumbnail((options.side, options.side))
            picture.save(folder / f"{number:03}.png")
        one = Path(name) / "one"
        one.mkdir()
        shutil.copy(folder / "000.png", one)
        for checkout in {checkout for checkout, _, _ in kinds.values()}:
            end(start(one, Path(name) / "out0", checkout, []))  # exports the graph
        for _ in range(options.turns):
            for kind, (checkout, words, runs) in kinds.items():
                begin = time.perf_counter()
                processes = [start(folder, Path(name) / f"out{one}", checkout, words) for one in range(runs)]
                cpu = sum(end(process) for process in processes)
                took = time.perf_counter() - begin
                rows[kind].append((took / runs / options.pictures, cpu / runs / options.pictures))
                print(f"{kind}: {took:.1f} s, CPU {cpu:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    print(f"\nseconds a picture, medians of {options.turns} turns of {options.pictures} pictures, start included")
    first = next(iter(rows.values()))
    unit = [statistics.median(column) for column in zip(*first, strict=True)]
    for kind, values in rows.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{kind:40} wall {wall:6.2f} ({unit[0] / wall:.2f} x)   CPU {cpu:6.2f} ({unit[1] / cpu:.2f} x)")


if __name__ == "__main__":
    main()
