"""What attackers achieve, person by person, and how much of it is more than the surroundings tell alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deid_diffusion.evaluation.attackers import MIN_PEOPLE, linear_attack
from deid_diffusion.evaluation.metrics import Scores, bootstrap_mean, expose, hits, score_probes, unit_norm
from deid_diffusion.evaluation.protocol import EvalTables
from deid_diffusion.evaluation.results import Metric
from deid_diffusion.evaluation.table import FaceTable, MethodTable

RANK_1, RANK_5 = "re-identification rank-1", "re-identification rank-5"
PARROT_1, PARROT_5 = "rank-1, parrot attacker", "rank-5, parrot attacker"
POOLED, POOLED_PARROT = "rank-1, pooled pictures of a person", "rank-1, parrot attacker, pooled pictures"
ADAPTIVE = "rank-1, adaptive attacker (trained on pairs)"


@dataclass(frozen=True, eq=False)
class Attack:
    """How one attacker fares.

    Attributes:
        hits: (n,) probability in [0, 1] that each probe is named rightly.
        people: (n,) the person of each.
        chance: what guessing gives.
    """

    hits: np.ndarray
    people: np.ndarray
    chance: float


def attacks(index: int, collected: EvalTables, method: MethodTable, seed: int) -> dict[str, Attack]:
    """Every attacker that the tables allow, by name; the parrot and the pooled ones where there is what they need.

    Args:
        index: of the judge.
        collected: the tables of originals and gallery.
        method: the table of outputs.
        seed: of the adaptive attacker's halves.
    """
    rows = method.faces["row"].astype(int)
    ids, outputs = np.array(collected.originals.people)[rows], method.vectors[index].array()
    gallery, gallery_ids = _of(collected.gallery, index)
    known = np.isin(ids, gallery_ids)
    if not known.any() or len(np.unique(gallery_ids)) < 2:
        return {}
    exposed, originals = method.faces["unchanged"] > 0, collected.originals.vectors[index].array()[rows]
    found = _searches((RANK_1, RANK_5, POOLED), outputs, ids, exposed, gallery, gallery_ids)
    if len(np.unique(ids[known])) >= MIN_PEOPLE:
        parts = (unit_norm(outputs[known]), unit_norm(originals[known]), ids[known])
        result = linear_attack(*parts, unit_norm(gallery), gallery_ids, seed)
        found[ADAPTIVE] = Attack(result.adaptive, ids[known], 1 / result.people)
    if method.parrot is not None and len(set(method.parrot.people)) > 1:
        names = (PARROT_1, PARROT_5, POOLED_PARROT)
        found |= _searches(names, outputs, ids, exposed, *_of(method.parrot, index))
    return found


def new_metrics(found: dict[str, Attack], seed: int) -> tuple[Metric, ...]:
    """Metrics of the parrot and the pooled attackers.

    Args:
        found: by `attacks`.
        seed: of the bootstrap.
    """
    names = [name for name in (PARROT_1, PARROT_5, POOLED, POOLED_PARROT) if name in found]
    return tuple(_metric(name, found[name], seed) for name in names)


def over_floor(
    metrics: tuple[Metric, ...], found: dict[str, Attack], floor: dict[str, Attack], seed: int
) -> tuple[Metric, ...]:
    """The metrics with their floor, and by how much they are above it.

    Args:
        metrics: of one method and judge.
        found: its attacks.
        floor: attacks on the same pictures with one and the same face in all of them.
        seed: of the bootstrap.
    """
    return tuple(_over_floor(metric, found, floor, seed) for metric in metrics)


def _over_floor(metric: Metric, found: dict[str, Attack], floor: dict[str, Attack], seed: int) -> Metric:
    name = metric.name
    # A person has one picture with the average face: pooling adds nothing to it.
    other = floor.get(name) or floor.get({POOLED: RANK_1, POOLED_PARROT: PARROT_1}.get(name, ""))
    if name not in found or other is None or metric.value is None:
        return metric
    mine, others = by_person(found[name]), by_person(other)
    both = sorted(mine.keys() & others.keys())
    if not both:
        return metric
    more = np.array([mine[person] - others[person] for person in both])
    low, high = bootstrap_mean(more, np.array(both), seed, proportion=False)
    return replace(metric, floor=float(other.hits.mean()), excess=(float(more.mean()), low, high))


def by_person(attack: Attack) -> dict[str, float]:
    """Mean hit of each person's probes."""
    people, owner = np.unique(attack.people, return_inverse=True)
    means = np.bincount(owner, weights=attack.hits) / np.bincount(owner)
    return dict(zip(people.tolist(), means.tolist(), strict=True))


def _of(table: FaceTable, index: int) -> tuple[np.ndarray, np.ndarray]:
    return table.vectors[index].array(), np.array(table.people)


def _searches(
    names: tuple[str, str, str],
    outputs: np.ndarray,
    ids: np.ndarray,
    exposed: np.ndarray,
    gallery: np.ndarray,
    gallery_ids: np.ndarray,
) -> dict[str, Attack]:
    """Rank-1 and rank-5 of each probe, and rank-1 of each person's mean where somebody has several."""
    known = np.isin(ids, gallery_ids)
    if not known.any():
        return {}
    outputs, ids, exposed = unit_norm(outputs[known]), ids[known], exposed[known]
    scores = expose(score_probes(outputs, ids, gallery, gallery_ids), exposed)
    first, five, pooled = names
    found = {first: _hits(scores, 1, ids), five: _hits(scores, 5, ids)}
    people, means = _means(outputs, ids)
    if len(people) < len(ids):
        known_people, known_means = _means(unit_norm(gallery), gallery_ids)
        open_faces = np.isin(people, ids[exposed])
        found[pooled] = _hits(expose(score_probes(means, people, known_means, known_people), open_faces), 1, people)
    return found


def _hits(scores: Scores, k: int, ids: np.ndarray) -> Attack:
    return Attack(hits(scores, k), ids, min(1.0, k / scores.people))


def _means(vectors: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    people, owner = np.unique(ids, return_inverse=True)
    return people, np.stack([vectors[owner == number].mean(0) for number in range(len(people))])


def _metric(name: str, attack: Attack, seed: int) -> Metric:
    low, high = bootstrap_mean(attack.hits, attack.people, seed)
    return Metric(name, float(attack.hits.mean()), low, high, len(attack.hits), chance=attack.chance)
