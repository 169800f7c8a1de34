"""The unet's forward by torch and by ONNX Runtime: seconds a face, as a ratio to torch in the same run.

    python benchmarks/backends.py [--threads 2] [--json benchmarks/backends.json]

The two take turns, call by call, and the medians are compared, so that whatever else the machine does meets both
alike. CPU seconds are told beside the clock's: they hardly depend on other processes.
"""

import argparse
import json
import statistics
import time

import torch

from deid_diffusion.models.backends import _example, use_backend
from deid_diffusion.models.loading import load_pipeline
from deid_diffusion.weight_files import weights_dir


def clocks() -> tuple[float, float]:
    """Seconds of the wall clock, and of this process on all cores."""
    return time.perf_counter(), time.process_time()


def take_turns(calls: dict, repeats: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of each call, after one unmeasured call of each."""
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name, call in calls.items():
            before = clocks()
            call()
            if number:
                rows[name].append(tuple(b - a for a, b in zip(before, clocks(), strict=True)))
    return {name: tuple(statistics.median(column) for column in zip(*got, strict=True)) for name, got in rows.items()}


@torch.no_grad()
def measure(unet: torch.nn.Module, batch: int, repeats: int) -> dict[str, float]:
    """One row of the table."""
    inputs = _example(unet, batch)
    calls = {
        "torch": lambda: unet.forward.torch_forward(*inputs, return_dict=False)[0],
        "onnx": lambda: unet.forward(*inputs, return_dict=False)[0],
    }
    apart = (calls["torch"]() - calls["onnx"]()).abs().max().item()
    took = take_turns(calls, repeats)
    row = {"batch": batch, "repeats": repeats, "apart": apart}
    for name, (wall, cpu) in took.items():
        row |= {f"{name}_wall_s_a_face": wall / batch, f"{name}_cpu_s_a_face": cpu / batch}
    ratios = [took["onnx"][clock] / took["torch"][clock] for clock in (0, 1)]
    return row | {"wall_ratio": ratios[0], "cpu_ratio": ratios[1]}


def main() -> None:
    """Prints the table; `--json` writes it too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipe = load_pipeline(weights_dir("face256"))
    backend = use_backend(pipe, "onnx")
    rows = []
    print(f"torch {torch.__version__}, {backend}, {options.threads} threads")
    print("batch  torch ms a face (CPU)   onnx ms a face (CPU)   ratio (CPU)   largest difference")
    for batch in options.batches:
        row = measure(pipe.unet, batch, options.repeats)
        rows.append(row)
        ms = {name: 1e3 * row[name] for name in row if name.endswith("_s_a_face")}
        print(
            f"{batch:5d}  {ms['torch_wall_s_a_face']:10.0f} ({ms['torch_cpu_s_a_face']:.0f})"
            f"  {ms['onnx_wall_s_a_face']:16.0f} ({ms['onnx_cpu_s_a_face']:.0f})"
            f"  {row['wall_ratio']:12.2f} ({row['cpu_ratio']:.2f})  {row['apart']:15.1e}",
            flush=True,
        )
    if options.json:
        about = {"torch": torch.__version__, "backend": backend, "threads": options.threads}
        with open(options.json, "w") as file:
            json.dump(about | {"table": rows}, file, indent=2)


if __name__ == "__main__":
    main()
