"""Averages what the faces kept and how the pictures hold together, over everybody and by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deid_diffusion.evaluation.ledger import FaceLedger, MethodLedger
from deid_diffusion.evaluation.metrics import bootstrap_mean
from deid_diffusion.evaluation.nets import FaceNets
from deid_diffusion.evaluation.quality import frechet_distance, kernel_distance, psnr
from deid_diffusion.evaluation.results import GroupResult, Measure

FOUND = "face found"
_NET = "needs --net {}=FILE"
# column, name, unit, why it can be missing
_UTILITY = (
    ("found", FOUND, "share", ""),
    ("landmarks", "landmark error", "% of eye distance", "no face was found in any output"),
    ("yaw", "yaw difference", "deg", "needs --finder yunet:FILE or " + _NET.format("landmarks")),
    ("pitch", "pitch difference", "deg", "needs --finder yunet:FILE or " + _NET.format("landmarks")),
    ("roll", "roll difference", "deg", "needs --finder yunet:FILE or " + _NET.format("landmarks")),
    ("expression", "same expression", "share", _NET.format("expression")),
    ("age", "age difference", "years", _NET.format("age_gender")),
    ("gender", "same presented gender", "share", _NET.format("age_gender")),
    ("skin", "skin tone difference (ITA)", "deg", "no cheeks were found in any output"),
)
_BY_GROUP = ("found", "landmarks", "expression", "age", "gender", "skin")
_MIN_SAMPLE = 10


def utility_measures(originals: FaceLedger, method: MethodLedger, seed: int) -> tuple[Measure, ...]:
    """What the outputs kept, over the faces found in them ("face found": over all).

    Each beside what the same nets say of the originals' mirror images, where everything was kept.
    """
    rows = method.faces["row"].astype(int)
    people = np.array(originals.people)[rows]
    nobody = "no face was found in any output" if not method.faces["found"].any() else ""
    measures = []
    for column, name, unit, reason in _UTILITY:
        measure = column_measure(name, method.faces[column], people, seed, unit, nobody or reason)
        mirrored = originals.mirrored[column]
        mirrored = mirrored[rows][np.isfinite(mirrored[rows])] if len(mirrored) else mirrored
        if measure.value is not None and len(mirrored):
            measure = replace(measure, ceiling=float(mirrored.mean()))
        measures.append(measure)
    # The reader that steers the painter sees irises, and therefore may not judge them.
    reason = "needs a net that sees irises and is not the anonymizer's own reader; this version takes none"
    return (*measures, Measure.missing("gaze", reason, "deg"))


def quality_measures(originals: FaceLedger, method: MethodLedger, nets: FaceNets, seed: int) -> tuple[Measure, ...]:
    """Distance to real faces, pixels off the faces, seams and sharpness."""
    people = np.array(originals.people)[method.faces["row"].astype(int)]
    errors, similar = (v[np.isfinite(v)] for v in (method.pictures["error"], method.pictures["ssim"]))
    off = "PSNR off the faces", "pictures equal off the faces"
    rows = [Measure.missing(name, "the faces' squares cover the pictures whole") for name in off]
    if len(errors):
        equal = (errors == 0).astype(float)
        rows = [
            Measure(off[0], psnr(float(errors.mean())), n=len(errors), unit="dB"),
            Measure(off[1], float(equal.mean()), *bootstrap_mean(equal, np.arange(len(equal)), seed), n=len(equal)),
        ]
    return (
        *_distances(originals, method, nets),
        *rows,
        column_measure("SSIM off the faces", similar, np.arange(len(similar)), seed, "0..1", "nothing off the faces"),
        column_measure("seam step", method.faces["seam"], people, seed, "levels", "no rim inside the squares"),
        column_measure("sharpness gap", method.faces["sharpness"], people, seed, "log2", "no surroundings"),
    )


def group_results(
    originals: FaceLedger, method: MethodLedger, rank1: Sequence[tuple[str, np.ndarray]], seed: int
) -> tuple[GroupResult, ...]:
    """The measures by every attribute's groups. `rank1` = (judge's name, (n,) hits with NaN for unknown)."""
    rows = method.faces["row"].astype(int)
    people = np.array(originals.people)[rows]
    results = []
    for position, attribute in enumerate(originals.attributes):
        values = np.array([originals.groups[row][position] for row in rows])
        for group in np.unique(values):
            inside = values == group
            measures = [
                column_measure(f"rank-1, {judge}", found[inside], people[inside], seed, "share", "not in the gallery")
                for judge, found in rank1
            ]
            for column, name, unit, reason in _UTILITY:
                if column in _BY_GROUP:
                    values_in = method.faces[column][inside]
                    measures.append(
                        column_measure(name, values_in, people[inside], seed, unit, reason or "nobody in this group")
                    )
            results.append(GroupResult(attribute, str(group), len(np.unique(people[inside])), tuple(measures)))
    return tuple(results)


def column_measure(name: str, values: np.ndarray, people: np.ndarray, seed: int, unit: str, reason: str) -> Measure:
    """The mean of (n,) values of (n,) people without the NaN ones; `reason` when none is left."""
    measured = np.isfinite(values)
    if not measured.any():
        return Measure.missing(name, reason or "nothing to measure", unit)
    values = values[measured].astype(np.float64)
    low, high = bootstrap_mean(values, people[measured], seed, share=unit == "share")
    return Measure(name, float(values.mean()), low, high, len(values), unit)


def _distances(originals: FaceLedger, method: MethodLedger, nets: FaceNets) -> tuple[Measure, ...]:
    names = "Frechet distance", "kernel distance x 1000"
    if "features" not in nets:
        return tuple(Measure.missing(name, _NET.format("features"), "distance") for name in names)
    real, made = originals.features.array(), method.features.array()
    unit = f"in {nets.names['features']}, {real.shape[-1]}-D, scaled to RMS 1"
    if len(made) < _MIN_SAMPLE or len(real) < _MIN_SAMPLE:
        reason = f"needs {_MIN_SAMPLE} faces found in outputs, got {len(made)} of {len(real)}"
        return tuple(Measure.missing(name, reason, unit) for name in names)
    # A net's features have any size; in units of the originals' the kernel's 1 means something.
    size = float(np.sqrt((real.astype(np.float64) ** 2).mean()))
    real, made = real / size, made / size
    # The floor: what two halves of the originals differ by, for no other reason than chance and the sample's size.
    halves = real[::2], real[1::2]
    return (
        Measure(names[0], frechet_distance(real, made), n=len(made), unit=unit, ceiling=frechet_distance(*halves)),
        Measure(
            names[1],
            1000 * kernel_distance(real, made),
            n=len(made),
            unit=unit,
            ceiling=1000 * kernel_distance(*halves),
        ),
    )
