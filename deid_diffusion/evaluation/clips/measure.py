"""Turns what was seen of a clip into figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deid_diffusion.evaluation.clips import results as names
from deid_diffusion.evaluation.clips.motion import MOTIONS, STILL
from deid_diffusion.evaluation.clips.results import ClipJudge, ClipPerson
from deid_diffusion.evaluation.clips.strangers import Strangers
from deid_diffusion.evaluation.clips.tracks import EvalTrack, merged
from deid_diffusion.evaluation.clips.watch import ClipWatch
from deid_diffusion.evaluation.judges import Judge
from deid_diffusion.evaluation.metrics import unit_norm
from deid_diffusion.evaluation.results import Metric

FEWEST = 10  # frames from which a correlation is one
JOIN_S = 0.5  # spans of one kind that are closer than this are one


def column(tracks: Sequence[EvalTrack], name: str) -> np.ndarray:
    """(n,) float32, one column of all tracks.

    Args:
        tracks: their rows.
        name: of the column, see `ClipWatch`.
    """
    return np.concatenate([track.rows[name] for track in tracks]) if tracks else np.zeros(0, np.float32)


def clip_metrics(watch: ClipWatch, by: dict[str, str]) -> tuple[Metric, ...]:
    """Exposure, stability, motion and pixels of a clip.

    Args:
        watch: what was seen of it.
        by: who reads each motion.
    """
    tracks, count = watch.tracks, len(column(watch.tracks, "frame"))
    if not count:
        nobody = "no face was found in the original"
        found = [Metric.missing(name, nobody) for name in (names.EXPOSED, names.FOUND)]
    else:
        found = [_mean(tracks, names.EXPOSED, "exposed", on_originals=1.0), _mean(tracks, names.FOUND, "found")]
        if np.isfinite(column(tracks, "uncovered")).all():
            found.append(_mean(tracks, names.UNCOVERED, "uncovered", on_originals=1.0))
        found += _flicker(tracks)
        for name in MOTIONS:
            found += _motion(tracks, name, by)
    if watch.noise[1]:
        error = watch.noise[0] / watch.noise[1]
        value = float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
        return (*found, Metric(names.OFF_FACES, value, n=int(watch.noise[1]), unit="dB"))
    return (*found, Metric.missing(names.OFF_FACES, "faces are everywhere, or there is no frame", "dB"))


def judge_metrics(watch: ClipWatch, number: int, judge: Judge, strangers: Strangers, others: int) -> ClipJudge:
    """What one judge makes of a clip.

    Args:
        watch: what was seen of it.
        number: of the judge.
        judge: the same.
        strangers: whom it knows besides.
        others: how many of their photos are of other people than this clip's.
    """
    threshold, source = strangers.threshold, "1 % of the pairs of strangers in the gallery"
    if threshold is None:
        threshold, source = judge.threshold, "what its makers say" if judge.threshold is not None else ""
    people = merged(watch.tracks, number, threshold)
    about = judge.name, judge.weight_hash, threshold, source, others
    if not people:
        return ClipJudge(*about, (), (Metric.missing(names.OWN, "no face was found in the original", "cosine"),))
    own = column(watch.tracks, f"own_{number}")
    most = np.array([max(track.rows[f"own_{number}"].max() for track in person) for person in people])
    pooled = [_pooled(person, number) for person in people]
    alike = np.array([float(one[0] @ one[1]) for one in pooled])
    chance = None if np.isnan(strangers.mean) else strangers.mean
    found = [
        Metric(names.OWN, float(own.mean()), n=len(own), unit="cosine", chance=chance),
        Metric(names.BEST, float(most.max()), n=len(people), unit="cosine", chance=chance),
        Metric(names.POOLED, float(alike.max()), n=len(people), unit="cosine", chance=chance),
    ]
    hits = ((names.FRAME_HITS, own), (names.BEST_HITS, most), (names.POOLED_HITS, alike))
    if threshold is None:
        why = "no threshold is known: give --gallery with photos of other people, or threshold= with the judge"
        found += [Metric.missing(name, why) for name, _ in hits]
    else:
        found += [Metric(name, float((values >= threshold).mean()), n=len(values)) for name, values in hits]
    found += _ranks(watch, number, people, pooled, others)
    each = zip(people, most.tolist(), alike.tolist(), strict=True)
    said = tuple(_person(person, best, mean) for person, best, mean in each)
    return ClipJudge(*about, said, (*found, *_steadiness(watch.tracks, number)))


def spans_to_look_at(tracks: Sequence[EvalTrack]) -> tuple[tuple[float, float, str], ...]:
    """(start, stop, why) in seconds: where faces are exposed, or none is found in the output.

    Args:
        tracks: all of a clip.
    """
    spans: list[list] = []
    kinds: tuple[tuple[str, Callable[[EvalTrack], np.ndarray]], ...] = (
        ("exposed", lambda track: track.rows["exposed"] > 0),
        ("not covered by the mask", lambda track: track.rows["uncovered"] > 0),
        ("no face found in the output", lambda track: track.rows["found"] == 0),
    )
    for why, which in kinds:
        own: list[list] = []
        times = sorted(float(time) for track in tracks for time in track.rows["time"][which(track)])
        for time in times:
            if own and time - own[-1][1] <= JOIN_S:
                own[-1][1] = time
            else:
                own.append([time, time, why])
        spans += own
    return tuple((round(start, 3), round(stop, 3), why) for start, stop, why in sorted(spans))


def _mean(tracks: Sequence[EvalTrack], name: str, of: str, on_originals: float | None = None) -> Metric:
    values = column(tracks, of)
    return Metric(name, float(values.mean()), n=len(values), on_originals=on_originals)


def _flicker(tracks: Sequence[EvalTrack]) -> list[Metric]:
    before, after = (column(tracks, f"flicker_{when}") for when in ("before", "after"))
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any() or not before[known].mean():
        why = "no face is seen in two frames that follow each other and differ"
        return [Metric.missing(name, why, "x the source's") for name in (names.FLICKER, names.FLICKER_95)]
    rate = float(before[known].mean())
    values = (float(after[known].mean()), float(np.percentile(after[known], 95)))
    own = (1.0, float(np.percentile(before[known], 95)) / rate)
    return [
        Metric(name, value / rate, n=int(known.sum()), unit="x the source's", on_originals=base)
        for name, value, base in zip((names.FLICKER, names.FLICKER_95), values, own, strict=True)
    ]


def _motion(tracks: Sequence[EvalTrack], name: str, by: dict[str, str]) -> list[Metric]:
    """Correlation and slope of the deviations from each track's own mean: who somebody is does not count as motion."""
    titles = names.correlation_of(name), names.slope_of(name)

    def missing(why: str) -> list[Metric]:
        return [Metric.missing(title, why, "r" if n == 0 else "slope") for n, title in enumerate(titles)]

    if name not in by:
        return missing("nothing reads it; see --net and --facemesh")
    pairs = [np.stack([track.rows[f"{name}_before"], track.rows[f"{name}_after"]]) for track in tracks]
    pairs = [pair[:, np.isfinite(pair).all(axis=0)] for pair in pairs]
    pairs = [pair - pair.mean(axis=1, keepdims=True) for pair in pairs if pair.shape[1] >= FEWEST]
    if not pairs:
        return missing(f"no track has {FEWEST} frames with a face in source and output")
    before, after = np.concatenate(pairs, axis=1).astype(np.float64)
    if before.std() < STILL[name]:
        return missing(f"the source hardly moves: {before.std():.2g}, less than {STILL[name]}")
    spread = float(before.std() * after.std())
    together = float((before * after).mean())
    return [
        Metric(titles[0], together / spread if spread else 0.0, n=len(before), unit="r", on_originals=1.0),
        Metric(titles[1], together / float(before.var()), n=len(before), unit="slope", on_originals=1.0),
    ]


def _person(person: Sequence[EvalTrack], best: float, pooled: float) -> ClipPerson:
    exposed = column(person, "exposed")
    return ClipPerson(
        tracks=tuple(track.number for track in person),
        start_s=round(min(track.start_s for track in person), 3),
        frames=len(exposed),
        exposed=int(exposed.sum()),
        best=best,
        pooled=pooled,
    )


def _pooled(person: Sequence[EvalTrack], number: int) -> np.ndarray:
    """(2, D) mean embeddings of norm 1: of all sources of a person, and of all outputs."""
    return unit_norm(np.stack([np.sum([t.identities[number].sums[side] for t in person], axis=0) for side in (0, 1)]))


def _ranks(
    watch: ClipWatch, number: int, people: list[list[EvalTrack]], pooled: Sequence[np.ndarray], others: int
) -> list[Metric]:
    titles = (names.FRAME_RANK, names.BEST_RANK, names.POOLED_RANK)
    if not others:
        return [Metric.missing(name, "no gallery of other people was given") for name in titles]
    chance, strangers = 1 / (others + 1), watch.strangers[number]
    hits = [
        np.concatenate([t.rows[f"own_{number}"] >= t.rows[f"other_{number}"] for t in person]) for person in people
    ]
    far = [float(one[0] @ one[1]) >= float((strangers @ one[1]).max()) for one in pooled]
    every = np.concatenate(hits)
    return [
        Metric(titles[0], float(every.mean()), n=len(every), chance=chance),
        Metric(titles[1], float(np.mean([one.any() for one in hits])), n=len(people)),
        Metric(titles[2], float(np.mean(far)), n=len(people), chance=chance),
    ]


def _steadiness(tracks: Sequence[EvalTrack], number: int) -> list[Metric]:
    found = []
    near = [column(tracks, f"adjacent_{when}_{number}") for when in ("before", "after")]
    known = np.isfinite(near[0]) & np.isfinite(near[1])
    if known.any():
        values = [float(one[known].mean()) for one in near]
        found.append(Metric(names.ADJACENT, values[1], n=int(known.sum()), unit="cosine", on_originals=values[0]))
    else:
        found.append(
            Metric.missing(names.ADJACENT, "no face is found in two outputs that follow each other", "cosine")
        )
    several = [track.identities[number] for track in tracks if track.identities[number].seen > 1]
    if not several:
        return [*found, Metric.missing(names.SPREAD, "no face is found in two outputs", "1 - cosine")]
    weights = np.array([one.seen for one in several], float)
    spread = np.average([one.spread for one in several], axis=0, weights=weights)
    metric = Metric(
        names.SPREAD, float(spread[1]), n=int(weights.sum()), unit="1 - cosine", on_originals=float(spread[0])
    )
    return [*found, metric]
