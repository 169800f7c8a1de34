"""Replaces every face of a picture: detect, align, read, inpaint, verify, composite."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .attributes import FaceReader, as_unit
from .backends import use_backend
from .composite import paste_faces
from .crops import blended, crop_faces, uncovered
from .detect import CenterFaceDetector, Detector, faces_from_boxes
from .identities import IdentityBank
from .k_same import Crowd, gather
from .loading import IDENTITIES, THRESHOLDS, check_guide, load_with_guide
from .painting import check_settings
from .paths import check_hashes, weights_dir
from .pictures import Picture, PictureError, load_picture
from .pipelines.id_encoder import embed
from .preparing import ReadyFace, prepare, redacted
from .redact import redact_face
from .result import AnonymizedImage
from .settings import Settings
from .types import Face, FaceCrop, FaceReport, Method, Outcome, Redaction
from .verified import VerifiedPainter, face_seed
from .watch import Watch

log = logging.getLogger(__name__)


class FaceAnonymizer:
    """Finds faces, makes each somebody else, checks it, and fails closed."""

    def __init__(
        self,
        pipeline: Any,
        reader: FaceReader,
        bank: IdentityBank,
        thresholds: dict[str, float],
        detect: Detector | None = None,
        hashes: dict[str, str] | None = None,
        origin: dict[str, str] | None = None,
    ):
        """Takes finished parts; `from_pretrained` is the usual door.

        Args:
            pipeline: paints, of any family of `families.FAMILIES`; must have an id_encoder.
            reader: landmarks and attributes.
            bank: identities to become, embedded by the same id_encoder.
            thresholds: similarity of the guide at false accept rates, keys "far_0.001", "far_0.01", "far_0.05".
            detect: finds faces; CenterFace by default.
            hashes: sha256 of the weight files, for the report.
            origin: which checkpoint it is, likewise.
        """
        check_guide(pipeline, bank.embedding.shape[1])
        self.pipeline, self.reader, self.bank = pipeline, reader, bank
        self.thresholds, self.hashes, self.origin = thresholds, hashes or {}, origin or {}
        self.size = pipeline.size
        self.detect = CenterFaceDetector() if detect is None else detect

    @classmethod
    def from_pretrained(
        cls,
        model: str | PathLike | None = None,
        device: str = "cpu",
        reader: str | PathLike | None = None,
        guide: str | PathLike | None = None,
        backend: str = "auto",
        **how: Any,
    ) -> FaceAnonymizer:
        """Loads weights: the shipped ones, a folder, or a checkpoint on the Hub. Only what is named is downloaded.

        Args:
            model: "org/name", or the folder of a pipeline: face256 with its identities, as `deid train pack` writes
                it, or Stable Diffusion 1 or XL. The shipped face256 by default.
            device: a torch device.
            reader: folder of the landmark and attribute reader.
            guide: folder with the recogniser, the identities in its space and its thresholds; by default the model's
                own for face256, the shipped one for Stable Diffusion.
            backend: what runs the unet, see `backends.use_backend`: "onnx" (ONNX Runtime, CPU), "torch", "compile", or
                "auto" for ONNX Runtime where it is installed and works.
            how: as `loading.load_pipeline` takes it: `pipeline` ("face256", "sd", "sdxl"; by default what the
                checkpoint says), `revision`, `dtype`, `controlnet`, `preview_vae`, `scheduler` ...

        Raises:
            FileNotFoundError: no such folder or repository, or a file is missing, with how to get it.
            ValueError: damaged weights, another family, or parts, precision or device that do not fit.
            BackendError: a backend that was named cannot run here.
        """
        loaded, guide = load_with_guide(model, device, guide, **how)
        loaded.pipe.set_progress_bar_config(disable=True)
        reader_folder = weights_dir("reader") if reader is None else Path(reader)
        hashes = loaded.hashes | {f"reader/{name}": value for name, value in check_hashes(reader_folder).items()}
        bank = IdentityBank.load(guide / IDENTITIES)
        thresholds = json.loads((guide / THRESHOLDS).read_text())
        eyes = FaceReader.from_pretrained(reader_folder, device)
        origin = loaded.origin | {"backend": use_backend(loaded.pipe, backend)}
        return cls(loaded.pipe, eyes, bank, thresholds, hashes=hashes, origin=origin)

    def __call__(
        self,
        image: str | PathLike | Image.Image | np.ndarray | Picture,
        seed: int = 0,
        boxes: Sequence[Sequence[float]] | None = None,
        settings: Settings | None = None,
        **changes: Any,
    ) -> AnonymizedImage:
        """Anonymizes one picture.

        Args:
            image: path, PIL image, (H, W, 3) uint8 RGB array, or Picture.
            seed: the same seed gives the same picture.
            boxes: faces to treat instead of detecting: x0 y0 x1 y1 in image pixels.
            settings: a whole Settings; defaults otherwise.
            changes: single fields of Settings, e.g. `steps=12, attributes={"age": 60}`.
        """
        settings = replace(settings or Settings(), **changes)
        self.check(settings)
        picture = image if isinstance(image, Picture) else load_picture(image)
        watch = Watch()
        with watch("detect"):
            faces = self.detect(picture.image) if boxes is None else faces_from_boxes(boxes, picture.image.shape)
        reports: dict[int, FaceReport] = {}
        if settings.method not in (Method.INPAINT, Method.K_SAME):
            how, ready, painted = Redaction(settings.method.value), [], {}
            reports = {n: redacted(face, f"method {how.value}") for n, face in enumerate(faces)}
        else:
            how = settings.redact_with
            with watch("read"):
                ready = self.read_faces(picture.image, faces, settings, reports)
            if settings.method is Method.INPAINT:
                painter = VerifiedPainter(self.pipeline, self.reader, self.bank, self._embed)
                painted, done = painter(ready, settings, self._same_person(settings), seed, watch)
                reports |= done
            else:
                with watch("average"):
                    painted = self._average(ready, settings, seed, reports)
        with watch("composite"):
            new = [r for r in ready if r.number in painted]
            pairs = [(painted[r.number], r.crop) for r in new]
            seeds, textures = [reports[r.number].seed for r in new], [r.texture for r in new]
            canvas, touched = paste_faces(picture.image, pairs, seeds, textures)
            for number in uncovered(touched, faces, reports):
                reports[number] = replace(
                    redacted(faces[number], "the new face did not cover the old one"), tries=reports[number].tries
                )
            # Redactions last: nothing may paint over one and let a source show through its feather.
            for number, report in sorted(reports.items()):
                if report.outcome is Outcome.REDACTED:
                    canvas, mask = redact_face(canvas, faces[number], how)
                    touched |= mask > 0
        return AnonymizedImage(canvas, tuple(reports[n] for n in range(len(faces))), watch.seconds, touched, picture)

    def crowd(
        self, pictures: Iterable[tuple[Any, Sequence[Sequence[float]] | None]], settings: Settings | None = None
    ) -> Crowd:
        """Looks at a whole set once, and averages its people in groups of k, for Method.K_SAME.

        Args:
            pictures: picture and boxes (or None) of each, as `__call__` takes them. Unreadable ones are left out.
            settings: k, threshold, keep and only count; people who are left alone are not averaged.

        Raises:
            TooFewPeopleError: fewer than k people.
        """
        settings = settings or Settings()
        return gather(self._faces_in(pictures, settings), settings.k, self._same_person(settings))

    def check(self, settings: Settings) -> None:
        """Raises ValueError for settings that the loaded pipeline cannot follow."""
        if settings.method is Method.INPAINT:
            check_settings(self.pipeline, settings)

    def people(self, photos: Sequence[str | PathLike | Image.Image | np.ndarray]) -> np.ndarray:
        """(R, D) embeddings of the largest face in each reference photo, for `keep` and `only`.

        Raises:
            ValueError: a photo without a readable face.
        """
        rows = []
        for photo in photos:
            image = load_picture(photo).image
            faces = sorted(self.detect(image), key=lambda f: -float(np.prod(f.box[2:] - f.box[:2])))
            crops = crop_faces(image, faces[:1], self.reader, self.size)
            if not crops or crops[0] is None:
                raise ValueError(f"no readable face in the reference {photo if isinstance(photo, str) else 'photo'}")
            rows.append(self._embed(np.stack([crops[0].image]))[0])
        return np.stack(rows)

    def _faces_in(self, pictures, settings: Settings) -> Iterator[tuple[FaceCrop, np.ndarray]]:
        for source, boxes in pictures:
            try:
                image = (source if isinstance(source, Picture) else load_picture(source)).image
            except PictureError:
                log.debug("%s cannot be read, nobody of it is averaged", source, exc_info=True)
                continue
            faces = self.detect(image) if boxes is None else faces_from_boxes(boxes, image.shape)
            for r in self.read_faces(image, faces, settings, {}):
                yield r.crop, r.embedding

    def _same_person(self, settings: Settings) -> float:
        return self.thresholds["far_0.01"] if settings.threshold is None else settings.threshold

    def _average(self, ready: list[ReadyFace], settings: Settings, seed: int, reports) -> dict[int, np.ndarray]:
        """The average face of each one's group; who is in no group is reported REDACTED."""
        crowd = settings.crowd
        if crowd is None and ready:
            crowd = gather([(r.crop, r.embedding) for r in ready], settings.k, self._same_person(settings))
        painted: dict[int, np.ndarray] = {}
        for r in ready:
            shared = crowd.face_for(r.embedding, len(r.crop.image))
            if shared is None:
                reports[r.number] = redacted(r.face, "is none of the people that were averaged")
                continue
            painted[r.number], people = shared
            # Told, not tested: a share of 1 / k of the source is what this method leaves, and k people have it.
            similarity = float(self._embed(blended(r.crop, painted[r.number])[None])[0] @ r.embedding)
            own = face_seed(seed, r.number, 0)
            reports[r.number] = FaceReport(r.face, Outcome.REPLACED, own, similarity, f"mean of {people} people")
        return painted

    def read_faces(self, image: np.ndarray, faces: Sequence[Face], settings: Settings, reports) -> list[ReadyFace]:
        """Reads every face; those that cannot be read, or are to be left alone, get their report at once."""
        ready, done = prepare(image, faces, settings, self.reader, self._embed, self.thresholds, self.size)
        reports |= done
        return ready

    @torch.no_grad()
    def _embed(self, crops: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 -> (B, D) float32 unit norm by the guide."""
        guide = self.pipeline.id_encoder
        return embed(guide, as_unit(crops).to(guide.device)).cpu().numpy()

    def versions(self) -> dict[str, Any]:
        """What made the pictures: package versions, checkpoint, and sha256 of every weight file, for the report."""
        import diffusers
        import transformers

        from . import __version__

        names = {"deid_diffusion": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
        names |= {"transformers": transformers.__version__, "checkpoint": dict(self.origin)}
        return names | {"weights": dict(self.hashes)}
