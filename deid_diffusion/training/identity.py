"""Makes target identities: embeddings without what all people share, and their geometry on another's crop."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from deid_diffusion.faces.estimator import SIDE
from deid_diffusion.faces.face_shape import EXPRESSION_NAMES, FaceShape
from deid_diffusion.faces.geometry import FIVE, apply, compose, crop_from_image, invert
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES, POINTS
from deid_diffusion.training.data import Batch, FaceSet

# Of a person's own geometry, at most, in counterfactual conditions: generators tend to an average face, and so learn
# not to. People of the bank keep theirs as it is: exaggerated, it cost accuracy in pose and gained next to nothing
# for recognisers.
MAX_EXAGGERATION = 1.2


def decorrelate(embedding: torch.Tensor, mean: torch.Tensor, share: float | torch.Tensor = 1.0) -> torch.Tensor:
    """Embeddings without a share of what all people have in common.

    Args:
        embedding: (N, D) unit norm.
        mean: (D,) of many people's.
        share: of the mean, in [0, 1]; a number or (N, 1).

    Returns:
        (N, D) unit norm.
    """
    return F.normalize(embedding - share * mean, dim=-1)


def identity_coefficients(shape: FaceShape, landmarks: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """Identity coefficients of the face shape, within what the bank of identities holds.

    Args:
        shape: the model that they are coefficients of.
        landmarks: (478, 3) crop pixels.
        expression: (E,) values of EXPRESSION_NAMES.

    Returns:
        (P,) in standard deviations, cut to [-2, 2].
    """
    return np.clip(shape.shape_of(shape.locate(landmarks).unplace(landmarks), expression), -2, 2)


def transfer_geometry(batch: Batch, faces: FaceSet, chosen: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """The batch's landmarks with the generator's points moved to where the chosen people have theirs.

    Pose and expression stay the crop's, and so does the outline, which the masks are drawn around. As at inference,
    the face stands where a crop of it would put it.

    Args:
        batch: B crops.
        faces: where the chosen people are.
        chosen: (B,) their numbers.
        gain: (B,) factor that exaggerates what is theirs, 1 = not at all.

    Returns:
        (B, 478, 3) crop pixels.
    """
    shape, out = faces.shape, batch.landmarks.clone()
    columns = [ATTRIBUTE_NAMES.index(name) for name in EXPRESSION_NAMES]
    # All at once from the device: each way there and back waits for all that it has to do.
    own_points, their_points, own_expressions, their_expressions = (
        values.double().cpu().numpy()
        for values in (
            batch.landmarks, faces.landmarks[chosen], batch.attributes[:, columns].nan_to_num(),
            faces.attributes[chosen][:, columns],
        )
    )  # fmt: skip
    rows = []
    for own, other, expression, theirs_expression, factor in zip(
        own_points, their_points, own_expressions, their_expressions, gain.tolist(), strict=True
    ):
        place = shape.locate(own)
        canonical = place.unplace(own)
        theirs = identity_coefficients(shape, other, theirs_expression) * factor
        change = theirs - shape.shape_of(canonical, expression)
        moved = canonical + np.tensordot(change * shape.shape_std, shape.shape_basis, axes=1)
        flat = place.place(moved)[:, :2]
        square, new = (crop_from_image(points[list(FIVE), :2], SIDE) for points in (own, flat))
        rows.append(apply(compose(invert(square), new), flat)[list(POINTS)])
    out[:, list(POINTS), :2] = torch.as_tensor(np.stack(rows)).to(out)
    return out
