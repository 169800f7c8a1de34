"""Says who is in a data set: a table of groups, what was left out, and a sheet of faces."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from deid_diffusion.training.quotas import Quotas, Trait
from deid_diffusion.training.shards import Shards

COLUMNS, FACE, MARGIN = 12, 112, 130  # faces a row, px of one, px for the name of a group


def census(shards: Shards, traits: Sequence[Trait]) -> dict[str, Any]:
    """Counts by group, of those kept and of what was tried.

    Args:
        shards: the data set, at least one shard of it.
        traits: what is counted; the first columns of the measures, in their order.

    Returns:
        people, crops, attempts; `groups`: for each trait and group its count, its share and the share wanted;
        `left_out`: how often for which reason; `faulty`: for each trait and group the share of its attempts that had
        a fault (not: were not needed), which must not be a group's lot.
    """
    first = ~shards.column("second")
    tried, fault = shards.column("tried_measured"), shards.column("tried_fault")
    seen, quotas = np.isfinite(tried).all(1), Quotas(traits)
    kept, all_groups = quotas.groups(shards.column("measured")[first]), quotas.groups(tried[seen])
    faulty = (fault[seen] != "") & (fault[seen] != "not needed")
    groups: dict[str, dict[str, Any]] = {}
    for n, trait in enumerate(traits):
        groups[trait.name] = {}
        for number, name in enumerate(trait.groups):
            of_it = all_groups[:, n] == number
            groups[trait.name][name] = {
                "count": int((kept[:, n] == number).sum()),
                "share": round(float((kept[:, n] == number).mean()), 3) if len(kept) else 0.0,
                "wanted": trait.shares[number],
                "faulty": round(float(faulty[of_it].mean()), 3) if of_it.any() else None,
            }
    reasons, times = np.unique(fault[fault != ""], return_counts=True)
    return {
        "people": int(first.sum()), "crops": len(first), "attempts": len(fault), "groups": groups,
        "left_out": dict(zip(reasons.tolist(), times.tolist(), strict=True)),
    }  # fmt: skip


def census_text(table: dict[str, Any]) -> str:
    """The table of `census` to read."""
    lines = [f"{table['people']} people on {table['crops']} crops, of {table['attempts']} attempts", ""]
    lines += [f"{'':28}{'people':>8}{'share':>8}{'wanted':>8}{'faulty':>8}"]
    for trait, groups in table["groups"].items():
        for name, row in groups.items():
            faulty = "" if row["faulty"] is None else f"{row['faulty']:.3f}"
            lines += [f"{trait:12}{name:16}{row['count']:8d}{row['share']:8.3f}{row['wanted']:8.3f}{faulty:>8}"]
    lines += ["", "left out: " + (", ".join(f"{why} {n}" for why, n in table["left_out"].items()) or "nobody")]
    return "\n".join(lines) + "\n"


def draw_sheet(shards: Shards, traits: Sequence[Trait]) -> Image.Image:
    """A row of faces for each group of each trait, at random but the same each time.

    Args:
        shards: the data set, at least one shard of it.
        traits: as of `census`.
    """
    first, keys = ~shards.column("second"), shards.column("key")
    groups = Quotas(traits).groups(shards.column("measured"))
    dice = np.random.default_rng(0)
    rows: list[tuple[str, list[str]]] = []
    for n, trait in enumerate(traits):
        for number, name in enumerate(trait.groups):
            members = np.flatnonzero(first & (groups[:, n] == number))
            rows.append((f"{trait.name}\n{name}", keys[dice.permutation(members)[:COLUMNS]].tolist()))
    wanted = {key for _, some in rows for key in some}
    faces = {key: Image.open(io.BytesIO(data)).resize((FACE, FACE)) for key, data in shards.crops() if key in wanted}
    sheet = Image.new("RGB", (MARGIN + COLUMNS * FACE, len(rows) * FACE), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, some) in enumerate(rows):
        draw.text((6, row * FACE + 6), name, fill="black")
        for column, key in enumerate(some):
            sheet.paste(faces[key], (MARGIN + column * FACE, row * FACE))
    return sheet
