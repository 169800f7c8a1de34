"""Runs a whole evaluation: folders in, `eval.json` and `report.html` out."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deid_diffusion.evaluation.averages import group_results, quality_measures, utility_measures
from deid_diffusion.evaluation.cache import ArrayCache
from deid_diffusion.evaluation.faces import finder_from_spec
from deid_diffusion.evaluation.judges import Judge, guide_hashes, judge_from_spec
from deid_diffusion.evaluation.ledger import MethodLedger
from deid_diffusion.evaluation.nets import FaceNets, NetOptions
from deid_diffusion.evaluation.privacy import general_measures, judge_result
from deid_diffusion.evaluation.protocol import Collected, Folders, collect
from deid_diffusion.evaluation.reading import Reader
from deid_diffusion.evaluation.results import EvalReport, EvaluationError

_log = logging.getLogger(__name__)
_TESTS = {"photos": "other photos", "views": "edited views of the originals, not other photos"}
_PACKAGES = ("numpy", "opencv-python", "pillow", "torch", "dlib-bin", "face_recognition_models", "onnxruntime")


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
        finder: "dlib", "yunet:FILE" or "centerface".
        nets: ("age_gender=FILE", ...), see `nets.NetOptions`.
        groups: CSV of person,attribute,...
        person_by: "stem" (001.jpg in every folder is one person) or "folder" (ann/1.jpg is ann).
        names: labels of the outputs; by default their folders' names.
        guide: the anonymizer's weights folder, whose guide may not judge.
        cache: file for embeddings; nothing is kept when None.
        seed: of bootstrap, halves and samples.
        examples: how many outputs to show on the page; 0 shows none. Originals are never shown.
    """

    originals: Path
    outputs: tuple[Path, ...]
    out: Path
    gallery: Path | None = None
    gallery_kind: str = "photos"
    judges: tuple[str, ...] = ("dlib",)
    finder: str = "dlib"
    nets: tuple[str, ...] = ()
    groups: Path | None = None
    person_by: str = "stem"
    names: tuple[str, ...] = ()
    guide: Path | None = None
    cache: Path | None = None
    seed: int = 0
    examples: int = 6

    def __post_init__(self):
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

    @property
    def labels(self) -> tuple[str, ...]:
        return self.names or tuple(folder.resolve().name for folder in self.outputs)


def run_eval(options: EvalOptions) -> tuple[EvalReport, ...]:
    """Judges every folder of outputs, writes `eval.json` and `report.html` into `options.out`, returns the reports.

    Raises:
        EvaluationError: before anything is written, when a right number cannot be given.
    """
    from deid_diffusion.evaluation.report import write_page

    forbidden = guide_hashes(options.guide) if options.guide else ()
    judges = tuple(judge_from_spec(spec, forbidden) for spec in options.judges)
    nets = FaceNets(NetOptions.from_specs(options.nets))
    folders = Folders(
        originals=options.originals,
        outputs=options.outputs,
        names=options.labels,
        gallery=options.gallery,
        person_by=options.person_by,
        groups=options.groups,
    )
    with ArrayCache(options.cache) as cache:
        reader = Reader(finder_from_spec(options.finder), judges, nets, cache)
        collected = collect(folders, reader, options.seed, options.examples)
    reports = tuple(summarise(collected, method, reader, options) for method in collected.methods)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"methods": [report.to_json() for report in reports]}, indent=1, allow_nan=False)
    (options.out / "eval.json").write_text(text + "\n", encoding="utf-8")
    write_page(options.out / "report.html", reports, [method.examples for method in collected.methods])
    return reports


def summarise(collected: Collected, method: MethodLedger, reader: Reader, options: EvalOptions) -> EvalReport:
    """One method's rows -> its report."""
    seed = options.seed
    results = [judge_result(judge, i, collected, method, seed) for i, judge in enumerate(reader.judges)]
    rank1 = [(result.judge, found) for result, found in results]
    rows = method.faces["row"].astype(int)
    return EvalReport(
        method=method.name,
        test=_TESTS[options.gallery_kind] if options.gallery else "same photo",
        pictures=len(method.pictures["row"]),
        faces=len(rows),
        people=len({collected.originals.people[row] for row in rows}),
        judges=tuple(result for result, _ in results),
        general=general_measures(collected, method, seed),
        utility=utility_measures(collected.originals, method, seed),
        quality=quality_measures(collected.originals, method, reader.nets, seed),
        groups=group_results(collected.originals, method, rank1, seed),
        problems=tuple(method.problems.kept),
        problem_counts=tuple(sorted(method.problems.counts.items())),
        notes=_notes(reader, options),
        setup=_setup(reader, reader.judges, seed),
    )


def _notes(reader: Reader, options: EvalOptions) -> tuple[str, ...]:
    notes = [
        "Intervals are 95 % bootstraps over people. Where every face had the same outcome, the exact binomial bound.",
        "Where no face is found in an output, the judges look at the place where the original had it: an attacker "
        "knows where a blurred face is. Where a face is found far from its old place, the more telling place counts.",
        "A face whose pixels were left as they were counts as recognised at rank 1.",
        "Thresholds of TAR are set on pairs of an output and a stranger's gallery photo.",
        "The recognisers here may be weaker than an attacker's: a low rate is what these judges see, not a proof.",
        'What a new face kept (landmarks, pose, expression, age) has in its "originals" column what the same networks '
        "say of the originals' mirror images, where everything was kept: their own noise.",
    ]
    if options.gallery and options.gallery_kind == "views":
        notes.append(
            "The gallery holds edited copies of the originals, not other photos of the people: whatever survives in "
            "the pixels helps the attacker, so the rates are upper bounds, and the ceiling is too high."
        )
    if not options.gallery:
        notes.append(
            "No gallery of other photos was given: outputs are searched among the originals themselves. This is the "
            "harsher test: light, clothes, pose and pixels off the face help the attacker; its ceiling is 1 by nature."
        )
    if reader.finder.same_as_pipeline:
        notes.append(
            f'"Face found" comes from {reader.finder.name}, the shipped anonymizer\'s own detector: not independent. '
            "Faces it never finds are missing from every number here."
        )
    if "features" in reader.nets:
        notes.append(
            "Frechet distance is biased up while n is not much larger than the number of features: compare it only "
            'between methods of equal n. Its "originals" column compares two halves of the originals.'
        )
    if len(reader.finder.measured) < 5 and "landmarks" not in reader.nets:
        notes.append("Landmark error is over the eyes and the nose: this finder does not read the mouth.")
    return tuple(notes)


def _setup(reader: Reader, judges: Sequence[Judge], seed: int) -> tuple[tuple[str, str], ...]:
    versions = []
    for name in _PACKAGES:
        try:
            versions.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            versions.append((name, "not installed"))
    return (
        ("seed", str(seed)),
        ("finder", f"{reader.finder.name} sha256 {reader.finder.weight_hash}"),
        *((f"judge {judge.name}", f"sha256 {judge.weight_hash}") for judge in judges),
        *((f"net {kind}", f"{reader.nets.names[kind]} sha256 {value}") for kind, value in reader.nets.hashes.items()),
        ("python", platform.python_version()),
        *versions,
    )
