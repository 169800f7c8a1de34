"""Spreads a few hand labels over all crops: glasses and facial hair, as probabilities.

    deid train label --data faces/ --hand hand_labels.csv --out labels.npz

A linear classifier for each attribute, on edges, texture and colour around the eyes or the mouth. The crops are
aligned by the eyes, so that is enough, and no network has to be found first. What a person labelled keeps that label;
the rows marked `holdout` are never fitted and say how good the rest is.

Beside the labels it writes classifiers of the same kind for the face estimator, fitted on augmented crops: for glasses
and facial hair from the hand labels, for presented gender from the `male` labels of all crops.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from deid_diffusion.faces.attribute_classifiers import REGIONS, AttributeClassifiers, Region, apply_classifier, look
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.training.data import FaceSet, Jitter, augmented_batch, load_faces
from deid_diffusion.training.hand_labels import HAND, HAND_LABELLED, HandLabels, score
from deid_diffusion.training.run import option, run_command, write_json

log = logging.getLogger(__name__)
FOLDS, COPIES = 5, 3  # of cross-validation; augmented, of each labelled crop
# Logits: women without make-up are rare among generated people, and a beard on a woman is the worse mistake.
GENDER_SHIFT = 0.3
# Logits: every hold-out wearer is above 4, and real people with strong brows, but bare eyes, reach 2.2.
LOGIT_SHIFT = {"glasses": 2.2}
GENDER_CROPS = 5000  # as they are, and as many strongly augmented, for the gender classifier


@dataclass(frozen=True)
class Options:
    """What `deid train label` takes."""

    data: str = option("data", "folder with NAME-*.tar and NAME.npz")
    hand: str = option(str(HAND), "CSV of key, glasses, facial_hair (0..1) and split (train or holdout)")
    out: str = option("labels.npz", "gets key, glasses, facial_hair; beside it the scores, .json, and the "
                      "estimator's classifiers, .safetensors")  # fmt: skip
    limit: int = option(0, "use only this many crops, 0 for all")
    threads: int = option(0, "CPU threads, 0 for torch's choice")


def features_of(faces: FaceSet, region: Region, batch: int = 64) -> torch.Tensor:
    """(N, D) float32, each column of mean 0 and deviation 1; a face and its mirror image have the same row.

    Args:
        faces: N crops.
        region: where the attribute shows, and whether who it is tells something, too.
        batch: crops at a time.
    """
    rows = []
    for start in range(0, len(faces.images), batch):
        part = slice(start, start + batch)
        rows.append(plain_features(faces, part, region))
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


def fit_classifier(features: torch.Tensor, target: torch.Tensor, decay: float) -> torch.Tensor:
    """(N, D), (N,) in 0..1 -> (D + 1,) weights and bias of a logistic regression with an L2 penalty."""
    classifier = torch.zeros(features.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([classifier], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(apply_classifier(classifier, features), target)
        value = value + decay / 2 * classifier[:-1].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return classifier.detach()


def fit_calibrated(
    features: torch.Tensor, target: torch.Tensor, decay: float, face: torch.Tensor | None = None
) -> torch.Tensor:
    """A classifier whose probabilities are those seen on faces it was not fitted on (Platt 1999, by folds).

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
        classifier = fit_classifier(features[folds != fold], target[folds != fold], decay)
        unseen[folds == fold] = apply_classifier(classifier, features[folds == fold])
    scale, shift = fit_classifier(unseen[:, None], target, 0.0).tolist()
    classifier = fit_classifier(features, target, decay) * scale
    classifier[-1] += shift
    return classifier


def fit_estimator_classifier(faces: FaceSet, numbers: np.ndarray, target: np.ndarray, region: Region) -> torch.Tensor:
    """A classifier for pictures as they come: small, noisy and grey, with landmarks that are a little off.

    It gets nothing but the region: a man of forty gets no beard for being one.

    Args:
        faces: where the crops are.
        numbers: (N,) of those that were labelled.
        target: (N,) in 0..1.
        region: where the attribute shows.

    Returns:
        (D + 1,) weights and bias.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.cat([
        augmented_features(faces, torch.from_numpy(numbers), region, 0.5 if copy else 0.0, generator)
        for copy in range(1 + COPIES)
    ])  # fmt: skip
    face, wanted = (torch.from_numpy(np.tile(a, 1 + COPIES)) for a in (np.arange(len(numbers)), target))
    return fit_on_raw_columns(features, lambda columns: fit_calibrated(columns, wanted, region.decay, face))


def fit_gender_classifier(faces: FaceSet) -> torch.Tensor:
    """(D + 1,) weights and bias of a classifier for presented gender, on the `male` labels of the training split."""
    generator, region = torch.Generator().manual_seed(0), REGIONS["male"]
    train = torch.nonzero(faces.train.cpu())[:, 0]
    plain = train[torch.randperm(len(train), generator=generator)[:GENDER_CROPS]]
    rough = faces.draw(len(plain), generator)
    parts = [augmented_features(faces, n, region, degrade, generator) for n, degrade in ((plain, 0.1), (rough, 0.5))]
    features = torch.cat(parts)
    target = faces.attributes[torch.cat([plain, rough]), ATTRIBUTE_NAMES.index("male")]
    return fit_on_raw_columns(features, lambda columns: fit_classifier(columns, target, region.decay))


def calibrated_gender_classifier(faces: FaceSet) -> tuple[torch.Tensor, dict[str, dict[str, float]]]:
    """A classifier for presented gender, its bias set on the hold-out, and its scores there, if there is one.

    Args:
        faces: crops with `male` labels.

    Returns:
        (D + 1,) weights and bias, and the scores by name.
    """
    classifier = fit_gender_classifier(faces)
    held = torch.nonzero(~faces.train.cpu())[:, 0]
    target = faces.attributes[held, ATTRIBUTE_NAMES.index("male")].numpy()
    sure = (target < 0.1) | (target > 0.9)
    target, held = target[sure] > 0.5, held[torch.from_numpy(sure)]
    if target.all() or not target.any():
        return classifier, {}
    logits = apply_classifier(classifier, plain_features(faces, held, REGIONS["male"])).numpy()
    shift = equal_error_threshold(logits, target) + GENDER_SHIFT
    classifier[-1] -= shift
    estimated = 1 / (1 + np.exp(shift - logits))
    return classifier, {"male, by the estimator's classifier": score(estimated, target.astype(np.float32))}


def equal_error_threshold(logits: np.ndarray, target: np.ndarray) -> float:
    """(N,), (N,) bool -> the threshold at which either kind is as often taken for the other (equal error rate)."""
    candidates = np.unique(np.concatenate([logits, [0.0]]))
    candidates = (candidates[1:] + candidates[:-1]) / 2 if len(candidates) > 1 else candidates
    wrong = [abs((logits[~target] > t).mean() - (logits[target] < t).mean()) for t in candidates]
    return float(candidates[np.isclose(wrong, min(wrong))].max())


def augmented_features(
    faces: FaceSet, numbers: torch.Tensor, region: Region, degrade: float, generator: torch.Generator
) -> torch.Tensor:
    """(N,) numbers -> (N, D): the region in augmented crops, from landmarks that are a little off."""
    rows = []
    for part in numbers.split(64):
        batch = augmented_batch(faces, part, Jitter(degrade=degrade), generator)
        off = torch.randn(len(part), 1, 3, generator=generator) * 1.5
        rows.append(look(batch.image.clamp(-1, 1) / 2 + 0.5, batch.landmarks + off, region))
    return torch.cat(rows)


def plain_features(faces: FaceSet, numbers: torch.Tensor | slice, region: Region) -> torch.Tensor:
    """(N,) numbers -> (N, D): the region in the crops as they are."""
    return look(faces.images[numbers].float() / 255, faces.landmarks[numbers], region)


def fit_on_raw_columns(features: torch.Tensor, fit: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Fits on standardised columns, and gives a classifier of the columns as they are.

    Args:
        features: (N, D).
        fit: (N, D) of mean 0 and deviation 1 -> (D + 1,) weights and bias.

    Returns:
        (D + 1,) weights and bias.
    """
    classifier, spread = fit(standardised(features)), features.std(0) + 1e-3
    weights = classifier[:-1] / spread
    return torch.cat([weights, (classifier[-1] - weights @ features.mean(0))[None]])


def label(options: Options) -> dict[str, dict[str, float]]:
    """Writes the labels of all crops, the estimator's classifiers, and the hold-out scores of both, which it returns.

    Raises:
        ValueError: the data hold none of the crops that were labelled by hand.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    faces, hand = load_faces(options.data, limit=options.limit), HandLabels.load(options.hand)
    rows = hand.rows_of(faces.keys)
    if not (rows >= 0).any():
        raise ValueError(f"none of the {len(rows)} crops of {options.hand} is in {options.data}")
    columns, scores, classifiers = {}, {}, {}
    for name in HAND_LABELLED:
        region = REGIONS[name]
        values, features = hand.values[name], features_of(faces, region)
        known = (rows >= 0) & np.isfinite(values)
        fitted, kept = known & ~hand.holdout, known & hand.holdout
        classifier = fit_calibrated(features[rows[fitted]], torch.from_numpy(values[fitted]), region.decay)
        probability = apply_classifier(classifier, features).sigmoid().numpy()
        scores[name] = score(probability[rows[kept]], values[kept])
        log.info("%s on the hold-out: %s", name, scores[name])
        probability[rows[known]] = values[known]
        columns[name] = probability.astype(np.float32)
        classifiers[name] = fit_estimator_classifier(faces, rows[fitted], values[fitted], region)
        classifiers[name][-1] -= LOGIT_SHIFT.get(name, 0.0)
        seen = plain_features(faces, torch.from_numpy(rows[kept]), region)
        estimated = apply_classifier(classifiers[name], seen).sigmoid().numpy()
        scores[f"{name}, by the estimator's classifier"] = score(estimated, values[kept])
    classifiers["male"], score_of_male = calibrated_gender_classifier(faces)
    scores |= score_of_male
    AttributeClassifiers(classifiers).save(Path(options.out).with_suffix(".safetensors"))
    np.savez(options.out, key=np.array(faces.keys), **columns)
    write_json(scores, Path(options.out).with_suffix(".json"))
    return scores


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command."""
    run_command(Options, label, argv, __doc__)


if __name__ == "__main__":
    main()
