"""Keeps a training run alive: clock, checkpoints, averages, metrics."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch

log = logging.getLogger(__name__)


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


@dataclass
class Clock:
    """Counts the minutes of a run over all its resumptions."""

    minutes: float
    spent: float = 0.0

    def __post_init__(self):
        self.started = time.monotonic()
        self.before = self.spent

    def elapsed(self) -> float:
        """Minutes trained so far, in this call."""
        return (time.monotonic() - self.started) / 60

    def progress(self) -> float:
        """Share of this call's minutes that is used up, 0 to 1."""
        return min(1.0, self.elapsed() / self.minutes) if self.minutes > 0 else 1.0


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
        for key, value in module.state_dict().items():
            if key in self.state:
                self.state[key].lerp_(value.float(), 1 - decay)

    def copy_to(self, module: torch.nn.Module) -> None:
        """Loads the averages into a module of the same shape."""
        state = module.state_dict()
        module.load_state_dict(state | {k: v.to(state[k].dtype) for k, v in self.state.items()})


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """`torch.save` that never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from, or None for a fresh start."""
    if resume and path.exists():
        log.info("resuming from %s", path)
        return torch.load(path, map_location="cpu", weights_only=True)
    return None


def write_json(values: dict[str, Any], path: Path) -> None:
    """Writes metrics, readable and stable in a diff."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def every(seconds: float) -> Iterator[bool]:
    """Yields True when `seconds` have passed since it last did."""
    last = time.monotonic()
    while True:
        due = time.monotonic() - last >= seconds
        if due:
            last = time.monotonic()
        yield due
