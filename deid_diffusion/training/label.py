"""Spreads a few hand labels over all crops: glasses and facial hair, as probabilities.

    deid train label --data faces/ --hand hand_labels.csv --out labels.npz

A linear probe for each attribute, on edges, texture and colour around the eyes or the mouth. The crops are aligned by
the eyes, so that is enough, and no network has to be found first. What a person labelled keeps that label; the rows
marked `holdout` are never fitted and say how good the rest is.

Beside the labels it writes probes of the same kind for the reader, fitted on augmented crops: for glasses and facial
hair from the hand labels, for presented gender from the `male` labels of all crops.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from deid_diffusion.faces.attribute_classifiers import REGIONS, AttributeClassifiers, Region, apply_classifier, look
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.training.data import FaceSet, Jitter, cut, load_faces
from deid_diffusion.training.run import option, parse_options, write_json

log = logging.getLogger(__name__)
HAND = Path(__file__).with_name("hand_labels.csv")
SEEN = ("glasses", "facial_hair")  # the columns of hand labels
FOLDS, COPIES = 5, 3  # of cross-validation; augmented, of each labelled crop
# Logits: women without make-up are rare among generated people, and a beard on a woman is the worse mistake.
MARGIN = 0.3
# Logits: every hold-out wearer is above 4, and real people with strong brows, but bare eyes, reach 2.2.
SURE = {"glasses": 2.2}
DRAWN = 5000  # crops plain, and as many augmented, for the gender probe


@dataclass(frozen=True)
class Options:
    """What `deid train label` takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz")
    hand: str = option(str(HAND), "CSV of key, glasses, facial_hair (0..1) and split (train or holdout)")
    out: str = option("labels.npz", "gets key, glasses, facial_hair; beside it the scores, .json, and the reader's "
                      "probes, .safetensors")  # fmt: skip
    limit: int = option(0, "use only this many crops, 0 for all")
    threads: int = option(0, "CPU threads, 0 for torch's choice")


@dataclass(frozen=True, eq=False)
class HandLabels:
    """What a person saw.

    Glasses: eyeglasses or sunglasses before the eyes; the rimless ones that generators half forget count when a bridge
    or a temple shows. Facial hair: beard, moustache or goatee; stubble that shows is 0.5, the blue of a shave is 0.

    Attributes:
        key: (N,) names of crops.
        values: for each attribute (N,) float32: 0 no, 0.5 stubble that shows, 1 yes; NaN where nobody looked.
        holdout: (N,) bool, never fitted.
    """

    key: np.ndarray
    values: dict[str, np.ndarray]
    holdout: np.ndarray

    @classmethod
    def load(cls, path: str | Path) -> HandLabels:
        """Reads the CSV.

        Raises:
            ValueError: a column is missing, or a value is no number in 0..1.
        """
        with Path(path).open(newline="") as file:
            rows = list(csv.DictReader(file))
        wanted = {"key", "split", *SEEN}
        if not rows or not wanted <= set(rows[0]):
            raise ValueError(
                f"{path} must have rows with {', '.join(sorted(wanted))}; got {list(rows[0]) if rows else 0}"
            )
        values = {name: np.array([float(row[name] or "nan") for row in rows], np.float32) for name in SEEN}
        if any(((v < 0) | (v > 1)).any() for v in values.values()):
            raise ValueError(f"{path}: labels must lie in 0..1, or be empty")
        return cls(np.array([row["key"] for row in rows]), values, np.array([r["split"] == "holdout" for r in rows]))

    def rows_of(self, keys: list[str]) -> np.ndarray:
        """(N,) where each label's crop stands among the keys, -1 for none."""
        place = {key: number for number, key in enumerate(keys)}
        return np.array([place.get(key, -1) for key in self.key.tolist()])

    def leave_out(self, faces: FaceSet) -> None:
        """Lets nobody draw the hold-out: whoever trains on it cannot measure on it."""
        rows = self.rows_of(faces.keys)
        faces.weight[torch.from_numpy(rows[self.holdout & (rows >= 0)])] = 0


def features_of(faces: FaceSet, region: Region, batch: int = 64) -> torch.Tensor:
    """-> (N, D) float32, each column of mean 0 and deviation 1; a face and its mirror image have the same row."""
    rows = []
    for start in range(0, len(faces.images), batch):
        part = slice(start, start + batch)
        rows.append(look_plainly(faces, part, region))
    columns = [standardised(torch.cat(rows))]
    if region.person:
        columns.append(standardised(faces.embedding))
        # Three times as large as a pixel's: two columns beside thousands, and they say more than most.
        columns.append(
            3 * standardised(faces.attributes[:, [ATTRIBUTE_NAMES.index("male"), ATTRIBUTE_NAMES.index("age")]])
        )
    return torch.cat(columns, 1)


def standardised(columns: torch.Tensor) -> torch.Tensor:
    """(N, D) -> (N, D) of mean 0 and deviation 1 by column."""
    return (columns - columns.mean(0)) / (columns.std(0) + 1e-3)


def fit_probe(features: torch.Tensor, target: torch.Tensor, decay: float) -> torch.Tensor:
    """(N, D), (N,) in 0..1 -> (D + 1,) weights and bias of a logistic regression with an L2 penalty."""
    probe = torch.zeros(features.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([probe], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(apply_classifier(probe, features), target)
        value = value + decay / 2 * probe[:-1].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return probe.detach()


def fit_calibrated(
    features: torch.Tensor, target: torch.Tensor, decay: float, face: torch.Tensor | None = None
) -> torch.Tensor:
    """A probe whose probabilities are those seen on faces it was not fitted on (Platt 1999, by folds).

    Args:
        features: (N, D).
        target: (N,) in 0..1.
        decay: L2 penalty.
        face: (N,) number of the face that each row shows; by default each shows another.

    Returns:
        (D + 1,) weights and bias.
    """
    folds = (torch.arange(len(target)) if face is None else face) % FOLDS
    unseen = torch.zeros(len(target))
    for fold in range(FOLDS):
        probe = fit_probe(features[folds != fold], target[folds != fold], decay)
        unseen[folds == fold] = apply_classifier(probe, features[folds == fold])
    scale, shift = fit_probe(unseen[:, None], target, 0.0).tolist()
    probe = fit_probe(features, target, decay) * scale
    probe[-1] += shift
    return probe


def fit_reading_probe(faces: FaceSet, numbers: np.ndarray, target: np.ndarray, region: Region) -> torch.Tensor:
    """(D + 1,) a probe for pictures as they come: seen small, noisy and grey, from landmarks that are a little off.

    It gets nothing but the region. Who is a man of forty gets no beard for it.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.cat([
        look_roughly(faces, torch.from_numpy(numbers), region, 0.5 if copy else 0.0, generator)
        for copy in range(1 + COPIES)
    ])  # fmt: skip
    face, wanted = (torch.from_numpy(np.tile(a, 1 + COPIES)) for a in (np.arange(len(numbers)), target))
    return fit_as_seen(features, lambda columns: fit_calibrated(columns, wanted, region.decay, face))


def fit_gender_probe(faces: FaceSet) -> torch.Tensor:
    """(D + 1,) a probe for presented gender, on the `male` labels of the training split."""
    generator, region = torch.Generator().manual_seed(0), REGIONS["male"]
    train = torch.nonzero(faces.train.cpu())[:, 0]
    plain = train[torch.randperm(len(train), generator=generator)[:DRAWN]]
    rough = faces.draw(len(plain), generator)
    features = torch.cat([
        look_roughly(faces, numbers, region, degrade, generator) for numbers, degrade in ((plain, 0.1), (rough, 0.5))
    ])  # fmt: skip
    target = faces.attributes[torch.cat([plain, rough]), ATTRIBUTE_NAMES.index("male")]
    return fit_as_seen(features, lambda columns: fit_probe(columns, target, region.decay))


def gender_probe(faces: FaceSet) -> tuple[torch.Tensor, dict[str, dict[str, float]]]:
    """The probe for presented gender, its bias set on the hold-out, and its scores there; none without a hold-out."""
    probe = fit_gender_probe(faces)
    held = torch.nonzero(~faces.train.cpu())[:, 0]
    target = faces.attributes[held, ATTRIBUTE_NAMES.index("male")].numpy()
    sure = (target < 0.1) | (target > 0.9)
    target, held = target[sure] > 0.5, held[torch.from_numpy(sure)]
    if target.all() or not target.any():
        return probe, {}
    logits = apply_classifier(probe, look_plainly(faces, held, REGIONS["male"])).numpy()
    shift = even_threshold(logits, target) + MARGIN
    probe[-1] -= shift
    read = 1 / (1 + np.exp(shift - logits))
    return probe, {"male, by the reader's probe": score(read, target.astype(np.float32))}


def even_threshold(logits: np.ndarray, target: np.ndarray) -> float:
    """(N,), (N,) bool -> the threshold at which either kind is as often taken for the other (equal error rate)."""
    candidates = np.unique(np.concatenate([logits, [0.0]]))
    candidates = (candidates[1:] + candidates[:-1]) / 2 if len(candidates) > 1 else candidates
    wrong = [abs((logits[~target] > t).mean() - (logits[target] < t).mean()) for t in candidates]
    return float(candidates[np.isclose(wrong, min(wrong))].max())


def look_roughly(
    faces: FaceSet, numbers: torch.Tensor, region: Region, degrade: float, generator: torch.Generator
) -> torch.Tensor:
    """(N,) numbers -> (N, D): the region in augmented crops, from landmarks that are a little off."""
    rows = []
    for part in numbers.split(64):
        batch = cut(faces, part, Jitter(degrade=degrade), generator)
        off = torch.randn(len(part), 1, 3, generator=generator) * 1.5
        rows.append(look(batch.image.clamp(-1, 1) / 2 + 0.5, batch.landmarks + off, region))
    return torch.cat(rows)


def look_plainly(faces: FaceSet, numbers: torch.Tensor | slice, region: Region) -> torch.Tensor:
    """(N,) numbers -> (N, D): the region in the crops as they are."""
    return look(faces.images[numbers].float() / 255, faces.landmarks[numbers], region)


def fit_as_seen(features: torch.Tensor, fit: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Fits on standardised columns, and gives a probe of the columns as they are.

    Args:
        features: (N, D).
        fit: (N, D) of mean 0 and deviation 1 -> (D + 1,) weights and bias.
    """
    probe, spread = fit(standardised(features)), features.std(0) + 1e-3
    weights = probe[:-1] / spread
    return torch.cat([weights, (probe[-1] - weights @ features.mean(0))[None]])


def score(probability: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """How well what is plain is told (accuracy, precision, recall at 0.5, area under the ROC curve); the mean error.

    Targets of 0.5, stubble, are for the mean error alone: whoever says no to them is as right as who says yes.
    """
    plain = target != 0.5
    yes, said, p = target[plain] > 0.5, probability[plain] >= 0.5, probability[plain]
    if not yes.any() or yes.all():
        raise ValueError(f"the hold-out must hold both kinds; {yes.sum()} of {len(yes)} are yes")
    order = (p[yes][:, None] > p[~yes]) + 0.5 * (p[yes][:, None] == p[~yes])
    hits = float((yes & said).sum())
    values = {
        "accuracy": float((yes == said).mean()), "auc": float(order.mean()),
        "precision": hits / max(1, int(said.sum())), "recall": hits / int(yes.sum()),
        "mean_error": float(np.abs(probability - target).mean()),
    }  # fmt: skip
    return {name: round(value, 4) for name, value in values.items()} | {"n": len(target), "positives": int(yes.sum())}


def label(options: Options) -> dict[str, dict[str, float]]:
    """Writes the labels of all crops, the reader's probes, and the hold-out scores of both, which it returns."""
    if options.threads:
        torch.set_num_threads(options.threads)
    faces, hand = load_faces(Path(options.data), limit=options.limit or None), HandLabels.load(options.hand)
    rows = hand.rows_of(faces.keys)
    if not (rows >= 0).any():
        raise ValueError(f"none of the {len(rows)} crops of {options.hand} is in {options.data}")
    columns, scores, probes = {}, {}, {}
    for name in SEEN:
        region = REGIONS[name]
        values, features = hand.values[name], features_of(faces, region)
        known = (rows >= 0) & np.isfinite(values)
        fitted, kept = known & ~hand.holdout, known & hand.holdout
        probe = fit_calibrated(features[rows[fitted]], torch.from_numpy(values[fitted]), region.decay)
        probability = apply_classifier(probe, features).sigmoid().numpy()
        scores[name] = score(probability[rows[kept]], values[kept])
        log.info("%s on the hold-out: %s", name, scores[name])
        probability[rows[known]] = values[known]
        columns[name] = probability.astype(np.float32)
        probes[name] = fit_reading_probe(faces, rows[fitted], values[fitted], region)
        probes[name][-1] -= SURE.get(name, 0.0)
        seen = look_plainly(faces, torch.from_numpy(rows[kept]), region)
        read = apply_classifier(probes[name], seen).sigmoid().numpy()
        scores[f"{name}, by the reader's probe"] = score(read, values[kept])
    probes["male"], score_of_male = gender_probe(faces)
    scores |= score_of_male
    AttributeClassifiers(probes).save(Path(options.out).with_suffix(".safetensors"))
    np.savez(options.out, key=np.array(faces.keys), **columns)
    write_json(scores, Path(options.out).with_suffix(".json"))
    return scores


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(label(parse_options(Options, argv, __doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
