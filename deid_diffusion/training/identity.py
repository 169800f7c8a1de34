"""Who somebody is, apart from everybody: embeddings and geometry of the people that a painter is asked for."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from deid_diffusion.faces.estimator import SIDE
from deid_diffusion.faces.face_shape import EXPRESSION_NAMES, FaceShape
from deid_diffusion.faces.geometry import FIVE, apply, compose, crop_from_image, invert
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, POINTS
from deid_diffusion.training.data import Batch, FaceSet

# Of what is a person's own geometry, at most, in wishes: painters paint towards an average face, and so learn not to.
# People of the bank keep theirs as it is: overdone, it cost likeness in pose and gained next to nothing for a judge.
OVERDO = 1.2


def apart(embedding: torch.Tensor, crowd: torch.Tensor, share: float | torch.Tensor = 1.0) -> torch.Tensor:
    """(N, D), (D,) mean of many -> (N, D) unit norm: people without a share of what they all have in common."""
    return F.normalize(embedding - share * crowd, dim=-1)


def geometry_of(shape: FaceShape, landmarks: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """(478, 3) crop pixels -> (P,) geometry of the person, within what the bank of identities holds."""
    return np.clip(shape.person_part(shape.locate(landmarks).unplace(landmarks), expression), -2, 2)


def lend_geometry(batch: Batch, faces: FaceSet, chosen: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """The batch's landmarks with the painter's points moved to where the chosen people have theirs.

    Pose and expression stay the crop's, and so does the outline, which the masks are drawn around. As at inference,
    the face stands where a crop of it would put it.

    Args:
        batch: B crops.
        faces: where the chosen people are.
        chosen: (B,) their numbers.
        gain: (B,) how much to overdo what is theirs, 1 = not at all.

    Returns:
        (B, 478, 3).
    """
    shape, out = faces.shape, batch.landmarks.clone()
    columns = [ATTRIBUTE_NAMES.index(name) for name in EXPRESSION_NAMES]
    # All at once from the device: each way there and back waits for all that it has to do.
    owns, others, said, theirs_said = (
        values.double().cpu().numpy()
        for values in (
            batch.landmarks, faces.landmarks[chosen], batch.attributes[:, columns].nan_to_num(),
            faces.attributes[chosen][:, columns],
        )
    )  # fmt: skip
    rows = []
    for own, other, expression, theirs_expression, much in zip(
        owns, others, said, theirs_said, gain.tolist(), strict=True
    ):
        place = shape.locate(own)
        canonical = place.unplace(own)
        theirs = geometry_of(shape, other, theirs_expression) * much
        change = theirs - shape.person_part(canonical, expression)
        moved = canonical + np.tensordot(change * shape.person_std, shape.person_basis, axes=1)
        flat = place.place(moved)[:, :2]
        square, new = (crop_from_image(points[list(FIVE), :2], SIDE) for points in (own, flat))
        rows.append(apply(compose(invert(square), new), flat)[list(POINTS)])
    out[:, list(POINTS), :2] = torch.as_tensor(np.stack(rows)).to(out)
    return out
