"""Faces a second by faces a model call, and where the time goes: decode, detect, read, generate, composite, encode.

    python benchmarks/throughput.py --device cuda --dtype bfloat16 --batches 8 32 128   # on a GPU
    python benchmarks/throughput.py --pictures 8 --batches 1 8                          # the same on a CPU

Pictures of one megapixel with one face each (scikit-image's astronaut on a plain ground), as JPEG files in and out, by
`FaceAnonymizer.map`, whose threads decode and encode beside the model.
"""

import argparse
import os
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.data import astronaut

from deid_diffusion import FaceAnonymizer
from deid_diffusion.imaging.pictures import load_picture

STAGES = ("decode", "detect", "read", "inpaint", "verify", "composite", "encode")


def make(folder: Path, count: int) -> list[Path]:
    """One-megapixel JPEGs with a face each, no two alike."""
    portrait, paths = astronaut()[:256, 96:352], []
    for number in range(count):
        canvas = np.full((1000, 1000, 3), 40 + number % 160, np.uint8)
        x, y = (number * 97) % 700, (number * 61) % 700
        canvas[y : y + 256, x : x + 256] = portrait
        paths.append(folder / f"{number:05}.jpg")
        Image.fromarray(canvas).save(paths[-1], quality=92)
    return paths


def run(anonymize: FaceAnonymizer, paths: list[Path], batch: int, threads: int, out: Path) -> tuple[float, Counter]:
    """Wall seconds of all pictures, and the seconds of each stage; those of threads overlap with the others."""
    spent: Counter[str] = Counter()
    turn = threading.Lock()

    def decoded():
        for path in paths:
            start = time.perf_counter()
            picture = load_picture(path)
            spent["decode"] += time.perf_counter() - start
            yield picture

    def save(number, result):
        start = time.perf_counter()
        result.save(out / f"{number:05}.jpg")
        with turn:
            spent["encode"] += time.perf_counter() - start

    pictures = paths if threads > 1 else decoded()  # decoding is timed when it is no thread's
    begin = time.perf_counter()
    for result in anonymize.map(pictures, seed=1, batch_size=batch, save=save, threads=threads):
        spent.update(result.seconds)
        spent["faces"] += len(result.faces)
    return time.perf_counter() - begin, spent


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--backend", default="auto", help="compile is torch.compile")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--threads", type=int, default=2, help="that decode, and as many that encode; 1 times decoding"
    )
    parser.add_argument("--pictures", type=int, default=64)
    options = parser.parse_args()
    anonymize = FaceAnonymizer.from_pretrained(device=options.device, dtype=options.dtype, backend=options.backend)
    device = anonymize.pipeline.unet.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, {options.dtype}, {anonymize.origin['backend']}, load {os.getloadavg()[0]:.1f}")
    print(f"{'batch':>5} {'faces/s':>8} " + " ".join(f"{stage:>9}" for stage in STAGES) + "   seconds a face by stage")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        out.mkdir()
        paths = make(Path(folder), options.pictures)
        list(anonymize.map(paths[: max(options.batches)][:2], seed=1))  # warm-up, and compilation
        for batch in options.batches:
            took, spent = run(anonymize, paths, batch, options.threads, out)
            faces = max(spent["faces"], 1)
            print(
                f"{batch:>5} {faces / took:8.2f} " + " ".join(f"{spent[s] / faces:9.4f}" for s in STAGES), flush=True
            )
    if device.type == "cuda":
        print(f"peak memory of the GPU {torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
