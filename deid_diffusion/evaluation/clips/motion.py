"""Reads what a face does, by networks that no anonymizer here reads with: mouth, eyes, smile, yaw, pitch."""

from __future__ import annotations

import numpy as np

from deid_diffusion.evaluation.nets import FaceNets
from deid_diffusion.evaluation.results import EvaluationError
from deid_diffusion.evaluation.utility import head_pose_deg
from deid_diffusion.evaluation.warp import crop_box, eye_distance, square_box
from deid_diffusion.faces.face_shape import FaceShape, angles_from_rotation, read_expression
from deid_diffusion.faces.facemesh import SEEN, FaceMesh
from deid_diffusion.types import Face
from deid_diffusion.weight_files import weights_dir

# Where the source moves less than this (standard deviation), a correlation says nothing. Mouth and eyes: 0 shut to 1;
# smile: probability; angles in degrees.
STILL = {"mouth": 0.04, "eyes": 0.05, "smile": 0.1, "yaw": 2.0, "pitch": 2.0}
MOTIONS = tuple(STILL)
_HAPPY = 1  # in the order of `NetOptions.expression`


class MotionReader:
    """Reads motions of a face with what it was given.

    Attributes:
        by: who reads each motion, by its name in MOTIONS; what nobody reads is missing.
    """

    def __init__(self, nets: FaceNets, five_points: bool, facemesh: str | None = None) -> None:
        """Starts MediaPipe where it is asked for.

        Args:
            nets: optional networks; landmarks read mouth and eyes, pose the angles, expression the smile.
            five_points: whether the detector measures all five landmarks, which give the angles where nothing better
                does.
            facemesh: a Python interpreter with MediaPipe, see `faces.facemesh`, which then reads all but the smile.

        Raises:
            EvaluationError: there is no such interpreter, or it has no MediaPipe.
        """
        self._nets, self._facemesh, self._shape = nets, None, None
        self.by = {"smile": nets.names["expression"]} if "expression" in nets else {}
        if facemesh is not None:
            try:
                self._facemesh = FaceMesh(facemesh)
            except (OSError, ValueError) as error:
                raise EvaluationError(str(error)) from error
            # Only its rigid points count: they turn landmarks into angles, and know nothing of the face's network.
            self._shape = FaceShape.load(weights_dir("face_estimator") / "face_shape.safetensors")
            self.by |= dict.fromkeys(("mouth", "eyes", "yaw", "pitch"), "MediaPipe FaceMesh")
            return
        if "landmarks" in nets:
            self.by |= dict.fromkeys(("mouth", "eyes"), nets.names["landmarks"])
        if "pose" in nets or five_points:
            who = nets.names["pose"] if "pose" in nets else "the detector's five points on a mean head"
            self.by |= dict.fromkeys(("yaw", "pitch"), who)

    def __call__(self, image: np.ndarray, face: Face) -> dict[str, float]:
        """One number for each of MOTIONS; NaN where nothing reads it.

        Args:
            image: (H, W, 3) uint8 RGB.
            face: box and landmarks in its pixels.
        """
        values = dict.fromkeys(MOTIONS, float("nan"))
        if "expression" in self._nets:
            values["smile"] = float(self._nets.expression(image, face)[_HAPPY])
        if self._facemesh is not None:
            return values | self._mesh(image, face)
        if "landmarks" in self._nets:
            values |= lips_and_lids(self._nets.landmarks(image, face))
        if "yaw" in self.by:
            known = "pose" in self._nets
            pose = self._nets.pose(image, face) if known else head_pose_deg(face.landmarks, image.shape[:2])
            values |= {"yaw": float(pose[0]), "pitch": float(pose[1])}
        return values

    def _mesh(self, image: np.ndarray, face: Face) -> dict[str, float]:
        assert self._facemesh is not None
        assert self._shape is not None
        points = self._facemesh(crop_box(image, square_box(face.box, 1.5), SEEN))
        if points is None:
            return {}
        place = self._shape.locate(points)
        yaw, pitch, _ = angles_from_rotation(place.rotation)
        read = read_expression(place.unplace(points))
        return {"mouth": read["mouth_open"], "eyes": read["eyes_open"], "yaw": yaw, "pitch": pitch}

    def close(self) -> None:
        """Ends MediaPipe's process."""
        if self._facemesh is not None:
            self._facemesh.close()


def lips_and_lids(points: np.ndarray) -> dict[str, float]:
    """(68, 2) landmarks of iBUG 300-W -> mouth and eyes, 0 shut to 1 wide open, on the scale of `read_expression`."""

    def gap(a: int, b: int) -> float:
        return float(np.linalg.norm(points[a] - points[b]))

    between = eye_distance(np.stack([points[36:42].mean(0), points[42:48].mean(0)]))
    # Soukupova and Cech 2016, equation 1.
    lids = [(gap(e + 1, e + 5) + gap(e + 2, e + 4)) / (2 * max(gap(e, e + 3), 1e-6)) for e in (36, 42)]
    return {
        "mouth": float(np.clip(gap(62, 66) / between / 0.5, 0, 1)),
        "eyes": float(np.clip(np.mean(lids) / 0.45, 0, 1)),
    }
