"""Computes re-identification metrics from the judges' embeddings, each beside the originals' and chance level."""

from __future__ import annotations

from typing import Any

import numpy as np

from deid_diffusion.evaluation.attackers import MIN_PEOPLE, linear_attack, standardise
from deid_diffusion.evaluation.attacks import ADAPTIVE, RANK_1, RANK_5, attacks, new_metrics, over_floor
from deid_diffusion.evaluation.judges import Judge
from deid_diffusion.evaluation.metrics import (
    Scores,
    bootstrap_eer,
    bootstrap_mean,
    cmc,
    det_curve,
    equal_error_rate,
    expose,
    histogram,
    hits,
    score_probes,
    threshold_at_far,
    unit_norm,
)
from deid_diffusion.evaluation.protocol import EvalTables
from deid_diffusion.evaluation.results import Curve, JudgeResult, Metric
from deid_diffusion.evaluation.table import FaceTable, MethodTable

EER = "equal error rate"
FARS = (0.01, 0.001)
TAR_1 = "TAR at FAR 1 %"
NON_ADAPTIVE = "rank-1, same folds, non-adaptive attacker"
OWN_SIMILARITY = "cosine similarity to own original"
_ALONE = "needs at least two people in the gallery"


def judge_result(
    judge: Judge, index: int, collected: EvalTables, method: MethodTable, seed: int
) -> tuple[JudgeResult, np.ndarray]:
    """What one recogniser still recognises in one method's outputs.

    Args:
        judge: the recogniser.
        index: its place among the judges, and so in `vectors`.
        collected: the tables of originals and gallery.
        method: the table of outputs.
        seed: of bootstrap, folds and impostor sample.

    Returns:
        Its result, and (n,) the rank-1 hit of each face in [0, 1], NaN for people who are not in the gallery.
    """
    rows = method.faces["row"].astype(int)
    ids = np.array(collected.originals.people)[rows]
    outputs, originals = method.vectors[index].array(), collected.originals.vectors[index].array()[rows]
    gallery, gallery_ids = collected.gallery.vectors[index].array(), np.array(collected.gallery.people)
    unchanged = method.faces["unchanged"] > 0
    own = _own_metrics(judge, unit_norm(outputs), unit_norm(originals), ids, seed)
    known = np.isin(ids, gallery_ids)
    people = len(np.unique(gallery_ids))
    if not known.any() or people < 2:
        reason = _ALONE if people < 2 else "nobody of the originals is in the gallery: names must match"
        missing = tuple(Metric.missing(name, reason) for name in (RANK_1, RANK_5, EER))
        return JudgeResult(judge.name, judge.weight_hash, people, (*missing, *own)), np.full(len(rows), np.nan)
    ids = ids[known]
    seen = score_probes(outputs[known], ids, gallery, gallery_ids, seed)
    after = expose(seen, unchanged[known])
    before = score_probes(originals[known], ids, gallery, gallery_ids, seed)
    attack = _attack_metrics(outputs[known], originals[known], ids, gallery, gallery_ids, seed)
    reach = (float(min(seen.genuine.min(), seen.impostor[0])), float(max(seen.genuine.max(), seen.impostor[-1])))
    found = attacks(index, collected, method, seed)
    metrics = (*_score_metrics(after, before, ids, seed), *new_metrics(found, seed))
    metrics += (*_similarities(seen, before, ids, seed), *own, *attack)
    if collected.floor is not None:
        metrics = over_floor(metrics, found, attacks(index, collected, collected.floor, seed), seed)
    first = np.full(len(rows), np.nan)
    first[known] = hits(after, 1)
    result = JudgeResult(
        judge=judge.name,
        weight_hash=judge.weight_hash,
        people=people,
        metrics=metrics,
        cmc=_ranks(after),
        cmc_originals=_ranks(before),
        det=_curve(*det_curve(after.genuine, after.impostor)),
        det_originals=_curve(*det_curve(before.genuine, before.impostor)),
        genuine=_curve(*histogram(seen.genuine, *reach)),
        impostor=_curve(*histogram(seen.impostor, *reach)),
    )
    return result, first


def recogniser_free_metrics(collected: EvalTables, method: MethodTable, seed: int) -> tuple[Metric, ...]:
    """Privacy without a recogniser: unchanged faces, and re-identification by landmarks and attributes alone.

    Args:
        collected: the tables of originals and gallery.
        method: the table of outputs.
        seed: of bootstrap and folds.
    """
    rows = method.faces["row"].astype(int)
    ids = np.array(collected.originals.people)[rows]
    unchanged = method.faces["unchanged"].astype(float)
    low, high = bootstrap_mean(unchanged, ids, seed)
    name = "unchanged faces"
    left = Metric(name, float(unchanged.mean()), low, high, len(rows), on_originals=1.0)
    return left, _conditioning_attack(collected.originals, collected.gallery, method, seed)


def _own_metrics(
    judge: Judge, outputs: np.ndarray, originals: np.ndarray, ids: np.ndarray, seed: int
) -> tuple[Metric, ...]:
    similarity = (outputs * originals).sum(axis=1)
    metrics = [
        _mean(
            OWN_SIMILARITY,
            similarity,
            ids,
            seed,
            unit="cosine",
            on_originals=1.0,
            chance=_impostor_mean(originals, ids),
        )
    ]
    name = "verified as own original at the judge's threshold"
    if judge.threshold is None:
        return (*metrics, Metric.missing(name, "needs the judge's threshold (threshold=... in its format)"))
    accepted = (similarity > judge.threshold).astype(float)
    return (*metrics, _mean(name, accepted, ids, seed, on_originals=1.0))


def _score_metrics(after: Scores, before: Scores, ids: np.ndarray, seed: int) -> tuple[Metric, ...]:
    metrics = []
    for name, k in ((RANK_1, 1), (RANK_5, 5)):
        found, on_originals = hits(after, k), float(hits(before, k).mean())
        metrics.append(_mean(name, found, ids, seed, on_originals=on_originals, chance=min(1.0, k / after.people)))
    for far in FARS:
        metrics.append(_tar(f"TAR at FAR {far * 100:g} %", far, after, before, ids, seed))
    low, high = bootstrap_eer(after.genuine, after.impostor, ids, seed)
    eer = equal_error_rate(after.genuine, after.impostor)
    on_originals = equal_error_rate(before.genuine, before.impostor)
    metrics.append(Metric(EER, eer, low, high, len(ids), on_originals=on_originals, chance=0.5))
    return tuple(metrics)


def _similarities(after: Scores, before: Scores, ids: np.ndarray, seed: int) -> tuple[Metric, ...]:
    noise, usual = float(after.impostor.mean()), float(before.genuine.mean())
    own, others = "genuine similarity (own gallery photo)", "impostor similarity (other people's gallery photos)"
    return (
        _mean(own, after.genuine, ids, seed, unit="cosine", on_originals=usual),
        Metric(others, noise, n=len(after.impostor), unit="cosine", on_originals=float(before.impostor.mean())),
    )


def _tar(name: str, far: float, after: Scores, before: Scores, ids: np.ndarray, seed: int) -> Metric:
    # The attacker recalibrates the threshold on impostor pairs of outputs: stronger than a system left as it was.
    threshold, usual = threshold_at_far(after.impostor, far), threshold_at_far(before.impostor, far)
    if threshold is None or usual is None:
        return Metric.missing(name, f"needs {round(1 / far)} impostor pairs, got {len(after.impostor)}")
    accepted = (after.genuine > threshold).astype(float)
    return _mean(name, accepted, ids, seed, on_originals=float((before.genuine > usual).mean()), chance=far)


def _attack_metrics(
    outputs: np.ndarray,
    originals: np.ndarray,
    ids: np.ndarray,
    gallery: np.ndarray,
    gallery_ids: np.ndarray,
    seed: int,
) -> tuple[Metric, ...]:
    names = (ADAPTIVE, NON_ADAPTIVE)
    people = len(np.unique(ids))
    if people < MIN_PEOPLE:
        reason = f"needs at least {MIN_PEOPLE} people, got {people}"
        return tuple(Metric.missing(name, reason) for name in names)
    result = linear_attack(unit_norm(outputs), unit_norm(originals), ids, unit_norm(gallery), gallery_ids, seed)
    chance = 1 / result.people
    return tuple(
        _mean(name, found, ids, seed, chance=chance)
        for name, found in zip(names, (result.adaptive, result.plain), strict=True)
    )


def _conditioning_attack(originals: FaceTable, gallery: FaceTable, method: MethodTable, seed: int) -> Metric:
    name = "rank-1 from landmarks and attributes alone"
    rows = method.faces["row"].astype(int)
    ids, gallery_ids = np.array(originals.people)[rows], np.array(gallery.people)
    usable = (method.faces["found"] > 0) & np.isin(ids, gallery_ids)
    people = len(np.unique(ids[usable]))
    if people < MIN_PEOPLE:
        return Metric.missing(name, f"needs a face found for at least {MIN_PEOPLE} people, got {people}")
    before = originals.conditioning.array()[rows][usable]
    outputs, source, known = (
        standardise(vectors, before)
        for vectors in (method.conditioning.array()[usable], before, gallery.conditioning.array())
    )
    result = linear_attack(outputs, source, ids[usable], known, gallery_ids, seed)
    baseline = linear_attack(source, source, ids[usable], known, gallery_ids, seed)
    # The stronger of the two attackers, for outputs and originals alike.
    found, usual = (max((r.adaptive, r.plain), key=np.mean) for r in (result, baseline))
    return _mean(name, found, ids[usable], seed, on_originals=float(usual.mean()), chance=1 / result.people)


def _mean(name: str, values: np.ndarray, ids: np.ndarray, seed: int, unit: str = "proportion", **more: Any) -> Metric:
    low, high = bootstrap_mean(values, ids, seed, proportion=unit == "proportion")
    return Metric(name, float(values.mean()), low, high, len(values), unit, **more)


def _impostor_mean(vectors: np.ndarray, ids: np.ndarray) -> float | None:
    """Mean cosine of different people's originals; over all pairs, from sums alone."""
    _, first = np.unique(ids, return_index=True)
    if len(first) < 2:
        return None
    total = vectors[first].sum(axis=0, dtype=np.float64)
    return float((total @ total - (vectors[first] ** 2).sum()) / (len(first) * (len(first) - 1)))


def _ranks(scores: Scores) -> Curve:
    found = cmc(scores)
    return _curve(np.arange(1, len(found) + 1), found)


def _curve(x: np.ndarray, y: np.ndarray) -> Curve:
    return tuple(float(v) for v in x), tuple(float(v) for v in y)
