"""Asks the painter for faces that no crop shows, and lets frozen networks say whether it painted what was asked for.

Crops teach who somebody is, what they look like and where they stand all at once: a painter can read one from the
others and need not listen to each. Here a crop's surroundings meet another person, and at times glasses, a beard or
years that neither has. No picture of that exists to compare with, so the loss is what the reader and the recognisers
read from the painted face: the wish itself, as face swappers are trained (Li et al. 2020, "FaceShifter", eq. 3-6).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import ResNetForImageClassification

from deid_diffusion.attributes import HAPPY, shrink, split_outputs
from deid_diffusion.geometry import EYES, FIVE, NOSE_TIP, OMZ_TEMPLATE, fit_similarity
from deid_diffusion.light import skin_mask
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, FIELDS, POINTS
from deid_diffusion.pipelines.id_encoder import WINDOW, embed
from deid_diffusion.probes import REGIONS, Probes, apply_probe, look
from deid_diffusion.training.data import Batch, FaceSet
from deid_diffusion.training.masks import foreheads, inner_faces
from deid_diffusion.training.people import OVERDO, apart, lend_geometry

AGE, MALE, SMILE, GLASSES, HAIR = (
    ATTRIBUTE_NAMES.index(name) for name in ("age", "male", "smile", "glasses", "facial_hair")
)
CANDIDATES = 24  # strangers to choose the new person from
SHIFT = 10  # px: the guide looks from elsewhere each time, so that no one look can be fooled
# Gradients of a sure network's cross-entropy are ten times those of a cosine; here each has about its equal say.
SAY = {
    "person": 1.0, "source": 0.5, "teacher": 1.0, "teacher_source": 0.5, "landmarks": 0.5, "age": 0.25, "male": 0.05,
    "smile": 0.08, "glasses": 0.08, "facial_hair": 0.04, "crowd": 1.5, "teacher_crowd": 3.0, "blotches": 10.0,
    "eyes": 2.0,
}  # fmt: skip
TEACHER_SIDE = 128
SURE = 2.0  # a logit this far on the right side is sure enough: asked for more, women get make-up and men beards
# Cosine to the source that is strange enough: as strangers' photos have. Asked for less, painters blacken eyes, which
# the guide takes for somebody else's.
STRANGE = {"source": 0.3, "teacher_source": 0.15}
# Cosine to the person wished for that is near enough: by the teacher, 99 of 100 strangers are below 0.28. Asked for
# more, a painter learns to please the recognisers, with brows and lips that nobody has.
ENOUGH = 0.35
# px, a quarter of the eye distance, and how far such a patch may be from the source's in grey and in tint, of ranges
# of 2 and 4: as four of five patches of two photographed people. Brows and cheeks differ, but the source was in the
# same light and had no red nose and no black lids; and tints, which light hardly moves, differ half as much as greys.
# Patches of half that side differ as much, and are asked for on bare skin alone: there they are the glare and the hard
# shadow of a nose, while around the eyes they are somebody's brows.
PATCH, FINE_PATCH, LEEWAY, TINT_LEEWAY = 16, 8, 0.12, 0.05
EYE_LEEWAY = 0.15  # of a range of 2: how much darker the whites of the eyes may be than the source's
WHITE = 1 / 3  # of an eye's pixels, those that count as its white
WHITEST = 512  # pixels that count, at most: an eye of a crop of 256 px has 500
CROWD = 96  # painted faces to be unlike


@dataclass(frozen=True)
class Witnesses:
    """Frozen networks that say what was painted.

    Attributes:
        reader: landmarks and attributes, as `deid train reader` makes it.
        guide: identity, as `deid train id_encoder` makes it.
        teacher: the recogniser that made the `embedding` labels: (B, 3, 128, 128) BGR in 0..255, aligned to
            OMZ_TEMPLATE, to (B, D). What fools one of two recognisers seldom fools both, and least of all a third.
            None for none.
        probes: a second say on glasses and facial hair, by their edges; None for none.
    """

    reader: ResNetForImageClassification
    guide: ResNetForImageClassification
    teacher: torch.nn.Module | None = None
    probes: Probes | None = None

    @classmethod
    def load(
        cls,
        reader: str | Path,
        guide: str | Path,
        device: torch.device,
        teacher: str | Path = "",
        probes: str | Path = "",
    ) -> Witnesses:
        """From the folders that the two training scripts wrote, the TorchScript file of a teacher, and fitted probes.

        The probes' file counts if it is there: `deid train label` writes it beside the labels.
        """
        nets = [
            ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
            for folder in (Path(reader) / "network", Path(guide) / "id_encoder")
        ]
        nets = [net.to(device) for net in nets]
        script = None
        if teacher:
            script = torch.jit.load(str(teacher), map_location=device).eval()
            for weight in script.parameters():
                weight.requires_grad_(False)  # a ScriptModule knows no requires_grad_ of its own
        fitted = Probes.load(Path(probes)) if probes and Path(probes).exists() else None
        return cls(*nets, teacher=script, probes=fitted)

    def states(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, S, S) in [-1, 1] -> the reader's hidden states, (B, C, h, w) each, with gradients."""
        return self.reader(shrink(images), output_hidden_states=True).hidden_states


class Crowd:
    """The faces painted last, as one recogniser saw them, and who they were to be.

    Every painter has a look, and recognisers take it for a trait that all its people share: each is near enough to
    the person wished for, and they are still hard to tell apart. So two of them may be no more alike than the two
    people that were wished for (after Park et al. 2019, "Relational Knowledge Distillation", eq. 2-4, one-sided).
    """

    def __init__(self, count: int = CROWD):
        self.count = count
        self.painted: torch.Tensor | None = None
        self.told: torch.Tensor | None = None

    def resemblance(self, painted: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """How much more alike than told, a mean over all pairs with the crowd; then they join it.

        Args:
            painted: (B, D) unit norm, with gradients.
            told: (B, D) unit norm.
        """
        loss = painted.sum() * 0
        if self.painted is not None and len(painted):
            loss = F.relu(painted @ self.painted.T - (told @ self.told.T).clamp_min(0)).mean()
        news, wished = painted.detach(), told.detach()
        self.painted = news if self.painted is None else torch.cat([news, self.painted])[: self.count]
        self.told = wished if self.told is None else torch.cat([wished, self.told])[: self.count]
        return loss


@dataclass(frozen=True, eq=False)
class Wish:
    """A batch whose attributes and embedding are wishes, and who its surroundings belong to.

    Attributes:
        batch: as the painter is told; its images are still the sources'.
        inner: (B, 1, S, S) in [0, 1], where the wish is to be seen.
        context: (B, 1, S, S) in [0, 1], where the picture is to stay what it was: hair and forehead are the
            surroundings', whoever the face becomes.
        source: (B, 256) unit norm, the guide's view of the sources.
        teacher_source: (B, 256) unit norm, the teacher's.
        plain: (B, 1, S, S) in [0, 1], the inner face less its half where the source or the wish has glasses (above the
            nose tip) or a beard (below it): only there do colours stay.
        eyes: (B,) how light the whites of the sources' eyes are, see `eye_whites`.
    """

    batch: Batch
    inner: torch.Tensor
    context: torch.Tensor
    source: torch.Tensor
    teacher_source: torch.Tensor
    plain: torch.Tensor
    eyes: torch.Tensor


@torch.no_grad()
def make_wish(batch: Batch, faces: FaceSet, guide: torch.nn.Module, generator: torch.Generator) -> Wish:
    """Gives each crop of a batch another person of its age and gender, and some of them other looks."""
    count, device = len(batch.image), batch.image.device
    wanted = batch.attributes.clone()

    def some(share: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) < share).to(device)

    years = wanted[:, AGE] + 15 * torch.randn(count, generator=generator).to(device)
    wanted[:, AGE] = torch.where(some(0.4), years.clamp(8, 75), wanted[:, AGE])
    wanted[:, MALE] = torch.where(some(0.1), 1 - wanted[:, MALE].round(), wanted[:, MALE].round())
    wanted[:, GLASSES] = some(0.4).float()
    bearded = some(0.4) & (wanted[:, MALE] > 0.5) & (wanted[:, AGE] > 18)
    wanted[:, HAIR] = bearded.float()
    numbers = faces.draw(count * CANDIDATES, generator).to(faces.attributes.device).view(count, CANDIDATES)
    looks = faces.attributes[numbers].to(device)
    far = (looks[..., AGE] - wanted[:, None, AGE]).abs() / 20 + (looks[..., MALE] - wanted[:, None, MALE]).abs()
    # People with glasses are not in the bank, so their embeddings are never told at inference.
    far = far + looks[..., GLASSES].nan_to_num()
    chosen = numbers.gather(1, far.argmin(1, keepdim=True).to(numbers.device))[:, 0]
    # As far from the crowd as the people of the bank, and all the way there.
    far_off = torch.rand(count, generator=generator)
    person = apart(faces.embedding[chosen], faces.embedding.mean(0), far_off[:, None].to(faces.embedding)).to(device)
    landmarks = lend_geometry(batch, faces, chosen, 1 + (OVERDO - 1) * far_off)
    wanted_batch = replace(batch, attributes=wanted, embedding=person, landmarks=landmarks)
    size = batch.image.shape[-1]
    inner = inner_faces(batch.landmarks, size)
    # Beards reach the cheeks and glasses the temples: where those change, only the forehead is known to stay.
    changed = ((wanted - batch.attributes)[:, [GLASSES, HAIR]].nan_to_num(1.0).abs() > 0.5).any(1)
    known = torch.where(changed[:, None, None, None], foreheads(batch.landmarks, size), torch.ones_like(inner))
    seen = embed(guide, batch.image.clamp(-1, 1))
    worn = torch.maximum(wanted, batch.attributes.nan_to_num(1.0))[:, [GLASSES, HAIR], None, None, None] > 0.5
    below = torch.arange(size, device=device)[:, None] > batch.landmarks[:, NOSE_TIP, 1, None, None, None]
    plain = inner * torch.where(below, ~worn[:, 1], ~worn[:, 0])
    return Wish(wanted_batch, inner, known * (1 - inner), seen, batch.embedding, plain,
                eye_whites(batch.image, batch.landmarks))  # fmt: skip


def disobedience(
    painted: torch.Tensor,
    wish: Wish,
    vector: torch.Tensor,
    witnesses: Witnesses,
    generator: torch.Generator,
    crowds: dict[str, Crowd] | None = None,
) -> dict[str, torch.Tensor]:
    """What was asked for and is not there, by what it is about; each a mean over the faces, weighed by `SAY`.

    Args:
        painted: (B, 3, S, S) in [-1, 1], whole crops; only their inner faces are blamed.
        wish: what was asked for.
        vector: (B, C) the condition vector that the painter got, whose validity bits say what it was told.
        witnesses: who looks.
        generator: for where the guide looks from.
        crowds: by "crowd" for the guide and "teacher_crowd", which these faces join; None for no such demand.
    """
    batch, told = wish.batch, vector[:, len(FIELDS) : 2 * len(FIELDS)]
    painted = torch.lerp(painted.detach(), painted, wish.inner)
    read = split_outputs(witnesses.reader(shrink(painted)).logits)
    points = list(POINTS)
    where = F.smooth_l1_loss(
        read.landmarks[:, points, :2], batch.landmarks[:, points, :2] / painted.shape[-1], beta=0.01, reduction="none"
    ).mean((1, 2))
    smile = read.expression.softmax(-1)[:, HAPPY].clamp(1e-4, 1 - 1e-4)
    said = {
        "age": (AGE, F.smooth_l1_loss(read.age / 20, batch.attributes[:, AGE] / 20, reduction="none")),
        "male": (MALE, unsure(read.male, batch.attributes[:, MALE])),
        "smile": (SMILE, cross_entropy(smile, batch.attributes[:, SMILE])),
        "glasses": (GLASSES, unsure(read.glasses, batch.attributes[:, GLASSES])),
        "facial_hair": (HAIR, unsure(read.facial_hair, batch.attributes[:, HAIR])),
    }  # fmt: skip
    if witnesses.probes is not None:
        unit = painted.clamp(-1, 1) / 2 + 0.5
        for name in witnesses.probes.weights.keys() & {"glasses", "facial_hair"}:
            column, by_network = said[name]
            logits = apply_probe(witnesses.probes.weights[name].to(unit), look(unit, batch.landmarks, REGIONS[name]))
            said[name] = column, (by_network + unsure(logits, batch.attributes[:, column])) / 2
    person = embed(witnesses.guide, *glance(painted, generator))
    named = vector[:, -1]  # whether it was told who
    losses = {name: (loss * told[:, column]).mean() for name, (column, loss) in said.items()}
    losses |= {
        "landmarks": 20 * where.mean(),
        "person": (F.relu(ENOUGH - (person * batch.embedding).sum(-1)) * named).mean(),
        "source": F.relu((person * wish.source).sum(-1) - STRANGE["source"]).mean(),
    }
    losses["eyes"] = F.relu(wish.eyes - EYE_LEEWAY - eye_whites(painted, batch.landmarks)).mean()
    bare = wish.plain * skin_mask(batch.landmarks, painted.shape[-1])
    coarse, fine = (blotches(painted, batch.image, *where) for where in ((wish.plain, PATCH), (bare, FINE_PATCH)))
    losses["blotches"] = (coarse + fine).mean()
    if crowds is not None:
        losses["crowd"] = crowds["crowd"].resemblance(person[named > 0.5], batch.embedding[named > 0.5])
    if witnesses.teacher is not None:
        seen = teacher_view(painted, batch.landmarks[:, list(FIVE), :2], generator)
        taught = F.normalize(witnesses.teacher(seen).flatten(1), dim=-1)
        losses |= {
            "teacher": (F.relu(ENOUGH - (taught * batch.embedding).sum(-1)) * named).mean(),
            "teacher_source": F.relu((taught * wish.teacher_source).sum(-1) - STRANGE["teacher_source"]).mean(),
        }
        if crowds is not None:
            losses["teacher_crowd"] = crowds["teacher_crowd"].resemblance(
                taught[named > 0.5], batch.embedding[named > 0.5]
            )
    return {name: SAY[name] * loss for name, loss in losses.items()}


def cross_entropy(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(B,) probabilities in (0, 1), (B,) in [0, 1] -> (B,). torch refuses its own under autocast on a GPU."""
    found = found.float()
    return -(wanted * found.log() + (1 - wanted) * (1 - found).log())


def unsure(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(B,) logits, (B,) wanted probabilities -> (B,) how much is missing to `SURE` on the side that is wanted.

    A hinge of slope 1: cross-entropy would go on rewarding a face for being more of a woman than any photographed one.
    """
    return F.relu(SURE - logits * (2 * (wanted > 0.5).to(logits) - 1))


def blotches(painted: torch.Tensor, source: torch.Tensor, where: torch.Tensor, side: int = PATCH) -> torch.Tensor:
    """How far patches of a face are from the colour that light and skin had there, beyond `LEEWAY` and `TINT_LEEWAY`.

    The painter never sees the source's face and can only guess at its usual colours, which is what is wanted.

    Args:
        painted, source: (B, 3, S, S) RGB in [-1, 1].
        where: (B, 1, S, S) in [0, 1], where it counts.
        side: of a patch, in px.

    Returns:
        (B,), a mean over what counts.
    """
    red, green, blue = F.avg_pool2d(painted - source, side).unbind(1)
    grey = F.relu((red + green + blue).abs() / 3 - LEEWAY)
    tints = F.relu(torch.stack([red - green, blue - (red + green) / 2]).abs() - TINT_LEEWAY).sum(0)
    share = F.avg_pool2d(where, side)[:, 0]
    return ((grey + tints) * share).sum((1, 2)) / share.sum((1, 2)).clamp_min(1.0)


def eye_whites(images: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """How light the lightest third of each eye is: blackened eyes have no white, whoever they are of.

    Args:
        images: (B, 3, S, S) in [-1, 1].
        landmarks: (B, 478, 2 or 3) in crop pixels.

    Returns:
        (B,) in [-1, 1], the mean of both eyes.
    """
    grey, axis = images.mean(1), torch.arange(images.shape[-1], device=images.device) + 0.5
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    lightest = []
    for eye in EYES:
        points = landmarks[:, list(eye), :2].to(images).clamp(0, images.shape[-1])
        centre = points[:, :2].mean(1)
        wide, high = points[:, 0] - points[:, 1], points[:, 2] - points[:, 3]
        radius = torch.stack([wide.norm(dim=-1), high.norm(dim=-1)], -1).clamp_min(4.0) / 2
        along = F.normalize(wide, dim=-1)
        across = torch.stack([-along[:, 1], along[:, 0]], -1)
        frame = torch.stack([along, across], 1) / radius[..., None]
        off = torch.einsum("bij,bhwj->bhwi", frame, pixels - centre[:, None, None])
        inside = (off.square().sum(-1) < 1).flatten(1)
        count = (inside.sum(1) * WHITE).round().clamp(1, WHITEST)
        values = grey.flatten(1).masked_fill(~inside, -1.0).topk(WHITEST).values
        counted = torch.arange(WHITEST, device=images.device) < count[:, None]
        lightest.append((values * counted).sum(1) / count)
    return torch.stack(lightest).mean(0)


def teacher_view(images: torch.Tensor, five: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Faces as the teacher wants them, from a little beside and mirrored half the time.

    Args:
        images: (B, 3, S, S) RGB in [-1, 1].
        five: (B, 5, 2) irises, nose tip, mouth corners in pixels.
        generator: for where it looks from.

    Returns:
        (B, 3, 128, 128) BGR in 0..255.
    """
    size = images.shape[-1]
    points = five / size * 2 - 1  # -1..1 across the crop, as affine_grid counts
    points = points + torch.randn(points.shape, generator=generator).to(points) * 0.015
    fits = [fit_similarity(OMZ_TEMPLATE * 2 - 1, face) for face in points.double().cpu().numpy()]
    crop_from_view = images.new_tensor(np.stack([np.column_stack([zoom * turn, shift]) for zoom, turn, shift in fits]))
    shape = [len(images), 3, TEACHER_SIDE, TEACHER_SIDE]
    grid = F.affine_grid(crop_from_view, shape, align_corners=False)
    view = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if torch.rand((), generator=generator) < 0.5:
        view = view.flip(-1)
    return (view.flip(1) + 1) * 127.5


def glance(images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, tuple[int, int]]:
    """The same faces as seen another time: mirrored or not, at another resolution, from a little beside.

    Returns:
        (B, 3, S, S), and the shift to look from.
    """
    side, size = int(torch.randint(96, 257, (), generator=generator)), images.shape[-1]
    if side < size:
        small = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        images = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    if torch.rand((), generator=generator) < 0.5:
        images = images.flip(-1)
    bound = min(SHIFT, (size - int(size * WINDOW)) // 2)
    x, y = torch.randint(-bound, bound + 1, (2,), generator=generator).tolist()
    return images, (x, y)
