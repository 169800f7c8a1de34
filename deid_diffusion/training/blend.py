"""Averages the weights of a painter before and after a fine-tune: most of what each is good at, in one.

    deid train blend --before runs/inpaint --after runs/distill --share 0.6 --out runs/blend

A run of wishes makes a painter obey and costs it some likeness to photos. On the straight line between the two sets of
weights, what it learned comes sooner than what it lost goes (Wortsman et al. 2022, "Robust fine-tuning of zero-shot
models").
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from deid_diffusion.training.run import option, parse_options, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What `deid train blend` takes."""

    before: str = option("runs/inpaint", "folder that a training script wrote, with unet/ and scheduler/")
    after: str = option("runs/distill", "folder of the fine-tune that started there; its scheduler is kept")
    share: float = option(0.6, "0 = before, 1 = after")
    out: str = option("runs/blend", "folder for the unet, the scheduler and the metrics of both")


def blend(options: Options) -> None:
    """Writes `out/unet`, `out/scheduler` and `out/training.json`.

    Raises:
        ValueError: a share outside of [0, 1], or unets of different shapes.
    """
    if not 0 <= options.share <= 1:
        raise ValueError(f"--share must lie in [0, 1], got {options.share}")
    before, after, out = Path(options.before), Path(options.after), Path(options.out)
    unets = [UNet2DConditionModel.from_pretrained(run / "unet", dtype=torch.float32) for run in (before, after)]
    first, second = (unet.state_dict() for unet in unets)
    differ = sorted(
        name
        for name in first.keys() | second.keys()
        if name not in first or name not in second or first[name].shape != second[name].shape
    )
    if differ:
        raise ValueError(f"{before} and {after} hold unets of different shapes; {len(differ)} differ, as {differ[0]}")
    unets[1].load_state_dict({name: torch.lerp(first[name], second[name], options.share) for name in first})
    unets[1].half().save_pretrained(out / "unet", max_shard_size="15MB")
    shutil.copytree(after / "scheduler", out / "scheduler", dirs_exist_ok=True)
    metrics = {
        name: json.loads((run / "training.json").read_text()) for name, run in (("before", before), ("after", after))
    }
    write_json(metrics | {"share": options.share}, out / "training.json")


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    blend(parse_options(Options, argv, __doc__.splitlines()[0]))


if __name__ == "__main__":
    main()
