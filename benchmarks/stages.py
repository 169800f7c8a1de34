"""Seconds and peak memory by stage for 1, 4 and 16 faces, as ratios to one unet forward of the same run.

    python benchmarks/stages.py [--json benchmarks/stages.json]

The picture is made here: scikit-image's astronaut, tiled. Absolute seconds depend on the machine and on what else
runs on it; the ratios much less. Every figure is the median of the repetitions.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from skimage.data import astronaut

from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.pipelines.repulsion import Repulsion
from deid_diffusion.settings import Settings

STAGES = ("detect", "read", "inpaint", "verify", "composite")


def portrait_grid(faces: int) -> np.ndarray:
    """A grid of the same portrait, `faces` times."""
    portrait = astronaut()[0:256, 96:352]
    across = int(np.ceil(np.sqrt(faces)))
    down = -(-faces // across)
    return np.tile(portrait, (down, across, 1))


def median_seconds(call, repeats: int) -> float:
    """Median wall time of a call, after one unmeasured call."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def unet_forward(anonymize: FaceAnonymizer, repeats: int) -> float:
    """Seconds of one unet forward for one face: the unit of everything below."""
    unet = anonymize.pipeline.unet
    cells = unet.config.sample_size
    noise = torch.randn(1, unet.config.in_channels, cells, cells)
    vector = torch.zeros(1, unet.config.projection_class_embeddings_input_dim)
    with torch.no_grad():
        return median_seconds(lambda: unet(noise, 500.0, None, class_labels=vector), 5 * repeats)


def stages(anonymize: FaceAnonymizer, faces: int, settings: Settings, repeats: int) -> dict[str, float]:
    """Median seconds by stage. The threshold accepts everything, so that nobody is generated in a second round."""
    picture, rows = portrait_grid(faces), []
    for _ in range(repeats):
        result = anonymize(picture, settings=settings)
        if len(result.faces) != faces:
            raise SystemExit(f"expected {faces} faces, the detector found {len(result.faces)}")
        rows.append(result.seconds)
    return {stage: statistics.median(row[stage] for row in rows) for stage in STAGES}


def start_up() -> dict[str, float]:
    """Seconds of fresh processes: help, import, and the first result (from which the imports are to be taken off)."""
    code = {
        "deid --help": "import sys; sys.argv=['deid','--help']; from deid_diffusion.cli import main; main()",
        "imports": "import deid_diffusion.anonymizer",
        "imports and loading": "from deid_diffusion import FaceAnonymizer; FaceAnonymizer.from_pretrained()",
    }
    seconds = {}
    for name, line in code.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", line], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        seconds[name] = min(times)
    return seconds


def main() -> None:
    """Prints the tables; `--json` writes them too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, help="denoising steps (the default of deid run)")
    parser.add_argument("--candidates", type=int, help="faces generated for each one (the default of deid run)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    parser.add_argument("--backend", default="auto", help="what runs the unet; the unit is torch's forward always")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    anonymize = FaceAnonymizer.from_pretrained(backend=options.backend)
    anonymize(portrait_grid(1))
    unit = unet_forward(anonymize, options.repeats)
    print(
        f"one unet forward: {unit * 1e3:.0f} ms on {torch.get_num_threads()} threads; below, in unet forwards a face\n"
    )
    print(f"{'faces':>5} {'repulsion':>12} " + " ".join(f"{s:>10}" for s in STAGES) + f" {'s a face':>10}")
    forms = {"off": Repulsion(scale=0), "detached": Repulsion(), "through": Repulsion(through_unet=True)}
    table = []
    for faces in (1, 4, 16):
        for name, repulsion in forms.items():
            if name == "through" and faces > 1:
                continue
            settings = Settings(steps=options.steps, candidates=options.candidates, repulsion=repulsion, threshold=2.0)
            got = stages(anonymize, faces, settings, options.repeats)
            total = sum(got.values()) / faces
            print(
                f"{faces:>5} {name:>12} "
                + " ".join(f"{got[s] / faces / unit:10.2f}" for s in STAGES)
                + f" {total:10.2f}"
            )
            table.append({"faces": faces, "repulsion": name, "seconds_a_face": total,
                          "ratios": {s: got[s] / faces / unit for s in STAGES}})  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    starts = start_up()
    print(f"\npeak memory so far {peak:.0f} MiB")
    for name, seconds in starts.items():
        print(f"{name:>22}: {seconds:.2f} s")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"unet_forward_s": unit, "table": table, "peak_mib": peak, "start_up_s": starts}, file, indent=2)


if __name__ == "__main__":
    main()
