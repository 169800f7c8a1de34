"""Runs `deid train`: hands the rest of the command line to a training script."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

from . import complain

# Commands that had other names: a command line of before is answered with the new one.
_RENAMED = {
    "reader": "estimator", "reader_head": "estimator_head", "audition": "filter_bank", "sheet": "sample_grid",
}  # fmt: skip


def main(argv: list[str]) -> int:
    """`deid train NAME OPTIONS...` is `deid_diffusion.training.NAME.main(OPTIONS)`.

    Args:
        argv: what follows `deid train`.

    Returns:
        the exit code: 2 for a name that there is not.
    """
    if argv and argv[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    names, given = commands(), argv[0] if argv else "nothing"
    if given in names:
        return import_module(f"deid_diffusion.training.{given}").main(argv[1:]) or 0
    if given in _RENAMED:
        return complain(f"`deid train {given}` is now called `deid train {_RENAMED[given]}`", 2)
    return complain(f"wanted one of {', '.join(names)} to train, got {given}", 2)


def commands() -> dict[str, str]:
    """By name, the first line of every training script: a module with a `main`. Nothing is imported for it."""
    found = {}
    for path in sorted((Path(__file__).parent.parent / "training").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def usage() -> str:
    """The text of `deid train --help`."""
    rows = "\n".join(f"  {name:<15}{text}" for name, text in commands().items())
    return f"usage: deid train COMMAND ...\n\ncommands:\n{rows}\n\n`deid train COMMAND --help` lists its options.\n"
