"""Generates faces in held-out crops under one condition after another: what the tables of the model card need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from deid_diffusion.anonymizer import FaceAnonymizer
from deid_diffusion.faces.estimator import as_unit
from deid_diffusion.faces.masks import blended
from deid_diffusion.faces.task import FaceTask
from deid_diffusion.methods.identity_bank import Target
from deid_diffusion.methods.sampling import sample, target_meshes
from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.settings import Settings
from deid_diffusion.types import Face


@dataclass(eq=False)
class Studio:
    """People whose crops are read once, and generated as often as wanted.

    Attributes:
        anonymize: the model.
        ready: one face a picture.
    """

    anonymize: FaceAnonymizer
    ready: list[FaceTask]

    @classmethod
    def of(cls, anonymize: FaceAnonymizer, pictures: Mapping[str, np.ndarray], count: int) -> Studio:
        """Reads (H, W, 3) uint8 pictures until `count` of them have one readable face."""
        studio = cls(anonymize, [])
        for picture in pictures.values():
            faces = sorted(anonymize.detect(picture), key=lambda face: -np.prod(face.box[2:] - face.box[:2]))[:1]
            tasks = anonymize.choose_targets(anonymize.analyze(picture, faces), seed=0)
            studio.ready += [task for task in tasks if task.pending]
            if len(studio.ready) == count:
                return studio
        raise SystemExit(f"wanted {count} pictures with a readable face, got {len(studio.ready)}")

    @torch.no_grad()
    def embed(self, crops: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 -> (B, D) unit norm, by the identity encoder."""
        return embed(self.anonymize.pipeline.id_encoder, as_unit(crops)).numpy()

    def target(self, face: FaceTask, seed: int) -> Target:
        """Who this face becomes by default."""
        return self.anonymize.bank.choose(face.wanted, face.embedding, seed)

    def generate(
        self,
        settings: Settings,
        changes: Mapping[str, Any] | None = None,
        targets: Sequence[Target] | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Every face once -> (N, S, S, 3) uint8, blended into their crops.

        Args:
            settings: steps, repulsion, noise_scale.
            changes: attributes to set.
            targets: who each becomes; by default the bank's choice for its number and the seed.
            seed: of noise and choice; equal seeds differ in nothing but what is asked for.
        """
        out: list[np.ndarray] = []
        faces = [replace(face, wanted=face.wanted.with_changes(changes or {})) for face in self.ready]
        targets = targets or [self.target(f, seed * 1000 + n) for n, f in enumerate(self.ready)]
        for start in range(0, len(faces), 8):
            part, becoming = faces[start : start + 8], targets[start : start + 8]
            seeds = [seed * 1000 + start + n for n in range(len(part))]
            meshes = target_meshes(self.anonymize.estimator, part, becoming)
            generated = sample(self.anonymize.pipeline, part, becoming, meshes, seeds, settings)
            out += [blended(face.crop, image) for face, image in zip(part, generated, strict=True)]
        return np.stack(out)

    def where(self, number: int) -> Face:
        """The face of a crop in crop pixels: its box around the source's landmarks, and five points."""
        mesh = self.ready[number].analysis.landmarks[:, :2]
        five = np.stack([mesh[[33, 133]].mean(0), mesh[[362, 263]].mean(0), mesh[1], mesh[61], mesh[291]])
        low, high = mesh.min(0), mesh.max(0)
        return Face(np.concatenate([low, high]).astype(np.float32), five.astype(np.float32), 1.0)
