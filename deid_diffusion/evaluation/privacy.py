"""Turns what the judges saw into re-identification measures, each beside its ceiling and its chance."""

from __future__ import annotations

import numpy as np

from deid_diffusion.evaluation.attackers import MIN_PEOPLE, linear_attack, standardise
from deid_diffusion.evaluation.judges import Judge
from deid_diffusion.evaluation.ledger import FaceLedger, MethodLedger
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
    unit,
)
from deid_diffusion.evaluation.protocol import Collected
from deid_diffusion.evaluation.results import Curve, JudgeResult, Measure

RANK_1, RANK_5, OWN, LEARNED = "rank-1", "rank-5", "similarity to own original", "rank-1, attacker who learned"
FARS = (0.01, 0.001)
_ALONE = "needs at least two people in the gallery"


def judge_result(
    judge: Judge, index: int, collected: Collected, method: MethodLedger, seed: int
) -> tuple[JudgeResult, np.ndarray]:
    """What the judge number `index` still recognises in one method's outputs, and (n,) its rank-1 hit of each face,
    NaN for people who are not in the gallery."""
    rows = method.faces["row"].astype(int)
    ids = np.array(collected.originals.people)[rows]
    outputs, originals = method.vectors[index].array(), collected.originals.vectors[index].array()[rows]
    gallery, gallery_ids = collected.gallery.vectors[index].array(), np.array(collected.gallery.people)
    untouched = method.faces["untouched"] > 0
    own = _own_measures(judge, unit(outputs), unit(originals), ids, seed)
    known = np.isin(ids, gallery_ids)
    people = len(np.unique(gallery_ids))
    if not known.any() or people < 2:
        reason = _ALONE if people < 2 else "nobody of the originals is in the gallery: names must match"
        missing = tuple(Measure.missing(name, reason) for name in (RANK_1, RANK_5, "EER"))
        return JudgeResult(judge.name, judge.weight_hash, people, (*missing, *own)), np.full(len(rows), np.nan)
    ids = ids[known]
    seen = score_probes(outputs[known], ids, gallery, gallery_ids, seed)
    after = expose(seen, untouched[known])
    before = score_probes(originals[known], ids, gallery, gallery_ids, seed)
    attack = _attack_measures(outputs[known], originals[known], ids, gallery, gallery_ids, seed)
    reach = (float(min(seen.genuine.min(), seen.impostor[0])), float(max(seen.genuine.max(), seen.impostor[-1])))
    first = np.full(len(rows), np.nan)
    first[known] = hits(after, 1)
    result = JudgeResult(
        judge=judge.name,
        weight_hash=judge.weight_hash,
        people=people,
        measures=(*_score_measures(after, before, ids, seed), *_similarities(seen, before, ids, seed), *own, *attack),
        cmc=_ranks(after),
        cmc_ceiling=_ranks(before),
        det=_curve(*det_curve(after.genuine, after.impostor)),
        det_ceiling=_curve(*det_curve(before.genuine, before.impostor)),
        genuine=_curve(*histogram(seen.genuine, *reach)),
        impostor=_curve(*histogram(seen.impostor, *reach)),
    )
    return result, first


def general_measures(collected: Collected, method: MethodLedger, seed: int) -> tuple[Measure, ...]:
    """Privacy without a recogniser: pixels left as they were, and what landmarks and attributes alone give away."""
    rows = method.faces["row"].astype(int)
    ids = np.array(collected.originals.people)[rows]
    untouched = method.faces["untouched"].astype(float)
    low, high = bootstrap_mean(untouched, ids, seed)
    name = "faces left as they were"
    left = Measure(name, float(untouched.mean()), low, high, len(rows), ceiling=1.0)
    return left, _conditioning_attack(collected.originals, collected.gallery, method, seed)


def _own_measures(
    judge: Judge, outputs: np.ndarray, originals: np.ndarray, ids: np.ndarray, seed: int
) -> tuple[Measure, ...]:
    similarity = (outputs * originals).sum(axis=1)
    measures = [_mean(OWN, similarity, ids, seed, unit="cosine", ceiling=1.0, chance=_strangers(originals, ids))]
    name = "accepted as own original"
    if judge.threshold is None:
        return (*measures, Measure.missing(name, "needs the judge's threshold (threshold=... in its format)"))
    accepted = (similarity > judge.threshold).astype(float)
    return (*measures, _mean(name, accepted, ids, seed, ceiling=1.0))


def _score_measures(after: Scores, before: Scores, ids: np.ndarray, seed: int) -> tuple[Measure, ...]:
    measures = []
    for name, k in ((RANK_1, 1), (RANK_5, 5)):
        found, ceiling = hits(after, k), float(hits(before, k).mean())
        measures.append(_mean(name, found, ids, seed, ceiling=ceiling, chance=min(1.0, k / after.people)))
    for far in FARS:
        measures.append(_tar(f"TAR at FAR {far * 100:g} %", far, after, before, ids, seed))
    low, high = bootstrap_eer(after.genuine, after.impostor, ids, seed)
    eer = equal_error_rate(after.genuine, after.impostor)
    ceiling = equal_error_rate(before.genuine, before.impostor)
    measures.append(Measure("EER", eer, low, high, len(ids), ceiling=ceiling, chance=0.5))
    return tuple(measures)


def _similarities(after: Scores, before: Scores, ids: np.ndarray, seed: int) -> tuple[Measure, ...]:
    noise, usual = float(after.impostor.mean()), float(before.genuine.mean())
    own, strangers = "similarity to own gallery photo", "similarity to strangers (noise floor)"
    return (
        _mean(own, after.genuine, ids, seed, unit="cosine", ceiling=usual),
        Measure(strangers, noise, n=len(after.impostor), unit="cosine", ceiling=float(before.impostor.mean())),
    )


def _tar(name: str, far: float, after: Scores, before: Scores, ids: np.ndarray, seed: int) -> Measure:
    # The attacker sets the threshold anew on outputs of strangers: the harder opponent than a system left as it was.
    threshold, usual = threshold_at_far(after.impostor, far), threshold_at_far(before.impostor, far)
    if threshold is None or usual is None:
        return Measure.missing(name, f"needs {round(1 / far)} pairs of strangers, got {len(after.impostor)}")
    accepted = (after.genuine > threshold).astype(float)
    return _mean(name, accepted, ids, seed, ceiling=float((before.genuine > usual).mean()), chance=far)


def _attack_measures(
    outputs: np.ndarray,
    originals: np.ndarray,
    ids: np.ndarray,
    gallery: np.ndarray,
    gallery_ids: np.ndarray,
    seed: int,
) -> tuple[Measure, ...]:
    names = (LEARNED, "rank-1, same halves, not learned")
    people = len(np.unique(ids))
    if people < MIN_PEOPLE:
        reason = f"needs at least {MIN_PEOPLE} people, got {people}"
        return tuple(Measure.missing(name, reason) for name in names)
    result = linear_attack(unit(outputs), unit(originals), ids, unit(gallery), gallery_ids, seed)
    chance = 1 / result.people
    return tuple(
        _mean(name, found, ids, seed, chance=chance)
        for name, found in zip(names, (result.adaptive, result.plain), strict=True)
    )


def _conditioning_attack(originals: FaceLedger, gallery: FaceLedger, method: MethodLedger, seed: int) -> Measure:
    name = "rank-1 from landmarks and attributes alone"
    rows = method.faces["row"].astype(int)
    ids, gallery_ids = np.array(originals.people)[rows], np.array(gallery.people)
    usable = (method.faces["found"] > 0) & np.isin(ids, gallery_ids)
    people = len(np.unique(ids[usable]))
    if people < MIN_PEOPLE:
        return Measure.missing(name, f"needs a face found for at least {MIN_PEOPLE} people, got {people}")
    before = originals.condition.array()[rows][usable]
    outputs, source, known = (
        standardise(vectors, before)
        for vectors in (method.condition.array()[usable], before, gallery.condition.array())
    )
    result = linear_attack(outputs, source, ids[usable], known, gallery_ids, seed)
    ceiling = linear_attack(source, source, ids[usable], known, gallery_ids, seed)
    # The stronger of the two attackers, for outputs and originals alike.
    found, usual = (max((r.adaptive, r.plain), key=np.mean) for r in (result, ceiling))
    return _mean(name, found, ids[usable], seed, ceiling=float(usual.mean()), chance=1 / result.people)


def _mean(name: str, values: np.ndarray, ids: np.ndarray, seed: int, unit: str = "share", **more) -> Measure:
    low, high = bootstrap_mean(values, ids, seed, share=unit == "share")
    return Measure(name, float(values.mean()), low, high, len(values), unit, **more)


def _strangers(vectors: np.ndarray, ids: np.ndarray) -> float | None:
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
