"""Anonymizes pictures in four stages: analyze, choose targets, generate, composite."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from os import PathLike
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
from PIL import Image

from .compositing.paste import Patch, add_changes, paste_faces
from .faces.align import crop_faces, cut
from .faces.analyze import analyze_faces, doubted
from .faces.detect import CenterFaceDetector, Detector, faces_from_boxes
from .faces.estimator import FaceEstimator, as_unit
from .faces.fast_detect import detector_of
from .faces.masks import is_covered
from .faces.panorama import moved, rolled, seam_off_faces
from .faces.references import Decision, References, decide, reference_face
from .faces.task import FaceTask, ImageAnalysis
from .imaging.alpha import View, look
from .imaging.pictures import PIXEL_LIMIT, Picture, PictureError, load_picture
from .imaging.threads import map_ahead, save_behind
from .messages import brief, brief_error, brief_path
from .methods.identity_bank import IdentityBank
from .methods.k_same import Cohort, fit_cohort
from .methods.protocol import Context, TargetPolicy, find_method
from .methods.pseudonyms import check_pseudonyms
from .methods.redact import Redact, redact_face
from .methods.sampling import candidate_count, check_settings, effective_settings, wanted_attributes
from .methods.swap import same_target
from .methods.targets import default_policy
from .models.backends import use_backend
from .models.loading import IDENTITIES, THRESHOLDS, check_id_encoder, check_speed, load_with_identities, pick_device
from .models.quick import load_quick
from .models.resnet_graph import graphed
from .pipelines.id_encoder import SIDE as ENCODER_SIDE
from .pipelines.id_encoder import embed
from .result import AnonymizedImage
from .seeds import checked_seed
from .settings import Settings
from .spec import AnonymizerSpec
from .timing import Timing
from .types import Face, Outcome
from .weight_files import check_hashes, weights_dir

log = logging.getLogger(__name__)
Photo = str | PathLike | Image.Image | np.ndarray
Source = Photo | Picture
Boxes = Sequence[Any]  # x0 y0 x1 y1 each, or whole Faces


class FaceAnonymizer:
    """Finds faces, makes each somebody else, checks it, and fails closed.

    `anonymizer(image)` is the sum of its four stages, each of which can be called by itself:

    ```python
    analysis = anonymizer.analyze(image)
    tasks = anonymizer.choose_targets(analysis)
    tasks = anonymizer.generate(tasks)  # again and again, with other settings
    result = anonymizer.composite(analysis, tasks)
    ```
    """

    def __init__(
        self,
        pipeline: Any,
        estimator: FaceEstimator,
        bank: IdentityBank,
        thresholds: dict[str, float],
        detect: Detector | None = None,
        hashes: dict[str, str] | None = None,
        origin: dict[str, str] | None = None,
        spec: AnonymizerSpec | None = None,
    ) -> None:
        """Takes finished components; `from_pretrained` is the usual way.

        Args:
            pipeline: the crop-level pipeline, of any family of `models.registry.FAMILIES`, with an id_encoder.
            estimator: landmarks and attributes.
            bank: identities to become, embedded by the same id_encoder.
            thresholds: cosines of the identity encoder at false accept rates, key "far_0.01"; for
                `embed_references` also `faces.references.RATES`.
            detect: finds faces; the fast detector by default.
            hashes: sha256 of the weight files, for the report.
            origin: which checkpoint it is, likewise.
            spec: what builds the same one elsewhere; None for one that was put together by hand.

        Raises:
            ValueError: bank and pipeline are of different identity encoders.
        """
        check_id_encoder(pipeline, bank.embedding.shape[1])
        self.estimator, self.bank = estimator, bank
        self.thresholds, self.hashes, self.origin, self.spec = thresholds, hashes or {}, origin or {}, spec
        self.size: int = pipeline.size
        self.detect: Detector = detector_of("fast") if detect is None else detect
        self._pipeline, self._turn = pipeline, RLock()
        self._graphed: FaceAnonymizer | None = None
        self._encoder: Any = None  # what runs the identity encoder of clips; None for itself
        self._box_reader = CenterFaceDetector()  # for detectors that cannot look at a box; loads at its first use

    @classmethod
    def from_pretrained(
        cls,
        model: str | PathLike | None = None,
        device: str = "cpu",
        estimator: str | PathLike | None = None,
        id_encoder: str | PathLike | None = None,
        backend: str = "auto",
        pipeline: str | None = None,
        revision: str | None = None,
        dtype: str = "float32",
        controlnet: str | PathLike | None = None,
        preview_vae: str | PathLike | None = None,
        variant: str | None = None,
        detection: str = "fast",
        **components: Any,
    ) -> FaceAnonymizer:
        """Loads weights: the shipped ones, a folder, or a checkpoint on the Hub.

        Args:
            model, device, estimator, id_encoder, backend, pipeline, revision, dtype, controlnet, preview_vae, variant,
                detection: see `AnonymizerSpec`.
            components: finished components that replace the checkpoint's, such as `scheduler`.

        Raises:
            FileNotFoundError, ValueError, BackendError: see `from_spec`.
        """
        spec = AnonymizerSpec(
            model, device, estimator, id_encoder, backend, pipeline, revision, dtype, controlnet, preview_vae, variant,
            detection,
        )  # fmt: skip
        return cls.from_spec(spec, **components)

    @classmethod
    def from_spec(cls, spec: AnonymizerSpec, **components: Any) -> FaceAnonymizer:
        """Loads the weights that a spec names.

        Args:
            spec: what to load.
            components: finished components that replace the checkpoint's; as objects, they are no part of a spec.

        Raises:
            FileNotFoundError: no such folder or repository, or a file is missing, with how to get it.
            ValueError: damaged weights, another family, or components, precision or device that do not fit.
            BackendError: a backend that was named cannot run here.
        """
        spec = replace(spec, device=pick_device(spec.device))
        check_speed(spec.dtype, spec.device)
        detect = detector_of(spec.detection)
        names = ("pipeline", "revision", "dtype", "controlnet", "preview_vae", "variant")
        given = {name: getattr(spec, name) for name in names} | components
        given = {name: value for name, value in given.items() if value is not None}
        found = load_quick(spec.model, spec.device, spec.backend, spec.id_encoder, **given)
        if found is None:
            found = load_with_identities(spec.model, spec.device, spec.id_encoder, **given)
            found[0].pipe.set_progress_bar_config(disable=True)
            own = None if components else found[0].hashes
            found[0].origin["backend"] = use_backend(found[0].pipe, spec.backend, files=own)
        loaded, identities = found
        folder = weights_dir("face_estimator") if spec.estimator is None else Path(spec.estimator)
        hashes = loaded.hashes | {f"face_estimator/{name}": value for name, value in check_hashes(folder).items()}
        return cls(
            loaded.pipe,
            FaceEstimator.from_pretrained(folder, spec.device),
            IdentityBank.load(identities / IDENTITIES),
            json.loads((identities / THRESHOLDS).read_text()),
            detect,
            hashes=hashes,
            origin=loaded.origin | {"detection": spec.detection},
            spec=None if components else spec,
        )

    @property
    def pipeline(self) -> Any:
        """The crop-level pipeline, a diffusers one.

        Where ONNX Runtime runs the embedded model, it is built when somebody asks for it, from the weights that were
        loaded before; until then, what runs does the same without diffusers, whose import takes longer than a picture.
        """
        with self._turn:
            if hasattr(self._pipeline, "whole"):
                self._pipeline = self._pipeline.whole()
            return self._pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Any) -> None:
        """Takes another one, of the same identity encoder."""
        self._pipeline = pipeline

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as its spec: whoever gets it loads the weights again."""
        if self.spec is None:
            raise pickle.PicklingError(
                "wanted an anonymizer that a spec builds, got one that was put together by hand; load it by "
                "FaceAnonymizer.from_spec, without components"
            )
        return FaceAnonymizer.from_spec, (self.spec,)

    def __call__(
        self,
        image: Source,
        seed: int | None = None,
        boxes: Boxes | None = None,
        settings: Settings | None = None,
        policy: TargetPolicy | None = None,
        **changes: Any,
    ) -> AnonymizedImage:
        """Anonymizes one picture: the four stages together.

        Args:
            image: path, PIL image, (H, W, 3) uint8 RGB array, or Picture.
            seed: the same seed gives the same picture; None draws one that nobody knows.
            boxes: faces to treat instead of detecting: x0 y0 x1 y1 in image pixels, each looked at for how its face
                lies, and hidden where there is none; or whole Face objects, of a detector of your own.
            settings: a whole Settings; defaults otherwise.
            policy: who becomes whom; a new somebody for every face by default.
            changes: single fields of Settings, e.g. `steps=12, attributes={"age": 60}`.

        Raises:
            PictureError: a picture that cannot be read.
            ValueError: settings that do not exist or that the loaded pipeline cannot follow; boxes that are none.
        """
        settings = self._settings(settings, changes)
        analysis = self.analyze(image, boxes, settings)
        tasks = self.choose_targets(analysis, policy, seed, settings)
        tasks = self._generate(tasks, settings, policy, analysis.timing)
        return self.composite(analysis, tasks, settings)

    def map(
        self,
        images: Iterable[Source],
        seed: int | None = None,
        batch_size: int = 64,
        settings: Settings | None = None,
        policy: TargetPolicy | None = None,
        save: Callable[[int, AnonymizedImage], object] | None = None,
        threads: int = 2,
        **changes: Any,
    ) -> Iterator[AnonymizedImage]:
        """Anonymizes many pictures; model calls are filled with the faces of several of them.

        Args:
            images: as `__call__` takes them; read one by one, as results are taken.
            seed: of the first picture; the next ones get `seed + 1`, `seed + 2` ... None draws one that nobody knows.
            batch_size: a window of pictures is worked off when it holds so many faces, or so many pictures; nothing
                beyond the window and the threads is in memory. Also the faces of one model call, unless the settings
                say; when memory runs out, it is halved, and the work goes on.
            settings, policy, changes: as in `__call__`.
            save: called with each number, from 0, and result before it is given back, in a thread: to write the
                picture while the next ones are generated.
            threads: that read pictures ahead, and as many that save them; each holds one picture.

        Yields:
            the results in the order of the pictures.

        Raises:
            PictureError: a picture that cannot be read; results of those before it have been yielded.
        """
        settings = self._settings(settings, {"batch": batch_size, **changes} if settings is None else changes)
        seed, limit = checked_seed(seed), settings.max_pixels or PIXEL_LIMIT
        settings = same_target(settings, self.bank, seed)

        def load(image: Source) -> Picture:
            return image if isinstance(image, Picture) else load_picture(image, limit)

        with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(threads) as writers:
            pictures = map_ahead(readers, load, images, threads)
            results = self._windows(pictures, seed, batch_size, settings, policy)
            yield from results if save is None else save_behind(writers, save, results, threads)

    def _windows(
        self,
        pictures: Iterator[Picture],
        seed: int,
        batch_size: int,
        settings: Settings,
        policy: TargetPolicy | None,
    ) -> Iterator[AnonymizedImage]:
        """The work of `map`, on pictures that were read."""
        window: list[tuple[ImageAnalysis, list[FaceTask]]] = []
        for place in count():
            try:
                picture = next(pictures, None)
            except PictureError:
                yield from self._finish(window, settings, policy)
                raise
            if picture is None:
                break
            analysis = self.analyze(picture, settings=settings)
            numbered = [replace(task, picture=place) for task in analysis.tasks]
            analysis = replace(analysis, tasks=tuple(numbered))
            window.append((analysis, self.choose_targets(analysis, policy, seed + place, settings)))
            if sum(len(tasks) for _, tasks in window) >= batch_size or len(window) >= batch_size:
                yield from self._finish(window, settings, policy)
                window = []
        yield from self._finish(window, settings, policy)

    def analyze(
        self,
        image: Source,
        boxes: Boxes | None = None,
        settings: Settings | None = None,
        **changes: Any,
    ) -> ImageAnalysis:
        """First stage: finds the faces and reads them, once.

        Args:
            image, boxes, settings, changes: as in `__call__`. Method, privacy and people to keep count.

        Returns:
            the picture and a task for each face; decided are those that cannot be read or are to be kept.
        """
        settings = self._settings(settings, changes)
        limit = settings.max_pixels or PIXEL_LIMIT
        picture = image if isinstance(image, Picture) else load_picture(image, limit)
        timing, roll = Timing(), 0
        with timing("detect"):
            if boxes is None and (settings.panorama or picture.panorama):
                roll = seam_off_faces(picture, lambda picture: self._view(picture, None).faces)
                picture = rolled(picture, roll)
            view = self._view(picture, boxes)
        tasks = [FaceTask(face, number) for number, face in enumerate(view.faces)]
        if find_method(settings.method).reads_faces or settings.keep is not None or settings.only is not None:
            if boxes is not None and not _are_faces(boxes):
                # Whatever lies in a box that somebody named is hidden; only a face becomes a face.
                none = "no face was found in this box"
                tasks = [task if task.face.score else task.decided(Outcome.REDACTED, none) for task in tasks]
            with timing("read"):
                growth = settings.level.growth
                tasks = analyze_faces(view.image, tasks, self.estimator, self._embed, self.size, growth)
                tasks = [self._kept(task, settings) for task in tasks]
                tasks = [doubted(task) if boxes is None else task for task in tasks]
        return ImageAnalysis(picture, view.image, tuple(tasks), timing, roll)

    def choose_targets(
        self,
        analysis: ImageAnalysis,
        policy: TargetPolicy | None = None,
        seed: int | None = None,
        settings: Settings | None = None,
        **changes: Any,
    ) -> list[FaceTask]:
        """Second stage: says who each face becomes.

        Args:
            analysis: of the first stage.
            policy: a new somebody for every face by default.
            seed: of the picture; None draws one that nobody knows.
            settings, changes: as in `__call__`. The attributes count, for people are matched by them.

        Raises:
            ValueError: no seed.
        """
        seed = checked_seed(seed)
        settings = self._settings(settings, changes)
        policy = self._policy(policy, settings)
        chosen: list[FaceTask] = []
        taken: set[int] = set()
        for task in analysis.tasks:
            task = replace(task, seed=seed)
            if task.pending and find_method(settings.method).uses_targets:
                task = self._with_targets(task, policy, settings, taken)
            chosen.append(task)
        return chosen

    def generate(
        self,
        tasks: Sequence[FaceTask],
        settings: Settings | None = None,
        policy: TargetPolicy | None = None,
        **changes: Any,
    ) -> list[FaceTask]:
        """Third stage: makes the new faces and verifies them.

        Args:
            tasks: of the second stage, of one picture or of several. They are left as they are, so that they can be
                generated again with other settings: their targets stay, unless a further round is needed.
            settings, policy, changes: as in `__call__`.

        Returns:
            the tasks in their order, all decided.
        """
        return self._generate(tasks, self._settings(settings, changes), policy, Timing())

    def composite(
        self,
        analysis: ImageAnalysis,
        tasks: Sequence[FaceTask],
        settings: Settings | None = None,
        **changes: Any,
    ) -> AnonymizedImage:
        """Fourth stage: puts the new faces into the picture and hides the others.

        Args:
            analysis: of the picture.
            tasks: its faces, decided or not; what is undecided is redacted.
            settings, changes: as in `__call__`. How faces are redacted counts.

        Raises:
            ValueError: tasks of another picture, or not all of them: a face would stay as it is.
        """
        settings = self._settings(settings, changes)
        if [task.number for task in tasks] != [task.number for task in analysis.tasks]:
            raise ValueError(
                f"composite needs every task of its picture, in order: wanted {len(analysis.tasks)}, got {len(tasks)}"
            )
        with analysis.timing("composite"):
            new = [task for task in tasks if task.outcome is Outcome.REPLACED]
            rough = settings.level.texture
            patches = [
                Patch(t.generated, t.crop, t.result_seed, t.skin_texture if rough else None, t.steady) for t in new
            ]
            # What may be no face goes under the new ones: no block of blur lies on half of one, and nothing shows.
            doubtful = [task for task in tasks if task.hidden and task.doubtful]
            under, blurred = self._redacted(analysis.image, doubtful, settings)
            canvas, changed = paste_faces(under, patches, analysis.image if doubtful else None)
            decided = [
                task.decided(Outcome.REDACTED, "the new face did not cover the old one")
                if task.outcome is Outcome.REPLACED and not is_covered(task.face, changed)
                else task
                for task in tasks
            ]
            if any(task.outcome is Outcome.CLOAKED for task in decided):
                cloaks = [Patch(t.generated, t.crop) for t in decided if t.outcome is Outcome.CLOAKED]
                canvas, more = add_changes(canvas, cloaks)
                changed |= more
                decided = [self._still_cloaked(task, canvas, analysis, settings) for task in decided]
            # The other redactions last: nothing may paint over one and let a source show through its feather.
            rest = [task for task in decided if task.hidden and not task.doubtful]
            canvas, mask = self._redacted(canvas, rest, settings)
            changed |= mask | blurred
            if analysis.image is not analysis.picture.image:  # faces were read in another view of it
                canvas = np.where(changed[..., None], canvas, analysis.picture.image)
        reports = tuple(task.report() for task in decided)
        picture, roll = analysis.picture, analysis.roll
        if roll:
            canvas, changed = np.roll(canvas, roll, axis=1), np.roll(changed, roll, axis=1)
            reports = tuple(replace(r, face=moved(r.face, roll, canvas.shape[1])) for r in reports)
            picture = rolled(picture, -roll)
        seconds, keep_metadata = analysis.timing.seconds, settings.keep_metadata
        return AnonymizedImage(canvas, reports, seconds, changed, picture, keep_metadata)

    @staticmethod
    def _redacted(canvas: np.ndarray, tasks: Sequence[FaceTask], settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """The canvas with some faces redacted, and (H, W) bool, where."""
        changed = np.zeros(canvas.shape[:2], bool)
        for task in tasks:
            canvas, mask = redact_face(canvas, task.face, task.redaction or settings.redact_with)
            changed |= mask
        return canvas, changed

    def fit_cohort(self, pictures: Iterable[tuple[Source, Boxes | None]], settings: Settings | None = None) -> Cohort:
        """Looks at a whole set once, and averages its people in groups of k, for the methods k-same and average.

        Args:
            pictures: picture and boxes (or None) of each, as `__call__` takes them. Unreadable ones are left out.
            settings: method, k, threshold, keep and only count; people who are left alone are not averaged.

        Raises:
            TooFewPeopleError: fewer than k people.
        """
        settings = settings or Settings()
        whole = settings.method == "average"
        settings = replace(settings, method="k-same")

        def faces() -> Iterator[tuple[Any, np.ndarray]]:
            for source, boxes in pictures:
                try:
                    analysis = self.analyze(source, boxes, settings)
                except PictureError:
                    log.debug("%s cannot be read, nobody of it is averaged", brief_path(source), exc_info=True)
                    continue
                yield from ((task.crop, task.embedding) for task in analysis.tasks if task.pending)

        return fit_cohort(faces(), settings.k, self.same_person(settings), whole)

    def check(self, settings: Settings) -> None:
        """Refuses settings that the loaded pipeline cannot follow.

        Raises:
            ValueError: there is one.
        """
        for name in ("keep", "only"):
            if not isinstance(getattr(settings, name), References | None):
                got = brief(getattr(settings, name))
                raise ValueError(f"{name} must be what FaceAnonymizer.embed_references makes of photos, got {got}")
        check_pseudonyms(settings)
        method = find_method(settings.method)
        if method.uses_targets:
            check_settings(self._pipeline, settings)
        if (own := getattr(method, "check", None)) is not None:
            own(settings, self.bank)

    def resolve(self, settings: Settings | None = None) -> Settings:
        """The settings with all that is left to the model spelled out: equal for two that give the same pictures."""
        settings = settings or Settings()
        if isinstance(find_method(settings.method), Redact):  # no model runs that could follow the others
            kept: dict[str, Any] = {"keep_metadata": settings.keep_metadata, "panorama": settings.panorama}
            return Settings(method=settings.method, keep=settings.keep, only=settings.only, **kept)
        return replace(effective_settings(self._pipeline, settings), threshold=self.same_person(settings))

    def embed_references(self, photos: Sequence[Photo]) -> References:
        """The people in reference photos, for `keep` and `only`; several photos of one know them better.

        Args:
            photos: as `__call__` takes them, each of one person.

        Raises:
            ValueError: a photo of nobody or of several people, or weights that do not say how strangers compare.
        """
        rows = []
        for number, photo in enumerate(photos, 1):
            name = str(photo) if isinstance(photo, str | PathLike) else f"reference photo {number}"
            image = load_picture(photo).image
            (crop,) = crop_faces(image, [reference_face(self.detect(image), name)], self.estimator, self.size)
            if crop is None:
                raise ValueError(f"{name}: wanted a readable face, got one whose landmarks do not fit; give another")
            rows.append(self._embed(crop.image[None])[0])
        return References(np.array(rows), self.thresholds)

    def context(self, settings: Settings, policy: TargetPolicy, timing: Timing) -> Context:
        """What a method may use: for those who call methods themselves, as clips do.

        Args:
            settings: of the run.
            policy: who each face becomes.
            timing: where its seconds are counted.
        """
        threshold = self.same_person(settings)
        return Context(self._pipeline, self.estimator, self._embed, settings, policy, threshold, timing, self._turn)

    def read(
        self,
        image: np.ndarray,
        faces: Sequence[Face],
        settings: Settings,
        places: Sequence[int] | None = None,
        starts: Mapping[int, np.ndarray] | None = None,
        embeds: bool = True,
        moving: bool = False,
    ) -> dict[int, FaceTask]:
        """Reads faces that were detected before.

        Args:
            image: (H, W, 3) uint8 RGB, upright.
            faces: all of it; neighbours hide each other's pixels from the model.
            settings: people to keep count.
            places: of the faces to read; all of them when None.
            starts: by place, where a face was a moment ago, see `faces.align.follow_faces`.
            embeds: whether anybody asks who they are; without, nobody is kept.
            moving: whether the image is a frame of a clip, see `analyze_faces`.

        Returns:
            tasks by place, as `analyze` gives them.
        """
        wanted = range(len(faces)) if places is None else places
        tasks = [FaceTask(face, place) for place, face in enumerate(faces)]
        # What is decided is not read, and yet somebody's neighbour.
        tasks = [task if task.number in wanted else task.decided(Outcome.KEPT) for task in tasks]
        embed = self._embed if embeds else None
        growth = settings.level.growth
        done = analyze_faces(image, tasks, self.estimator, embed, self.size, growth, starts, moving)
        return {place: self._kept(done[place], settings) if embeds else done[place] for place in wanted}

    def look_at(self, image: np.ndarray, face: Face) -> Face:
        """Reads the points of a face of which only the box is known.

        Args:
            image: (H, W, 3) uint8 RGB, upright.
            face: its box counts.

        Returns:
            the face with its points; of score 0 where no face is in the box.
        """
        return getattr(self.detect, "read_box", self._box_reader.read_box)(image, face)

    def in_graphs(self) -> FaceAnonymizer:
        """One that reads faces in a third of the time, for clips: ONNX Runtime runs its small networks, too.

        It shares everything else. Where ONNX Runtime does not run the unet, it is this one.
        """
        if not self.origin.get("backend", "").startswith("onnxruntime"):
            return self
        if self._graphed is None:
            other = object.__new__(type(self))
            other.__dict__ |= self.__dict__
            other.estimator = self.estimator.run_by(graphed)
            other._encoder = graphed(self._pipeline.id_encoder, ENCODER_SIDE)
            self._graphed = other
        return self._graphed

    def versions(self) -> dict[str, Any]:
        """What made the pictures: package versions, checkpoint, and sha256 of every weight file, for the report."""
        from . import __version__

        names: dict[str, Any] = {"deid_diffusion": __version__, "torch": torch.__version__}
        names |= {name: version(name) for name in ("diffusers", "transformers")}
        return names | {"checkpoint": dict(self.origin), "weights": dict(self.hashes)}

    def _settings(self, settings: Settings | None, changes: dict[str, Any]) -> Settings:
        settings = replace(settings or Settings(), **changes)
        self.check(settings)
        return settings

    def _policy(self, policy: TargetPolicy | None, settings: Settings) -> TargetPolicy:
        return self.default_policy(settings) if policy is None else policy

    def default_policy(self, settings: Settings) -> TargetPolicy:
        """Who becomes whom where nobody says: as the method or the key wants it, or somebody new for every face."""
        same = self.thresholds.get("real_far_0.01", self.thresholds["far_0.01"])
        return default_policy(self.bank, self.same_person(settings), settings, same)

    def same_person(self, settings: Settings) -> float:
        """The cosine from which on the identity encoder takes two faces for one person."""
        return self.thresholds["far_0.01"] if settings.threshold is None else settings.threshold

    def _view(self, picture: Picture, boxes: Boxes | None) -> View:
        """The faces, and the picture in which they are read."""
        if boxes is None:
            return look(self.detect, picture.image, picture.alpha)
        if _are_faces(boxes):
            return View(list(boxes), picture.image)
        named = faces_from_boxes(boxes, picture.image.shape)
        return View([self.look_at(picture.image, face) for face in named], picture.image)

    def _kept(self, task: FaceTask, settings: Settings) -> FaceTask:
        """KEPT for a person who is to be left alone, and marked where it might be one."""
        if not task.pending:
            return task
        decision, reason = decide(task.embedding, settings.keep, settings.only)
        if decision is Decision.KEEP:
            return task.decided(Outcome.KEPT, reason)
        return replace(task, borderline=reason)

    def _still_cloaked(
        self, task: FaceTask, canvas: np.ndarray, analysis: ImageAnalysis, settings: Settings
    ) -> FaceTask:
        """Looked at again in the finished picture, whose pixels are what is published."""
        if task.outcome is not Outcome.CLOAKED:
            return task
        if analysis.image is not analysis.picture.image:
            return task.decided(Outcome.REDACTED, "the face shows only against a background, and cannot be cloaked")
        similarity = float(self._embed(cut(canvas, task.crop.crop_from_image, self.size)[None])[0] @ task.embedding)
        if similarity < self.same_person(settings):
            return replace(task, similarity=similarity)
        return task.decided(Outcome.REDACTED, f"not cloaked in the picture: {similarity:.2f}", similarity=similarity)

    def _with_targets(self, task: FaceTask, policy: TargetPolicy, settings: Settings, taken: set[int]) -> FaceTask:
        """With as many targets as candidates; adds their numbers to `taken`."""
        task = replace(task, wanted=wanted_attributes(task, settings))
        targets = []
        try:
            for candidate in range(candidate_count(self._pipeline, settings)):
                targets.append(policy.choose(task, 0, candidate, taken))
                taken.add(targets[-1].number)
        except Exception as error:
            log.exception("choosing a target failed")
            return task.decided(Outcome.FAILED, f"choosing a target failed: {brief_error(error)}")
        return replace(task, targets=tuple(targets))

    def _generate(
        self, tasks: Sequence[FaceTask], settings: Settings, policy: TargetPolicy | None, timing: Timing
    ) -> list[FaceTask]:
        method = find_method(settings.method)
        waiting = [task for task in tasks if task.pending]
        if method.uses_targets:
            waiting = [replace(task, wanted=wanted_attributes(task, settings)) for task in waiting]
        context = self.context(settings, self._policy(policy, settings), timing)
        done = iter(method(waiting, context) if waiting else [])
        return [next(done) if task.pending else task for task in tasks]

    def _finish(
        self,
        window: Sequence[tuple[ImageAnalysis, list[FaceTask]]],
        settings: Settings,
        policy: TargetPolicy | None,
    ) -> Iterator[AnonymizedImage]:
        """Generates the faces of all pictures of a window together, and gives them back in order."""
        timing = Timing()
        done = self._generate([task for _, tasks in window for task in tasks], settings, policy, timing)
        place = 0
        for analysis, tasks in window:
            for stage, seconds in timing.seconds.items():
                analysis.timing.add(stage, seconds * len(tasks) / len(done))
            yield self.composite(analysis, done[place : place + len(tasks)], settings)
            place += len(tasks)

    @torch.no_grad()
    def _embed(self, crops: np.ndarray) -> np.ndarray:
        """(B, S, S, 3) uint8 -> (B, D) float32 unit norm by the identity encoder."""
        id_encoder = self._encoder or self._pipeline.id_encoder
        return embed(id_encoder, as_unit(crops).to(id_encoder.device)).cpu().numpy()


def _are_faces(boxes: Boxes | None) -> bool:
    """Whether what was given are whole faces, whose landmarks count."""
    return boxes is not None and len(boxes) > 0 and all(isinstance(box, Face) for box in boxes)
