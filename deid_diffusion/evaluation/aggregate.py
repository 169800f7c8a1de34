"""Aggregates utility and image quality over all faces and by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deid_diffusion.evaluation.metrics import bootstrap_mean
from deid_diffusion.evaluation.nets import FaceNets
from deid_diffusion.evaluation.privacy import RANK_1
from deid_diffusion.evaluation.quality import frechet_distance, kernel_distance, psnr
from deid_diffusion.evaluation.results import GroupResult, Metric
from deid_diffusion.evaluation.table import FaceTable, MethodTable

DETECTED, LANDMARK_ERROR, BACKGROUND_PSNR = "face detection rate", "landmark error (NME)", "background PSNR"
_NET = "needs --net {}=FILE"
# column, name, unit, why it can be missing
_UTILITY = (
    ("found", DETECTED, "proportion", ""),
    ("landmarks", LANDMARK_ERROR, "% of inter-pupil distance", "no face was detected in any output"),
    ("yaw", "yaw error", "deg", "needs --detector yunet:FILE or " + _NET.format("landmarks")),
    ("pitch", "pitch error", "deg", "needs --detector yunet:FILE or " + _NET.format("landmarks")),
    ("roll", "roll error", "deg", "needs --detector yunet:FILE or " + _NET.format("landmarks")),
    ("expression", "expression agreement", "proportion", _NET.format("expression")),
    ("age", "age error", "years", _NET.format("age_gender")),
    ("gender", "presented gender agreement", "proportion", _NET.format("age_gender")),
    ("skin", "skin tone difference (ITA)", "deg", "no cheeks were found in any output"),
)
_SHARPNESS = "sharpness", "sharpness change, face against surroundings", "log2 ratio", "no surroundings"
_BY_GROUP = ("found", "landmarks", "yaw", "pitch", "expression", "age", "gender", "skin", "sharpness")
_MIN_SAMPLE = 10


def utility_metrics(originals: FaceTable, method: MethodTable, seed: int) -> tuple[Metric, ...]:
    """Utility over the faces detected in outputs (the detection rate: over all faces).

    Each metric stands beside what the same networks measure between the originals and their mirror images.

    Args:
        originals: the table of originals.
        method: the table of outputs.
        seed: of the bootstrap.
    """
    rows = method.faces["row"].astype(int)
    people = np.array(originals.people)[rows]
    nobody = "no face was detected in any output" if not method.faces["found"].any() else ""
    metrics = []
    for column, name, unit, reason in _UTILITY:
        metric = column_mean(name, method.faces[column], people, seed, unit, nobody or reason)
        mirrored = originals.mirrored[column]
        mirrored = mirrored[rows][np.isfinite(mirrored[rows])] if len(mirrored) else mirrored
        if metric.value is not None and len(mirrored):
            metric = replace(metric, on_originals=float(mirrored.mean()))
        metrics.append(metric)
    # The face estimator that conditions the generator measures irises, and therefore may not judge them.
    reason = "needs a gaze network that is not the anonymizer's own face estimator; this version takes none"
    return (*metrics, Metric.missing("gaze", reason, "deg"))


def quality_metrics(originals: FaceTable, method: MethodTable, nets: FaceNets, seed: int) -> tuple[Metric, ...]:
    """Image quality: Frechet and kernel distance to the originals' faces, background fidelity, seams, sharpness.

    Args:
        originals: the table of originals.
        method: the table of outputs.
        nets: names the feature space, if there is one.
        seed: of the bootstrap.
    """
    people = np.array(originals.people)[method.faces["row"].astype(int)]
    errors, similar = (v[np.isfinite(v)] for v in (method.pictures["error"], method.pictures["ssim"]))
    off = BACKGROUND_PSNR, "pictures with bit-identical background"
    rows = [Metric.missing(name, "no background: the faces' squares cover the pictures") for name in off]
    if len(errors):
        equal = (errors == 0).astype(float)
        rows = [
            Metric(off[0], psnr(float(errors.mean())), n=len(errors), unit="dB"),
            column_mean(off[1], equal, np.arange(len(equal)), seed, "proportion", ""),
        ]
    return (
        *_distances(originals, method, nets),
        *rows,
        column_mean("background SSIM", similar, np.arange(len(similar)), seed, "0..1", "no background"),
        column_mean("seam step", method.faces["seam"], people, seed, "8-bit levels", "no rim inside the squares"),
        column_mean(_SHARPNESS[1], method.faces["sharpness"], people, seed, *_SHARPNESS[2:]),
    )


def group_results(
    originals: FaceTable, method: MethodTable, rank1: Sequence[tuple[str, np.ndarray]], seed: int
) -> tuple[GroupResult, ...]:
    """Rank-1, utility and sharpness by every attribute's groups.

    Args:
        originals: the table of originals, with groups.
        method: the table of outputs.
        rank1: per judge its name and (n,) hits in [0, 1], NaN for people who are not in the gallery.
        seed: of the bootstrap.
    """
    rows = method.faces["row"].astype(int)
    people = np.array(originals.people)[rows]
    results = []
    for position, attribute in enumerate(originals.attributes):
        values = np.array([originals.groups[row][position] for row in rows])
        for group in np.unique(values):
            inside = values == group
            metrics = [
                column_mean(
                    f"{RANK_1}, {judge}", found[inside], people[inside], seed, "proportion", "not in the gallery"
                )
                for judge, found in rank1
            ]
            for column, name, unit, reason in (*_UTILITY, _SHARPNESS):
                if column in _BY_GROUP:
                    values_in = method.faces[column][inside]
                    metrics.append(
                        column_mean(name, values_in, people[inside], seed, unit, reason or "nobody in this group")
                    )
            results.append(GroupResult(attribute, str(group), len(np.unique(people[inside])), tuple(metrics)))
    return tuple(results)


def column_mean(name: str, values: np.ndarray, people: np.ndarray, seed: int, unit: str, reason: str) -> Metric:
    """The mean of what was measured, with a bootstrap interval by person.

    Args:
        name: of the metric.
        values: (n,) one per face, NaN where not measured.
        people: (n,) the person of each.
        seed: of the bootstrap.
        unit: see `Metric`.
        reason: why nothing was measured, where all are NaN.
    """
    measured = np.isfinite(values)
    if not measured.any():
        return Metric.missing(name, reason or "nothing to measure", unit)
    values = values[measured].astype(np.float64)
    low, high = bootstrap_mean(values, people[measured], seed, proportion=unit == "proportion")
    return Metric(name, float(values.mean()), low, high, len(values), unit)


def _distances(originals: FaceTable, method: MethodTable, nets: FaceNets) -> tuple[Metric, ...]:
    names = "Frechet distance", "kernel distance (MMD², cubic kernel) x 1000"
    if "features" not in nets:
        return tuple(Metric.missing(name, _NET.format("features"), "distance") for name in names)
    real, made = originals.features.array(), method.features.array()
    unit = f"feature space: {nets.names['features']}, {real.shape[-1]}-D, scaled to RMS 1"
    if len(made) < _MIN_SAMPLE or len(real) < _MIN_SAMPLE:
        reason = f"needs {_MIN_SAMPLE} faces detected in outputs, got {len(made)} of {len(real)}"
        return tuple(Metric.missing(name, reason, unit) for name in names)
    # A net's features have any size; in units of the originals' the kernel's 1 means something.
    size = float(np.sqrt((real.astype(np.float64) ** 2).mean()))
    real, made = real / size, made / size
    # The noise floor: the distance of two halves of the originals.
    halves = real[::2], real[1::2]
    return (
        Metric(names[0], frechet_distance(real, made), n=len(made), unit=unit, on_originals=frechet_distance(*halves)),
        Metric(
            names[1],
            1000 * kernel_distance(real, made),
            n=len(made),
            unit=unit,
            on_originals=1000 * kernel_distance(*halves),
        ),
    )
