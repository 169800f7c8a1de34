"""Averages the weights of a generator before and after a fine-tune.

    deid train blend --before runs/inpaint --after runs/distill --share 0.6 --emphasise glasses=2 --out runs/blend

Most of what each is good at, in one: training on counterfactual conditions makes a generator follow them and costs it
some realism. On the straight line between the two sets of weights, what it learned comes sooner than what it lost goes
(Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, FIELDS
from deid_diffusion.training.inpaint import load_unet
from deid_diffusion.training.run import option, run_command, save_trained

CONDITION = "class_embedding.linear_1.weight"
IDENTITY = "identity"


@dataclass(frozen=True)
class Options:
    """What `deid train blend` takes."""

    before: str = option("runs/inpaint", "folder that a training script wrote, with unet/ and scheduler/")
    after: str = option("runs/distill", "folder of the fine-tune that started there; its scheduler is kept")
    share: float = option(0.6, "0 = before, 1 = after")
    emphasise: str = option(
        "", "name=factor[,...]: an attribute whose effect is multiplied when it is there (glasses=2), or identity"
    )
    out: str = option("runs/blend", "folder for the unet, the scheduler and the metrics of both")


def blend(options: Options) -> None:
    """Writes `out/unet`, `out/scheduler` and `out/training.json`.

    Raises:
        ValueError: a share outside of [0, 1], or unets of different shapes.
    """
    if not 0 <= options.share <= 1:
        raise ValueError(f"--share must lie in [0, 1], got {options.share}")
    before, after, out = Path(options.before), Path(options.after), Path(options.out)
    unets = [load_unet(run / "unet") for run in (before, after)]
    first, second = (unet.state_dict() for unet in unets)
    differ = sorted(
        name
        for name in first.keys() | second.keys()
        if name not in first or name not in second or first[name].shape != second[name].shape
    )
    if differ:
        raise ValueError(f"{before} and {after} hold unets of different shapes; {len(differ)} differ, as {differ[0]}")
    mixed = {name: torch.lerp(first[name], second[name], options.share) for name in first}
    for name, factor in parse_emphasis(options.emphasise).items():
        mixed[CONDITION] = emphasised(mixed[CONDITION], name, factor)
    unets[1].load_state_dict(mixed)
    shutil.copytree(after / "scheduler", out / "scheduler", dirs_exist_ok=True)
    metrics = {
        name: json.loads((run / "training.json").read_text()) for name, run in (("before", before), ("after", after))
    }
    metrics |= {"share": options.share, "emphasise": options.emphasise}
    save_trained(unets[1], out / "unet", metrics)


def parse_emphasis(text: str) -> dict[str, float]:
    """ "glasses=2,smile=1.5" -> {"glasses": 2.0, "smile": 1.5}.

    Raises:
        ValueError: another form, an unknown attribute, a factor that is not positive.
    """
    found = {}
    for part in filter(None, text.split(",")):
        name, _, factor = part.partition("=")
        try:
            found[name] = float(factor)
        except ValueError:
            raise ValueError(f"--emphasise must be like glasses=2,smile=1.5, got {text!r}") from None
        if name not in (*ATTRIBUTE_NAMES, IDENTITY) or not found[name] > 0:
            known = ", ".join((*ATTRIBUTE_NAMES, IDENTITY))
            raise ValueError(f"--emphasise needs a factor above 0 for one of {known}; got {part!r}")
    return found


def emphasised(weight: torch.Tensor, name: str, factor: float) -> torch.Tensor:
    """The layer that takes the condition, with one attribute's effect multiplied from where there is none of it.

    That is the lowest value of what is there or not (glasses, a smile), and 0 of what has two directions (pitch). It
    has the effect it had, and so has an attribute that is not given: the validity bit carries the shift. What a
    generator half dropped comes back so, such as glasses on people whose embeddings never wear them.

    An identity has no lowest value: all of its effect is multiplied, which takes faces further from the average one.

    Args:
        weight: (H, C), C as `condition_vector` gives.
        name: of an attribute, or "identity".
        factor: above 0; 1 changes nothing.

    Returns:
        (H, C), another tensor.
    """
    weight = weight.clone()
    if name == IDENTITY:
        weight[:, 2 * len(ATTRIBUTE_NAMES) : -1] *= factor
        return weight
    column, field = ATTRIBUTE_NAMES.index(name), FIELDS[name]
    none = (max(field.low, 0) - field.centre) / field.scale
    weight[:, len(ATTRIBUTE_NAMES) + column] += (1 - factor) * none * weight[:, column]
    weight[:, column] *= factor
    return weight


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, blend, argv, __doc__)


if __name__ == "__main__":
    main()
