"""Runs `deid train`: hands the rest of the command line to a training script."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from . import complain

_SCRIPTS = (
    *("inpaint", "reader", "reader_head", "id_encoder", "distill", "blend", "label", "pack", "audition"),
    "synthesize",
)


def main(argv: list[str]) -> int:
    """`deid train NAME OPTIONS...` is `deid_diffusion.training.NAME.main(OPTIONS)`."""
    folder = Path(__file__).parent.parent / "training"
    names = [name for name in _SCRIPTS if (folder / f"{name}.py").exists()]
    if argv and argv[0] in names:
        return import_module(f"deid_diffusion.training.{argv[0]}").main(argv[1:]) or 0
    if argv and argv[0] in ("-h", "--help"):
        print(
            f"usage: deid train {{{','.join(names)}}} OPTIONS...\n\n`deid train NAME --help` lists the options of one."
        )
        return 0
    return complain(f"wanted one of {', '.join(names)} to train, got {argv[0] if argv else 'nothing'}", 2)
