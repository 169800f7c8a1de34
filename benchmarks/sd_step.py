"""Seconds a step and memory of the full-size Stable Diffusion 1.5 unet, with random weights, beside face256.

    python benchmarks/sd_step.py [--dtypes fp32,bf16] [--limit 600] [--json benchmarks/sd_step.json]

Each model and precision runs in a process of its own, so that a precision that is emulated (bf16 without AVX-512 or
AMX) is stopped after `--limit` seconds and reported as slower than that. CPU seconds stand beside the clock's: on a
machine that others use too, the clock measures them as well. Memory is estimated on the meta device:
weights by component, and the peak of activations that live at once in one forward, attention matrices left out as
SDPA and xformers do. Needs 3.4 GB of memory for fp32.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CHECKOUT = Path(__file__).parent.parent
FACTS = json.loads((CHECKOUT / "tests" / "pipelines" / "sd_published.json").read_text())
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GIB = 2**30


class LivePeak(TorchDispatchMode):
    """Counts the bytes of tensors made inside it that live at once; `peak` is the most there were.

    Weights come back as outputs too, when they are transposed, and are not counted.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.weights = {StorageWeakRef(weight.untyped_storage()) for weight in model.parameters()}
        self.live: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if StorageWeakRef(storage) not in self.weights:
                    self.live.setdefault(StorageWeakRef(storage), storage.nbytes())
        self.live = {ref: size for ref, size in self.live.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self.live.values()))
        return out


def sd_unet(device: str, dtype: torch.dtype):
    """The inpainting unet of Stable Diffusion 1.5 with random weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(FACTS["sd15_inpaint"]["unet"]).to(dtype).eval()
    if device == "meta":
        return unet
    # A million random numbers over and over: drawing 860 million takes longer than the step.
    noise = (0.02 * torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))).to(dtype)
    with torch.no_grad():
        for weight in unet.to_empty(device=device).parameters():
            flat = weight.view(-1)
            for start in range(0, len(flat), len(noise)):
                flat[start : start + len(noise)] = noise[: len(flat) - start]
    return unet


def sd_call(unet, size: int, dtype: torch.dtype):
    """One forward of it on a crop of `size` pixels."""
    device = unet.device
    inputs = torch.zeros(1, 9, size // 8, size // 8, device=device, dtype=dtype)
    words = torch.zeros(1, 77, 768, device=device, dtype=dtype)
    t = torch.zeros((), device=device)
    return lambda: unet(inputs, t, words, return_dict=False)[0]


def face_call(dtype: torch.dtype):
    """One forward of face256's unet, from its weights or, before there are any, from its training defaults."""
    from diffusers import UNet2DConditionModel

    folder = CHECKOUT / "weights" / "face256" / "unet"
    if folder.exists():
        unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=dtype).eval()
    else:
        from deid_diffusion.training.inpaint import Options, build_unet

        unet = build_unet(tuple(int(c) for c in Options().channels.split(",")), Options().layers).to(dtype).eval()
    cells = unet.config.sample_size
    inputs = torch.zeros(1, unet.config.in_channels, cells, cells, dtype=dtype)
    vector = torch.zeros(1, unet.config.projection_class_embeddings_input_dim, dtype=dtype)
    return lambda: unet(inputs, 500.0, None, class_labels=vector, return_dict=False)[0]


def guidance_call(size: int, dtype: torch.dtype):
    """What repulsion adds to a step: decode x0 by TAESD, embed it, and go back to x0. Random weights."""
    from diffusers import AutoencoderTiny

    from deid_diffusion.pipelines.id_encoder import embed
    from deid_diffusion.training.id_encoder import Options
    from deid_diffusion.training.resnet import build_resnet
    from deid_diffusion.training.run import integers

    tiny = AutoencoderTiny.from_config(FACTS["taesd"]["preview_vae"]).to(dtype).eval()
    id_encoder = build_resnet(integers(Options().widths), 256).eval()

    def guidance():
        x0 = torch.zeros(1, 4, size // 8, size // 8, requires_grad=True)
        with torch.enable_grad():
            energy = embed(id_encoder, tiny.decode(x0.to(dtype)).sample.float()).sum()
        return torch.autograd.grad(energy, x0)[0]

    return guidance


def measure(what: str, dtype: str, size: int, repeats: int) -> tuple[float, float]:
    """Median seconds of one call by the clock and of CPU, after an unmeasured call unless there is to be just one."""
    makers = {
        "sd15": lambda: sd_call(sd_unet("cpu", DTYPES[dtype]), size, DTYPES[dtype]),
        "face256": lambda: face_call(DTYPES[dtype]),
        "repulsion": lambda: guidance_call(size, DTYPES[dtype]),
    }
    call, times = makers[what](), []
    with torch.no_grad():
        for _ in range(repeats + (repeats > 1)):
            start, cpu = time.perf_counter(), time.process_time()
            call()
            times.append((time.perf_counter() - start, time.process_time() - cpu))
    wall, cpu = zip(*times[repeats > 1 :], strict=True)
    return statistics.median(wall), statistics.median(cpu)


def in_own_process(what: str, dtype: str, options: argparse.Namespace) -> tuple[float, ...] | None:
    """The measurement in a new process; None when it takes longer than the limit."""
    repeats = 1 if what == "sd15" else 3 * options.repeats
    command = [sys.executable, __file__, "--one", what, "--dtypes", dtype, "--size", str(options.size)]
    command += ["--repeats", str(repeats), "--threads", str(options.threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.limit, check=True)
    except subprocess.TimeoutExpired:
        return None
    return tuple(float(word) for word in done.stdout.split()[-2:])


def repulsion_share(times: dict[str, tuple[float, ...] | None]) -> float | None:
    """Of the CPU seconds of a step of Stable Diffusion without guidance and with repulsion on the detached x0."""
    if times["repulsion"] is None or times["sd15"] is None:
        return None
    return times["repulsion"][1] / (times["repulsion"][1] + times["sd15"][1])


def memory(checkpoint: str, bytes_each: int) -> dict[str, float]:
    """GiB of one checkpoint at its own size: weights, activations of a unet forward and of the decode, peaks."""
    counts = {**FACTS[checkpoint]["parameters"], **FACTS["taesd"]["parameters"]}
    weights = {name: count * bytes_each / GIB for name, count in counts.items()}
    acts = activations(checkpoint, {2: torch.float16, 4: torch.float32}[bytes_each])
    # The tiny vae stays on the device; the others come when they are called, and the one before leaves.
    alone = {name: weights["preview_vae"] + weights[name] + acts.get(name, 0) for name in weights}
    return {
        "weights": sum(weights.values()),
        "unet activations": acts["unet"],
        "vae activations": acts["vae"],
        "peak, all on the device": sum(weights.values()) + max(acts.values()),
        "peak, model offload": max(alone.values()),
    }


def activations(checkpoint: str, dtype: torch.dtype) -> dict[str, float]:
    """GiB of activations that live at once in one unet forward and in one decode of the vae, for one face."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    facts = FACTS[checkpoint]["unet"]
    whole = torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.scaled_dot_product_attention = lambda query, *_args, **_options: torch.empty_like(query)
    try:
        with torch.device("meta"), torch.no_grad():
            unet = UNet2DConditionModel.from_config(facts).to(dtype)
            vae = AutoencoderKL.from_config(FACTS[checkpoint]["vae"]).to(dtype)
            latents = torch.zeros(1, facts["in_channels"], facts["sample_size"], facts["sample_size"], dtype=dtype)
            words = torch.zeros(1, 77, facts["cross_attention_dim"], dtype=dtype)
            added = {"text_embeds": torch.zeros(1, 1280, dtype=dtype), "time_ids": torch.zeros(1, 6, dtype=dtype)}
            added = added if facts.get("addition_embed_type") else None
            with LivePeak(unet) as forward:
                unet(latents, torch.zeros(()), words, added_cond_kwargs=added)
            with LivePeak(vae) as decode:
                vae.decode(latents[:, :4])
    finally:
        torch.nn.functional.scaled_dot_product_attention = whole
    return {"unet": forward.peak / GIB, "vae": decode.peak / GIB}


def main() -> None:
    """Prints the tables; `--json` writes them too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", default="fp32,bf16", help="precisions to time, of fp32, bf16, fp16")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which one measurement is given up")
    parser.add_argument("--size", type=int, default=512, help="side of the crop in pixels")
    parser.add_argument("--repeats", type=int, default=1, help="times three for the small models, once for the large")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.one:
        print(*measure(options.one, options.dtypes, options.size, options.repeats))
        return
    seconds = {}
    for dtype in options.dtypes.split(","):
        seconds[dtype] = {what: in_own_process(what, dtype, options) for what in ("face256", "repulsion", "sd15")}
        for what, value in seconds[dtype].items():
            took = f"more than {options.limit:.0f} s"
            if value is not None:
                took = f"{value[0]:.2f} s, of CPU {value[1]:.2f} s"
            print(f"{dtype} {what:<10} {took}", flush=True)
        share = repulsion_share(seconds[dtype])
        if share is not None:
            print(f"{dtype} repulsion's share of a guided step: {share:.0%} of the CPU seconds", flush=True)
    sizes = {"fp32": 4, "fp16 or bf16": 2}
    table = {c: {name: memory(c, b) for name, b in sizes.items()} for c in ("sd15_inpaint", "sdxl_inpaint")}
    for checkpoint, rows in table.items():
        for name, row in rows.items():
            print(f"{checkpoint} {name}: " + ", ".join(f"{key} {value:.2f} GiB" for key, value in row.items()))
    figures = {"size": options.size, "columns": ["wall", "cpu"], "seconds": seconds}
    figures |= {"share": {dtype: repulsion_share(times) for dtype, times in seconds.items()}, "gib": table}
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
