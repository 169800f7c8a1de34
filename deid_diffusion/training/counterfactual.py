"""Conditions the generator on faces that no crop shows, and measures how far it satisfied them.

Crops teach who somebody is, what they look like and where they stand all at once: a generator can read one from the
others and need not follow each. Here a crop's surroundings meet another identity, and at times glasses, a beard or
years that neither has. No picture of that counterfactual exists to compare with, so the loss is what frozen teachers
see in the generated face: consistency with the condition, as face swappers are trained (Li et al. 2020,
"FaceShifter", eq. 3-6).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from deid_diffusion.faces.attribute_classifiers import REGIONS, apply_classifier, look
from deid_diffusion.faces.estimator import HAPPY, shrink, split_outputs
from deid_diffusion.faces.geometry import FIVE, NOSE_TIP
from deid_diffusion.faces.skin import skin_mask
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, FIELDS, POINTS
from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.training.artefacts import FINE_PATCH, PATCH, blotches, eye_whites
from deid_diffusion.training.data import Batch, FaceSet
from deid_diffusion.training.identity import MAX_EXAGGERATION, decorrelate, transfer_geometry
from deid_diffusion.training.masks import foreheads, inner_faces
from deid_diffusion.training.teachers import FrozenTeachers, augmented_view, recogniser_view

AGE, MALE, SMILE, GLASSES, FACIAL_HAIR = (
    ATTRIBUTE_NAMES.index(name) for name in ("age", "male", "smile", "glasses", "facial_hair")
)
CANDIDATES = 24  # people to choose the target identity from
# Gradients of a sure network's cross-entropy are ten times those of a cosine; so weighted, each counts about equally.
# "_recogniser": the same as without, by the second recogniser.
LOSS_WEIGHTS = {
    "identity": 1.0, "source": 0.5, "identity_recogniser": 1.0, "source_recogniser": 0.5, "landmarks": 0.5,
    "age": 0.25, "male": 0.05, "smile": 0.08, "glasses": 0.08, "facial_hair": 0.04, "similarity": 1.5,
    "similarity_recogniser": 3.0, "blotches": 10.0, "eyes": 2.0,
}  # fmt: skip
LOGIT_MARGIN = 2.0  # far enough on the right side: asked for more, women get make-up and men beards
# Cosine to the source that is different enough: as other people's photos have. Asked for less, generators blacken
# eyes, which the identity encoder takes for somebody else's.
SOURCE_SIMILARITY = {"source": 0.3, "source_recogniser": 0.15}
# Cosine to the target identity that is near enough: by the second recogniser, 99 of 100 strangers are below 0.28.
# Asked for more, a generator learns to please the recognisers, with brows and lips that nobody has.
TARGET_SIMILARITY = 0.35
EYE_TOLERANCE = 0.15  # of a range of 2: how much darker the whites of the eyes may be than the source's
MEMORY_SIZE = 96  # generated faces to be unlike


class SimilarityMemory:
    """Embeddings of the faces generated last, and of their target identities: regularises similarity across faces.

    Every generator has a look of its own, and recognisers take it for a trait that all its people share: each is near
    enough to the target identity, and they are still hard to tell apart. So two of them may be no more alike than
    their two targets (after Park et al. 2019, "Relational Knowledge Distillation", eq. 2-4, one-sided).
    """

    def __init__(self, size: int = MEMORY_SIZE) -> None:
        self.size = size
        self.generated: torch.Tensor | None = None
        self.targets: torch.Tensor | None = None

    def loss(self, generated: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How much more alike than their targets, a mean over all pairs with the memory; then they are stored.

        Args:
            generated: (B, D) unit norm, with gradients.
            targets: (B, D) unit norm.

        Returns:
            a scalar, 0 while the memory is empty.
        """
        loss = generated.sum() * 0
        if self.generated is None or self.targets is None:
            self.generated, self.targets = generated.detach()[:0], targets.detach()[:0]
        if len(self.generated) and len(generated):
            loss = F.relu(generated @ self.generated.T - (targets @ self.targets.T).clamp_min(0)).mean()
        self.generated = torch.cat([generated.detach(), self.generated])[: self.size]
        self.targets = torch.cat([targets.detach(), self.targets])[: self.size]
        return loss


@dataclass(frozen=True, eq=False)
class CounterfactualCondition:
    """A batch whose attributes, geometry and embedding are those of another identity than its images.

    Attributes:
        batch: what the generator is conditioned on; its images are still the sources'.
        inner: (B, 1, S, S) in [0, 1], where the condition is to be satisfied.
        context: (B, 1, S, S) in [0, 1], where the picture is to stay what it was: hair and forehead are the
            surroundings', whoever the face becomes.
        source: (B, 256) unit norm, the identity encoder's embedding of the sources.
        source_recogniser: (B, 256) unit norm, the second recogniser's.
        plain: (B, 1, S, S) in [0, 1], the inner face less its half where the source or the condition has glasses
            (above the nose tip) or a beard (below it): only there do colours stay.
        eyes: (B,) how light the whites of the sources' eyes are, see `eye_whites`.
    """

    batch: Batch
    inner: torch.Tensor
    context: torch.Tensor
    source: torch.Tensor
    source_recogniser: torch.Tensor
    plain: torch.Tensor
    eyes: torch.Tensor


@torch.no_grad()
def make_counterfactual(
    batch: Batch, faces: FaceSet, id_encoder: torch.nn.Module, generator: torch.Generator
) -> CounterfactualCondition:
    """Conditions each crop of a batch on another identity of its age and gender, and some on other attributes.

    Args:
        batch: B whole crops.
        faces: where target identities are drawn from.
        id_encoder: embeds the sources.
        generator: for every draw.
    """
    count, device = len(batch.image), batch.image.device
    attributes = _changed_attributes(batch, generator)
    numbers = faces.draw(count * CANDIDATES, generator).to(faces.attributes.device).view(count, CANDIDATES)
    theirs = faces.attributes[numbers].to(device)
    mismatch = (theirs[..., AGE] - attributes[:, None, AGE]).abs() / 20
    mismatch = mismatch + (theirs[..., MALE] - attributes[:, None, MALE]).abs()
    # People with glasses are not in the bank, so no embedding of theirs is met at inference.
    mismatch = mismatch + theirs[..., GLASSES].nan_to_num()
    chosen = numbers.gather(1, mismatch.argmin(1, keepdim=True).to(numbers.device))[:, 0]
    # As far from the mean as the identities of the bank, and all the way there.
    share = torch.rand(count, generator=generator)
    embedding = decorrelate(faces.embedding[chosen], faces.embedding.mean(0), share[:, None].to(faces.embedding))
    landmarks = transfer_geometry(batch, faces, chosen, 1 + (MAX_EXAGGERATION - 1) * share)
    size = batch.image.shape[-1]
    inner = inner_faces(batch.landmarks, size)
    # Beards reach the cheeks and glasses the temples: where those change, only the forehead is known to stay.
    changed = ((attributes - batch.attributes)[:, [GLASSES, FACIAL_HAIR]].nan_to_num(1.0).abs() > 0.5).any(1)
    known = torch.where(changed[:, None, None, None], foreheads(batch.landmarks, size), torch.ones_like(inner))
    worn = (
        torch.maximum(attributes, batch.attributes.nan_to_num(1.0))[:, [GLASSES, FACIAL_HAIR], None, None, None] > 0.5
    )
    below = torch.arange(size, device=device)[:, None] > batch.landmarks[:, NOSE_TIP, 1, None, None, None]
    return CounterfactualCondition(
        batch=replace(batch, attributes=attributes, embedding=embedding.to(device), landmarks=landmarks),
        inner=inner, context=known * (1 - inner), source=embed(id_encoder, batch.image.clamp(-1, 1)),
        source_recogniser=batch.embedding, plain=inner * torch.where(below, ~worn[:, 1], ~worn[:, 0]),
        eyes=eye_whites(batch.image, batch.landmarks),
    )  # fmt: skip


def _changed_attributes(batch: Batch, generator: torch.Generator) -> torch.Tensor:
    """(B, A): the batch's attributes with another age, gender, glasses or beard at random."""
    count, device = len(batch.image), batch.image.device
    changed = batch.attributes.clone()

    def some(share: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) < share).to(device)

    years = changed[:, AGE] + 15 * torch.randn(count, generator=generator).to(device)
    changed[:, AGE] = torch.where(some(0.4), years.clamp(8, 75), changed[:, AGE])
    changed[:, MALE] = torch.where(some(0.1), 1 - changed[:, MALE].round(), changed[:, MALE].round())
    changed[:, GLASSES] = some(0.4).float()
    bearded = some(0.4) & (changed[:, MALE] > 0.5) & (changed[:, AGE] > 18)
    changed[:, FACIAL_HAIR] = bearded.float()
    return changed


def condition_consistency(
    generated: torch.Tensor,
    condition: CounterfactualCondition,
    vector: torch.Tensor,
    teachers: FrozenTeachers,
    generator: torch.Generator,
    memories: dict[str, SimilarityMemory] | None = None,
) -> dict[str, torch.Tensor]:
    """The condition-consistency loss, in parts: what of the condition the teachers do not find in the faces.

    Args:
        generated: (B, 3, S, S) in [-1, 1], whole crops; gradients reach their inner faces alone.
        condition: what was asked for.
        vector: (B, C) the condition vector that the generator got, whose validity bits say what was given.
        teachers: networks that judge.
        generator: for their views.
        memories: by "similarity" for the identity encoder and "similarity_recogniser", which these faces join; None
            for no such losses.

    Returns:
        scalars by the names of `LOSS_WEIGHTS`, each a mean over the faces, weighted; those that need a teacher or a
        memory that is not there are left out.
    """
    batch, given = condition.batch, vector[:, len(FIELDS) : 2 * len(FIELDS)]
    named = vector[:, -1]  # whether an identity was given
    generated = torch.lerp(generated.detach(), generated, condition.inner)
    losses = _attribute_losses(generated, batch, given, teachers)
    embedding = embed(teachers.id_encoder, *augmented_view(generated, generator))
    losses["eyes"] = F.relu(condition.eyes - EYE_TOLERANCE - eye_whites(generated, batch.landmarks)).mean()
    bare = condition.plain * skin_mask(batch.landmarks, generated.shape[-1])
    coarse = blotches(generated, batch.image, condition.plain, PATCH)
    losses["blotches"] = (coarse + blotches(generated, batch.image, bare, FINE_PATCH)).mean()
    seen = {"": (embedding, condition.source)}
    if teachers.recogniser is not None:
        view = recogniser_view(generated, batch.landmarks[:, list(FIVE), :2], generator)
        embedding = F.normalize(teachers.recogniser(view).flatten(1), dim=-1)
        seen["_recogniser"] = embedding, condition.source_recogniser
    for suffix, (embedding, source) in seen.items():
        short = F.relu(TARGET_SIMILARITY - (embedding * batch.embedding).sum(-1))
        losses["identity" + suffix] = (short * named).mean()
        limit = SOURCE_SIMILARITY["source" + suffix]
        losses["source" + suffix] = F.relu((embedding * source).sum(-1) - limit).mean()
        if memories is not None:
            known = named > 0.5
            losses["similarity" + suffix] = memories["similarity" + suffix].loss(
                embedding[known], batch.embedding[known]
            )
    return {name: LOSS_WEIGHTS[name] * loss for name, loss in losses.items()}


def _attribute_losses(
    generated: torch.Tensor, batch: Batch, given: torch.Tensor, teachers: FrozenTeachers
) -> dict[str, torch.Tensor]:
    """Landmarks and attributes against those of the batch; (B, A) `given` is 1 for attributes that count."""
    found = split_outputs(teachers.estimator(shrink(generated)).logits)
    points = list(POINTS)
    wanted = batch.landmarks[:, points, :2] / generated.shape[-1]
    smile = found.expression.softmax(-1)[:, HAPPY].clamp(1e-4, 1 - 1e-4)
    losses = {
        "age": (AGE, F.smooth_l1_loss(found.age / 20, batch.attributes[:, AGE] / 20, reduction="none")),
        "male": (MALE, hinge(found.male, batch.attributes[:, MALE])),
        "smile": (SMILE, cross_entropy(smile, batch.attributes[:, SMILE])),
        "glasses": (GLASSES, hinge(found.glasses, batch.attributes[:, GLASSES])),
        "facial_hair": (FACIAL_HAIR, hinge(found.facial_hair, batch.attributes[:, FACIAL_HAIR])),
    }  # fmt: skip
    if teachers.classifiers is not None:
        unit = generated.clamp(-1, 1) / 2 + 0.5
        for name in teachers.classifiers.weights.keys() & {"glasses", "facial_hair"}:
            column, by_estimator = losses[name]
            weights = teachers.classifiers.weights[name].to(unit)
            logits = apply_classifier(weights, look(unit, batch.landmarks, REGIONS[name]))
            losses[name] = column, (by_estimator + hinge(logits, batch.attributes[:, column])) / 2
    means = {name: (loss * given[:, column]).mean() for name, (column, loss) in losses.items()}
    return means | {"landmarks": 20 * F.smooth_l1_loss(found.landmarks[:, points, :2], wanted, beta=0.01)}


def cross_entropy(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(B,) probabilities in (0, 1), (B,) in [0, 1] -> (B,). torch refuses its own under autocast on a GPU."""
    found = found.float()
    return -(wanted * found.log() + (1 - wanted) * (1 - found).log())


def hinge(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(B,) logits, (B,) wanted probabilities -> (B,) how much is missing to `LOGIT_MARGIN` on the side that is wanted.

    Of slope 1: cross-entropy would go on rewarding a face for being more of a woman than any photographed one.
    """
    return F.relu(LOGIT_MARGIN - logits * (2 * (wanted > 0.5).to(logits) - 1))
