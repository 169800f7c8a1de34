"""Runs a training loop: schedule, checkpoints, averaged weights, metrics."""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from accelerate import Accelerator

from deid_diffusion.training.muon import Muon

log = logging.getLogger(__name__)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h


def parse_options(options: type, argv: list[str] | None, description: str) -> Any:
    """Turns a dataclass of options into command-line flags: `--learning-rate 1e-4` sets `learning_rate`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    hints = get_type_hints(options)
    for item in fields(options):
        flag = "--" + item.name.replace("_", "-")
        text = item.metadata.get("help", "")
        if hints[item.name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=item.default, help=text)
        else:
            required = item.default is MISSING
            default = None if required else item.default
            parser.add_argument(flag, type=hints[item.name], required=required, default=default, help=text)
    return options(**vars(parser.parse_args(argv)))


def option(default: Any, text: str) -> Any:
    """A dataclass field with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class RunOptions:
    """What every training script takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz")
    out: str = option("runs", "folder for the weights, the checkpoint and the metrics")
    minutes: float = option(60.0, "how long this call trains; the learning rate falls over it")
    steps: int = option(0, "stop after this many steps, 0 for no limit")
    resume: bool = option(False, "go on from the checkpoint in --out")
    start: str = option("", "folder of finished weights to start from; empty for a fresh start")
    batch: int = option(32, "crops a step and process")
    optimiser: str = option("adamw", "adamw, or muon: more per step where steps are few and dear")
    lr: float = option(1.5e-3, "peak learning rate")
    final_lr: float = option(0.0, "share of it that is left at the end of this call")
    weight_decay: float = option(0.02, "weight decay")
    ema: float = option(0.998, "decay of the averaged weights, which are what is saved")
    threads: int = option(0, "CPU threads, 0 for torch's choice")
    labels: str = option("", "npz with `key` and more attributes of the crops (glasses, facial_hair); empty for none")
    limit: int = option(0, "use only this many crops, 0 for all")
    seed: int = option(0, "seed of weights, draws and noise")
    save_every: float = option(120.0, "seconds between checkpoints")


def recipe(options: RunOptions) -> dict[str, Any]:
    """The options for the metrics file, without the folders of this machine."""
    values = asdict(options)
    return values | {
        name: Path(values[name]).name
        for name in ("data", "labels", "hand", "out", "start", "perceptual", "reader", "guide", "teacher", "critic")
        if name in values
    }


def begin(options: RunOptions) -> Accelerator:
    """Sets threads and the seed of the weights, and finds the device.

    Raises:
        ValueError: one of several processes that know nothing of each other: each would train, and overwrite the rest.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_memory()
    torch.manual_seed(options.seed)
    accelerator = Accelerator()
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what is not autocast
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, accelerate joined {accelerator.num_processes}: without a GPU set "
            "ACCELERATE_USE_CPU=true for torchrun"
        )
    return accelerator


def keep_memory() -> None:
    """Has the C library keep what is freed: fetching every activation anew from the system takes a tenth of a step.

    On 13 M parameters and batches of 8 on a CPU, 63 ms a crop became 58. Elsewhere than with glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for what, size in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 1 << 28)):
        mallopt(what, size)


class Average:
    """Exponential moving average of a module's floating-point state."""

    def __init__(self, module: torch.nn.Module, decay: float = 0.999):
        self.decay, self.count = decay, 0
        self.state = {k: v.detach().clone().float() for k, v in module.state_dict().items() if v.is_floating_point()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Takes a step towards the module's present weights."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        state = module.state_dict()
        # All at once: one launch for hundreds of small ones on a GPU.
        torch._foreach_lerp_(list(self.state.values()), [state[key].float() for key in self.state], 1 - decay)

    def to(self, device: torch.device) -> None:
        """Moves the averages to where the module is."""
        self.state = {key: value.to(device) for key, value in self.state.items()}

    def copy_to(self, module: torch.nn.Module) -> None:
        """Loads the averages into a module of the same shape."""
        state = module.state_dict()
        module.load_state_dict(state | {k: v.to(state[k].dtype) for k, v in self.state.items()})


def build_optimiser(module: torch.nn.Module, options: RunOptions) -> torch.optim.Optimizer:
    """The optimiser that the options name.

    Raises:
        ValueError: on another name.
    """
    kinds = {"adamw": torch.optim.AdamW, "muon": Muon}
    if options.optimiser not in kinds:
        raise ValueError(f"--optimiser must be one of {', '.join(kinds)}, got {options.optimiser!r}")
    return kinds[options.optimiser](
        module.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=options.weight_decay
    )


def fit(
    module: torch.nn.Module,
    loss_of: Callable[[torch.nn.Module, torch.Generator, int], torch.Tensor],
    options: RunOptions,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Trains until the minutes or steps are used up, checkpointing; leaves the averaged weights in `module`.

    Args:
        module: what is trained.
        loss_of: takes the module, a generator for every draw, and the step's number; returns the loss.
        options: schedule, checkpoints.
        accelerator: device, precision, processes.

    Returns:
        step, samples and minutes over all resumptions, and the smoothed loss.
    """
    optimiser = build_optimiser(module, options)
    path, average = Path(options.out) / "training.ckpt", Average(module, options.ema)
    before = {"step": 0, "samples": 0, "minutes": 0.0}
    if options.resume and path.exists():
        log.info("resuming from %s", path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(saved["module"])
        optimiser.load_state_dict(saved["optimiser"])
        average.state, average.count, before = saved["average"], saved["done"]["step"], saved["done"]
    model, optimiser = accelerator.prepare(module, optimiser)
    average.to(accelerator.device)
    # Processes draw different crops, and a resumed run new ones.
    generator = torch.Generator().manual_seed(options.seed + before["step"] + 1_000_003 * accelerator.process_index)
    started = saved_at = time.monotonic()
    step, smoothed, elapsed = 0, None, 0.0

    def done() -> dict[str, Any]:
        samples = before["samples"] + step * options.batch * accelerator.num_processes
        return {"step": before["step"] + step, "samples": samples, "minutes": before["minutes"] + elapsed}

    def checkpoint() -> None:
        if accelerator.is_main_process:
            state = {"module": accelerator.unwrap_model(model).state_dict(), "optimiser": optimiser.state_dict()}
            save_atomically(state | {"average": average.state, "done": done()}, path)

    while elapsed < options.minutes and (not options.steps or step < options.steps):
        progress = max(elapsed / options.minutes, step / options.steps if options.steps else 0)
        for group in optimiser.param_groups:
            share = options.final_lr + (1 - options.final_lr) * (1 - progress)
            group["lr"] = options.lr * min(1, (step + 1) / 50) * share
        with accelerator.autocast():
            loss = loss_of(model, generator, step)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update(accelerator.unwrap_model(model))
        # Stays on the device: to read it is to wait for the step.
        smoothed = loss.detach() if smoothed is None else torch.lerp(smoothed, loss.detach(), 0.02)
        step, elapsed = step + 1, (time.monotonic() - started) / 60
        if step % 50 == 0:
            speed = (done()["samples"] - before["samples"]) / 60 / elapsed
            log.info("%s  loss %.4f  %.1f crops/s", done(), float(smoothed), speed)
        if time.monotonic() - saved_at > options.save_every:
            saved_at = time.monotonic()
            checkpoint()
    checkpoint()
    average.copy_to(module)
    return done() | {"loss": None if smoothed is None else float(smoothed)}


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """`torch.save` that never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    os.replace(partial, path)


def write_json(values: dict[str, Any], path: Path) -> None:
    """Writes metrics, readable and stable in a diff."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
