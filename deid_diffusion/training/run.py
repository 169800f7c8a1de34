"""Runs a training loop: options, schedule, checkpoints, averaged weights, metrics."""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from deid_diffusion.training.muon import Muon

log = logging.getLogger(__name__)
# Options that had other names: a command line of before is answered with the new one.
RENAMED = {
    "reader": "estimator", "guide": "id_encoder", "teacher": "recogniser", "wish_weight": "counterfactual_weight",
    "wish_batch": "counterfactual_batch", "people": "identities", "looks": "photos_each", "most": "max_furrows",
    "share": "max_share", "temperature": "noise_scale", "tone_weight": "colour_weight",
}  # fmt: skip
# Options that are paths, of which only the last part goes into a metrics file.
FOLDERS = ("data", "labels", "hand", "out", "start", "perceptual", "estimator", "id_encoder", "recogniser", "critic")
CHECKPOINT = ("module", "optimiser", "ema", "done")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h


def run_command(options: type, work: Callable[[Any], Any], argv: list[str] | None, description: str | None) -> None:
    """The entry point of every command: parses its options, does its work, prints what that returned as JSON.

    Args:
        options: a dataclass of options.
        work: takes an instance of it.
        argv: the words after the command's name; sys.argv's by default.
        description: the module's docstring, whose first line heads the help.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    result = work(parse_options(options, argv, (description or "").partition("\n")[0]))
    if result is not None:
        print(json.dumps(result, indent=2, sort_keys=True))


def parse_options(options: type, argv: list[str] | None, description: str) -> Any:
    """Turns a dataclass of options into command-line flags: `--final-lr 0.1` sets `final_lr`.

    Args:
        options: the dataclass.
        argv: the words; None for the process's own.
        description: for `--help`.

    Returns:
        an instance of the dataclass.

    Raises:
        SystemExit: with code 2, on a wrong option; one that was renamed is answered with its new name.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    hints = get_type_hints(options)
    for item in fields(options):
        text = item.metadata.get("help", "")
        if hints[item.name] is bool:
            parser.add_argument(
                _flag(item.name), action=argparse.BooleanOptionalAction, default=item.default, help=text
            )
        else:
            required = item.default is MISSING
            default = None if required else item.default
            parser.add_argument(_flag(item.name), type=hints[item.name], required=required, default=default, help=text)
    given = {word.partition("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
    for old, new in RENAMED.items():
        if _flag(old) in given and old not in hints and new in hints:
            parser.error(f"{_flag(old)} is now called {_flag(new)}")
    return options(**vars(parser.parse_args(argv)))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def integers(text: str) -> tuple[int, ...]:
    """ "64,96" -> (64, 96).

    Raises:
        ValueError: another form.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"wanted whole numbers with commas between them, like 64,96; got {text!r}") from None


def option(default: Any, text: str) -> Any:
    """A dataclass field with its help text.

    Args:
        default: its value.
        text: for `--help`.
    """
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
    return {name: Path(value).name if name in FOLDERS else value for name, value in asdict(options).items()}


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


def averaged_state(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """All that is averaged, in the module's own memory: its parameters, and buffers such as batch statistics.

    `EMAModel` copies what needs no gradient instead of averaging it, so buffers are wrapped as parameters.
    """
    buffers = [torch.nn.Parameter(buffer) for buffer in module.buffers() if buffer.is_floating_point()]
    return [*module.parameters(), *buffers]


def build_optimiser(module: torch.nn.Module, options: RunOptions) -> torch.optim.Optimizer:
    """The optimiser that the options name.

    Args:
        module: what is trained.
        options: kind, learning rate and weight decay.

    Raises:
        ValueError: on another name.
    """
    kinds = {"adamw": torch.optim.AdamW, "muon": Muon}
    if options.optimiser not in kinds:
        raise ValueError(f"--optimiser must be one of {', '.join(kinds)}, got {options.optimiser!r}")
    return kinds[options.optimiser](
        module.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=options.weight_decay
    )


def run_training(
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

    Raises:
        ValueError: the checkpoint in --out is not of this version.
    """
    optimiser = build_optimiser(module, options)
    path = Path(options.out) / "training.ckpt"
    saved = read_checkpoint(path) if options.resume and path.exists() else None
    before = {"step": 0, "samples": 0, "minutes": 0.0}
    if saved:
        module.load_state_dict(saved["module"])
        optimiser.load_state_dict(saved["optimiser"])
        before = saved["done"]
    model, optimiser = accelerator.prepare(module, optimiser)
    ema = EMAModel(averaged_state(module), decay=options.ema, foreach=True)
    if saved:
        ema.load_state_dict(saved["ema"] | {"decay": options.ema})
        ema.to(accelerator.device)
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
            save_atomically(state | {"ema": ema.state_dict(), "done": done()}, path)

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
        ema.step(averaged_state(module))
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
    ema.copy_to(averaged_state(module))
    return done() | {"loss": None if smoothed is None else float(smoothed)}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `run_training` saved: the states of module, optimiser and averaged weights, and what was done.

    Raises:
        ValueError: it is not of this version.
    """
    log.info("resuming from %s", path)
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if not set(CHECKPOINT) <= set(saved):
        raise ValueError(f"{path} must hold {', '.join(CHECKPOINT)}, got {', '.join(saved)}; start without --resume")
    return saved


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """`torch.save` that never leaves half a file.

    Args:
        state: what to save.
        path: of the file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    os.replace(partial, path)


def write_json(values: dict[str, Any], path: Path) -> None:
    """Writes metrics, readable and stable in a diff.

    Args:
        values: by name.
        path: of the file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def save_trained(network: Any, folder: Path, metrics: dict[str, Any]) -> None:
    """Writes a network in half precision, which it is in afterwards, and its metrics beside the folder.

    Args:
        network: a model of diffusers or transformers.
        folder: for the network; `training.json` comes into the one around it.
        metrics: by name.
    """
    network.half().save_pretrained(folder, max_shard_size="15MB")
    write_json(metrics, folder.parent / "training.json")
