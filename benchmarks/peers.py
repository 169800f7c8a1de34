"""Other face anonymizers on the same pictures in the same run: faces found, seconds, and faces that are left.

    python -m venv peers && peers/bin/pip install deface
    python benchmarks/peers.py photos/ --deface peers/bin/deface --yunet yunet_n_640_640.onnx

Each runs once on a copy of the folder, start and loading included. Ours is `deid run --method blank`, so that all of
them hide faces and none paints new ones. What is left is what a detector still finds in the output where it finds a
face in the source: YuNet, which none of them takes, and our thorough one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from detection import Boxes, ours, yunet

from deid_diffusion.imaging.pictures import load_picture

Hide = Callable[[Path, Path], list[Path]]  # a folder and an empty one -> the outputs, by their sources' names


def deid(detect: str) -> Hide:
    """Our command with that detector, in one process: the seconds of workers would be nobody's."""

    def hide(folder: Path, out: Path) -> list[Path]:
        words = ["run", folder, "-o", out, "--method", "blank", "--detect", detect, "--workers", "1"]
        run([sys.executable, "-m", "deid_diffusion", *words])
        return [out / path.name for path in sorted(folder.iterdir())]

    return hide


def deface(program: Path) -> Hide:
    """The command deface with its defaults, which writes beside its sources."""

    def hide(folder: Path, out: Path) -> list[Path]:
        sources = [Path(shutil.copy(path, out)) for path in sorted(folder.iterdir())]
        run([program, *sources])
        return [path.with_name(f"{path.stem}_anonymized{path.suffix}") for path in sources]

    return hide


def run(words: list[str | Path]) -> None:
    """Runs a command to its end.

    Raises:
        SystemExit: it failed, with the end of what it said.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"wanted outputs of {words[0]}, got exit code {done.returncode}: {done.stderr[-500:]}")


def left(judge: Boxes, source: np.ndarray, output: np.ndarray) -> tuple[int, int]:
    """How many faces the judge sees in the source, and at how many of these places still one in the output.

    Args:
        judge: finds boxes.
        source, output: (H, W, 3) uint8 RGB of one shape.
    """
    before, after = judge(source), judge(output)
    middle = (after[:, :2] + after[:, 2:]) / 2
    inside = [((middle > box[:2]) & (middle < box[2:])).all(1).any() for box in before]
    return len(before), int(sum(inside))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("photos", type=Path, help="folder of JPEG or PNG files")
    add("--deface", type=Path, help="the command deface of an environment that has it")
    add("--yunet", type=Path, required=True, help="YuNet's ONNX file of OpenCV's model zoo")
    options = parser.parse_args()
    peers = {f"deid, {name}": deid(name) for name in ("fast", "thorough")}
    if options.deface:
        peers["deface"] = deface(options.deface)
    judges = {"YuNet": yunet(options.yunet), "our thorough detector": ours("thorough")}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        folder.mkdir()
        for path in options.photos.iterdir():
            if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
                shutil.copy(path, folder)
        sources = sorted(folder.iterdir())
        for name, hide in peers.items():
            out = Path(place) / name.replace(", ", "_")
            out.mkdir()
            before = sum(os.times()[2:4])
            outputs = hide(folder, out)
            seconds = (sum(os.times()[2:4]) - before) / len(sources)
            pairs = [
                (load_picture(one).image, load_picture(two).image) for one, two in zip(sources, outputs, strict=True)
            ]
            counts = [np.sum([left(judge, *pair) for pair in pairs], axis=0) for judge in judges.values()]
            shares = " | ".join(f"{after} of {found}" for found, after in counts)
            rows.append(f"| {name} | {seconds:.2f} | {shares} |")
    print(f"{len(sources)} pictures\n")
    print(f"| tool | CPU s a picture | {' | '.join(f'faces left, by {name}' for name in judges)} |")
    print("\n".join(["|---|---|" + "---|" * len(judges), *rows]))


if __name__ == "__main__":
    main()
