"""One person who was tried, and how those who are kept are written down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deid_diffusion.imaging.encode import encode
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.training.face_labels import MEASURED, LabelledFace
from deid_diffusion.training.generator import DIM
from deid_diffusion.training.shards import Shards

SOURCE, TERMS = "mobilestylegan", "docs/training-data.md"
NAMED = ("age", "male", "glasses", "facial_hair", "sunglasses")  # attributes with a column of their own
HOLDOUT = 20  # every twentieth person


@dataclass(eq=False)
class Attempt:
    """Somebody who was painted.

    Attributes:
        number: of the attempt.
        style: (512,) float16.
        face: what came of it; None with a fault where there is none.
        fault: why not; empty for none; "not needed" for people of whom there are enough.
    """

    number: int
    style: np.ndarray
    face: LabelledFace | None
    fault: str


def save_attempts(
    shards: Shards, seed: int, attempts: list[Attempt], kept: list[Attempt], seconds: list[Attempt | None]
) -> None:
    """Writes one more shard.

    Args:
        shards: gets it.
        seed: of the attempts, for the keys.
        attempts: all of them, in their order.
        kept: those of them whose crops are written.
        seconds: another picture of each of these, or None.
    """
    rows = []
    for first, second in zip(kept, seconds, strict=True):
        key = f"s{seed}_{first.number:07d}"
        rows += [(key, first, False)] + ([] if second is None else [(f"{key}b", second, True)])
    nothing = np.full(len(MEASURED), np.nan, np.float32)
    labels = columns_of(rows) | {
        "tried_style": np.stack([attempt.style for attempt in attempts]),
        "tried_measured": np.stack([nothing if a.face is None else a.face.measured for a in attempts]),
        "tried_fault": np.array([attempt.fault for attempt in attempts], "U16"),
    }
    crops = {
        "": [(key, webp(attempt.face.small)) for key, attempt, _ in rows],
        "512": [(key, webp(attempt.face.large)) for key, attempt, _ in rows],
    }
    shards.add(crops, labels)


def columns_of(rows: list[tuple[str, Attempt, bool]]) -> dict[str, np.ndarray]:
    """Key, attempt, whether it is a second picture -> labels of the crops, as `load_faces` wants them and more.

    Of N rows each column is (N, ...). Landmarks are in pixels of the 256 px crop. `style` and `crop256_from_image1024`
    make the crop again; `measured` (see `MEASURED`) is what the quotas are counted by.
    """

    def stack(name: str, *shape: int, dtype: type = np.float16) -> np.ndarray:
        values = [getattr(attempt.face, name) for _, attempt, _ in rows]
        return np.array(values, dtype).reshape(len(rows), *shape) if values else np.zeros((0, *shape), dtype)

    number = np.array([attempt.number for _, attempt, _ in rows], np.int64)
    attributes = stack("attributes", len(ATTRIBUTE_NAMES), dtype=np.float32)
    named = {n: attributes[:, ATTRIBUTE_NAMES.index(n)] for n in NAMED}
    width = len(rows[0][1].face.embedding) if rows else 256
    return named | {
        "key": np.array([key for key, _, _ in rows], "U20"),
        "source": np.full(len(rows), SOURCE), "terms": np.full(len(rows), TERMS),
        "split": np.where(number % HOLDOUT == HOLDOUT - 1, "holdout", "train"),
        "person": number, "second": np.array([second for *_, second in rows], bool),
        "native_side": stack("native_side", dtype=np.float32), "landmarks": stack("landmarks", 478, 3),
        "attributes": attributes, "expression": stack("expression", 7), "embedding": stack("embedding", width),
        "measured": stack("measured", len(MEASURED), dtype=np.float32),
        "crop256_from_image1024": stack("crop256_from_image1024", 2, 3, dtype=np.float32),
        "style": np.array([attempt.style for _, attempt, _ in rows], np.float16).reshape(len(rows), DIM),
    }  # fmt: skip


def webp(image: np.ndarray) -> bytes:
    """(S, S, 3) uint8 RGB -> the bytes of a lossy WebP file without a profile or metadata."""
    return encode("WEBP", image, None, None, False, {})
