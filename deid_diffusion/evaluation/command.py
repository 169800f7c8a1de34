"""Runs a whole evaluation: folders in, `eval.json` and `report.html` out."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
from dataclasses import dataclass
from pathlib import Path

from deid_diffusion.evaluation.aggregate import group_results, quality_metrics, utility_metrics
from deid_diffusion.evaluation.cache import ArrayCache
from deid_diffusion.evaluation.detectors import detector_from_spec
from deid_diffusion.evaluation.judges import id_encoder_hashes, judge_from_spec
from deid_diffusion.evaluation.measure import FaceMeasurer
from deid_diffusion.evaluation.nets import FaceNets, NetOptions
from deid_diffusion.evaluation.privacy import judge_result, recogniser_free_metrics
from deid_diffusion.evaluation.protocol import EvalTables, Folders, collect
from deid_diffusion.evaluation.results import EvalReport, EvaluationError
from deid_diffusion.evaluation.table import MethodTable, pooled

_log = logging.getLogger(__name__)
_TESTS = {"photos": "other photos", "views": "edited views of the originals, not other photos"}
_PACKAGES = (
    "numpy",
    "opencv-python",
    "pillow",
    "torch",
    "dlib-bin",
    "face_recognition_models",
    "onnxruntime",
    "openvino",
)


@dataclass(frozen=True)
class EvalOptions:
    """What `deid eval` is asked to do.

    Attributes:
        originals: folder of the pictures as they were.
        outputs: one or more folders of anonymized pictures with the same names, each its own column in the report.
        out: folder for `eval.json` and `report.html`; made when missing.
        gallery: folder of *other* photos of the same people, same names; without it the harsher same-photo test.
        gallery_kind: "photos", or "views" for edited copies of the originals, which are easier to recognise.
        judges: see `judges.judge_from_spec`.
        detector: "dlib", "yunet:FILE" or "centerface".
        nets: ("age_gender=FILE", ...), see `nets.NetOptions`.
        groups: CSV of person,attribute,...
        person_by: "stem" (001.jpg in every folder is one person) or "folder" (ann/1.jpg is ann).
        names: labels of the outputs; by default their folders' names.
        id_encoder: the anonymizer's pipeline or id_encoder folder; that network may not judge. None checks no hash
            but its teacher's.
        cache: file for embeddings; nothing is kept when None.
        seed: of bootstrap, halves and samples.
        examples: how many outputs to show on the page; 0 shows none. Originals are never shown.
        parrots: the gallery as the tool of the outputs anonymized it: one folder for all, or one each, in their order.
        floor: a folder with `outputs` and `gallery`, the originals and the gallery with one and the same face in every
            picture (method average): what the surroundings tell alone.
        pool: the outputs are runs of one method with other seeds; "pooled", of all of them, is judged as well.
        facemesh: a Python interpreter with MediaPipe, which reads motion in clips, see `faces.facemesh`.
        start_s, stop_s: the part of the original clips that the outputs hold; None is all.
    """

    originals: Path
    outputs: tuple[Path, ...]
    out: Path
    gallery: Path | None = None
    gallery_kind: str = "photos"
    judges: tuple[str, ...] = ("dlib",)
    detector: str = "dlib"
    nets: tuple[str, ...] = ()
    groups: Path | None = None
    person_by: str = "stem"
    names: tuple[str, ...] = ()
    id_encoder: Path | None = None
    cache: Path | None = None
    seed: int = 0
    examples: int = 6
    parrots: tuple[Path, ...] = ()
    floor: Path | None = None
    pool: bool = False
    facemesh: str | None = None
    start_s: float | None = None
    stop_s: float | None = None

    def __post_init__(self) -> None:
        if not self.outputs or not self.judges:
            raise EvaluationError("need at least one folder of outputs and one judge")
        if self.person_by not in ("stem", "folder"):
            raise EvaluationError(f'person_by must be "stem" or "folder", got {self.person_by!r}')
        if self.gallery_kind not in _TESTS:
            raise EvaluationError(f"gallery_kind must be one of {', '.join(_TESTS)}, got {self.gallery_kind!r}")
        if self.names and len(self.names) != len(self.outputs):
            raise EvaluationError(f"need one name per folder of outputs, got {len(self.names)} of {len(self.outputs)}")
        if len(set(self.labels)) != len(self.labels):
            raise EvaluationError(f"folders of outputs need different names, got {list(self.labels)}; give names")
        if (self.parrots or self.floor) and not self.gallery:
            raise EvaluationError(
                "a parrot and a floor need the gallery that they were made from; give --gallery, too"
            )
        if len(self.parrots) not in (0, 1, len(self.outputs)):
            raise EvaluationError(
                f"need one parrot for all outputs or one each, got {len(self.parrots)} for {len(self.outputs)}"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """One name per folder of outputs."""
        return self.names or tuple(folder.resolve().name for folder in self.outputs)


def run_eval(options: EvalOptions) -> tuple[EvalReport, ...]:
    """Judges every folder of outputs and writes `eval.json` and `report.html` into `options.out`.

    Returns:
        One report per folder of outputs, in their order.

    Raises:
        EvaluationError: before anything is written, when a right number cannot be given.
    """
    from deid_diffusion.evaluation.html_report import write_page

    forbidden = id_encoder_hashes(options.id_encoder) if options.id_encoder else ()
    judges = tuple(judge_from_spec(spec, forbidden) for spec in options.judges)
    nets = FaceNets(NetOptions.from_specs(options.nets))
    folders = Folders(
        originals=options.originals,
        outputs=options.outputs,
        names=options.labels,
        gallery=options.gallery,
        person_by=options.person_by,
        groups=options.groups,
        parrots=options.parrots * (len(options.outputs) if len(options.parrots) == 1 else 1),
        floor=options.floor,
    )
    with ArrayCache(options.cache) as cache:
        measurer = FaceMeasurer(detector_from_spec(options.detector), judges, nets, cache)
        collected = collect(folders, measurer, options.seed, options.examples)
    methods = [*collected.methods, *([pooled(collected.methods)] if options.pool else [])]
    reports = tuple(summarise(collected, method, measurer, options) for method in methods)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"methods": [report.to_json() for report in reports]}, indent=1, allow_nan=False)
    (options.out / "eval.json").write_text(text + "\n", encoding="utf-8")
    write_page(options.out / "report.html", reports, [method.examples for method in methods])
    return reports


def summarise(collected: EvalTables, method: MethodTable, measurer: FaceMeasurer, options: EvalOptions) -> EvalReport:
    """Computes one method's report.

    Args:
        collected: the tables of originals and gallery.
        method: the table of its outputs.
        measurer: names judges, detector and networks.
        options: what was asked for.
    """
    seed = options.seed
    results = [judge_result(judge, i, collected, method, seed) for i, judge in enumerate(measurer.judges)]
    rank1 = [(result.judge, found) for result, found in results]
    rows = method.faces["row"].astype(int)
    return EvalReport(
        method=method.name,
        test=_TESTS[options.gallery_kind] if options.gallery else "same photo",
        pictures=len(method.pictures["row"]),
        faces=len(rows),
        people=len({collected.originals.people[row] for row in rows}),
        judges=tuple(result for result, _ in results),
        recogniser_free=recogniser_free_metrics(collected, method, seed),
        utility=utility_metrics(collected.originals, method, seed),
        quality=quality_metrics(collected.originals, method, measurer.nets, seed),
        groups=group_results(collected.originals, method, rank1, seed),
        problems=tuple(method.problems.kept),
        problem_counts=tuple(sorted(method.problems.counts.items())),
        notes=_notes(measurer, options),
        setup=versions(measurer, seed),
    )


def _notes(measurer: FaceMeasurer, options: EvalOptions) -> tuple[str, ...]:
    notes = [
        "Intervals are 95 % bootstraps over people; where every face had the same outcome, the exact binomial bound.",
        "Where no face is detected in an output, the judges embed the place where the original had it: an attacker "
        "knows where a blurred face is. Where it is detected far from its old place, the more similar place counts.",
        "Unchanged faces count as recognised at rank 1.",
        "Thresholds of TAR at FAR are set on impostor pairs: an output and another person's gallery photo.",
        "The adaptive attacker fits a linear map from outputs to originals on pairs of half of the people, and is "
        "tested on the other half (twofold cross-validation): half the gallery, twice the chance level.",
        "An attacker's recogniser may be stronger than these judges: a low rate is an observation, not a proof.",
        'Utility has in its "originals" column the error of the same networks between the originals and their mirror '
        "images: their noise floor.",
    ]
    if options.parrots:
        notes.append(
            "The parrot attacker (Newton, Sweeney and Malin 2005) anonymizes the gallery with the same tool and "
            "compares like with like. Pooled: the mean of all pictures of a person, on both sides."
        )
    if options.floor:
        notes.append(
            "Floor: the same attackers on pictures that all have one and the same average face, so that only hair, "
            "clothes, light and place tell. What is above it, in pairs by person, is what the new faces add; below 0, "
            "they make the surroundings harder to recognise."
        )
    if options.gallery and options.gallery_kind == "views":
        notes.append(
            "The gallery holds edited copies of the originals, not other photos of the people: whatever survives in "
            "the pixels helps the attacker, so the rates are upper bounds, those of the originals too."
        )
    if not options.gallery:
        notes.append(
            "No gallery of other photos was given: outputs are searched among the originals themselves. This is the "
            "harsher test: light, clothes, pose and background help the attacker; originals reach 1 by definition."
        )
    if measurer.detector.same_as_pipeline:
        notes.append(
            f"Faces are detected by {measurer.detector.name}, the shipped anonymizer's own detector: not independent. "
            "Faces that it misses in originals are missing from every metric here."
        )
    if "features" in measurer.nets:
        notes.append(
            "Frechet distance is not FID (another feature space, named beside it), and is biased up while n is not "
            'much larger than the number of features: compare it between methods of equal n. Its "originals" column '
            "compares two halves of the originals."
        )
    if len(measurer.detector.measured) < 5 and "landmarks" not in measurer.nets:
        notes.append("Landmark error is over the eyes and the nose: this detector does not measure the mouth.")
    return tuple(notes)


def versions(measurer: FaceMeasurer, seed: int) -> tuple[tuple[str, str], ...]:
    """Seed, hashes of weights and versions of libraries, as (what, which).

    Args:
        measurer: who looked.
        seed: of the run.
    """
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append((name, "not installed"))
    return (
        ("seed", str(seed)),
        ("detector", f"{measurer.detector.name} sha256 {measurer.detector.weight_hash}"),
        *((f"judge {judge.name}", f"sha256 {judge.weight_hash}") for judge in measurer.judges),
        *(
            (f"net {kind}", f"{measurer.nets.names[kind]} sha256 {value}")
            for kind, value in measurer.nets.hashes.items()
        ),
        ("python", platform.python_version()),
        *found,
    )
