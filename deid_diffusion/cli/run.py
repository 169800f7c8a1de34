"""Runs `deid run`: plans, checks, loads the model, works the jobs off, reports."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import complain, exit_code
from .options import AVERAGES, parse

NOT_ANONYMIZED = (
    "cloaked: changed for recognisers like those that the change was made against, and still seen by every person. "
    "This is no anonymization"
)
_OF_METHODS = {
    "target": "swap", "attraction": "swap", "against": "perturb", "max_change": "perturb", "max_dssim": "perturb",
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Returns the exit code: 0 all done, 1 something failed or had to stop, 2 nothing could be begun, 130 Ctrl-C.

    3 is as 0, but with faces that are only cloaked and so not anonymized. After another signal it is 128 and its
    number: 143 for SIGTERM.
    """
    options = parse(argv)
    if ("help", None) in options.set:
        return _print_attributes()
    from deid_diffusion.jobs import run as jobs
    from deid_diffusion.jobs.journal import Journal
    from deid_diffusion.jobs.machine import one_thread
    from deid_diffusion.jobs.urls import UrlError

    try:
        settings, clips = _settings(options), _clips(options)
        references = _references([*options.only, *options.keep])
        plan = _plan(options)
    except (ValueError, UrlError) as error:
        return complain(str(error), 2)
    from .show import left_out

    journal = Journal(plan.folder)
    if not options.overwrite:
        foreign = [result for job in plan.jobs if (result := jobs.foreign_output(job, journal))]
        if len(foreign) == len(plan.jobs):
            # Nothing to do for the model: say so at once.
            more = f" (and {len(foreign) - 1} more like it)" if len(foreign) > 1 else ""
            skipped = f"; {left_out(plan.skipped)}" if plan.skipped else ""
            return complain(foreign[0].error + more + skipped, 1)
    if len(plan.jobs) > 1 and options.device == "cpu":
        one_thread()
    if options.ray is not None:
        from deid_diffusion.jobs.distributed import connect

        connect(options.ray)  # before the model is loaded: an address may be wrong
    anonymize = _load(options)
    try:
        settings = _completed(settings, anonymize, plan, references, options)
    except ValueError as error:
        return complain(str(error), 2)
    if options.preview:
        print("deid: the *_before_after files show the source faces; keep them to yourself", file=sys.stderr)
    return _work(plan, anonymize, settings, clips, journal, options)


def _work(plan: Any, anonymize: Any, settings: Any, clips: Any, journal: Any, options: argparse.Namespace) -> int:
    """Runs all jobs and writes the report, however it ends."""
    from deid_diffusion.jobs import run as jobs
    from deid_diffusion.jobs.results import Results

    from .show import shown, summary, watch

    start, results, stopped, code = time.perf_counter(), Results(), "", 0
    if options.report:
        # Empty, to learn now and not in an hour that it cannot be written.
        _report(options, plan, anonymize, settings, [])
    try:
        with shown(len(plan.jobs)) as show:
            spreading = _spreading(options, anonymize)
            for result in jobs.run(
                plan.jobs, anonymize, settings, journal, options.overwrite, spreading, clips, watch
            ):
                results.append(result)
                show(result)
    except jobs.JobsStopped as error:
        stopped, code = str(error), 1
    except KeyboardInterrupt as interrupt:
        stopped, code = "interrupted", exit_code(interrupt)
    finally:
        took = time.perf_counter() - start
        if options.report:
            _report(options, plan, anonymize, settings, results)
    print(f"deid: {summary(results, len(plan.jobs), plan.skipped, took)}", file=sys.stderr)
    failed = _say_failures(results) | _say_unreadable(plan.skipped)
    if stopped:
        again = "the same command without --overwrite" if options.overwrite else "the same command"
        complain(f"{stopped}; no output is half-written, and {again} goes on where this stopped", code)
        return _say_confidential(journal, code)
    if failed:
        return _say_confidential(journal, 1)
    journal.finish(plan.keeps_list)
    if cloaked := sum(result.cloaked_faces for result in results):
        return complain(f"{cloaked} face{'s' * (cloaked != 1)} {NOT_ANONYMIZED}", 3)
    return 0


def _spreading(options: argparse.Namespace, anonymize: Any) -> Any:
    """Who does the jobs: processes of this machine, or a cluster."""
    from functools import partial

    if options.ray is None:
        from deid_diffusion.jobs.workers import spread

        return partial(spread, options.workers, options.device)
    from dataclasses import replace

    from deid_diffusion.jobs import distributed

    cluster = distributed.Cluster(options.ray, options.workers, gpus=options.gpus_per_worker)
    own = getattr(anonymize, "spec", None)
    return partial(distributed.spread, cluster, own and replace(own, device=options.device))


def _say_confidential(journal: Any, code: int) -> int:
    """Says on stderr what must not be published; the exit code as it is."""
    if journal.path.exists():
        return complain(f"{journal.path} holds the seeds: keep it to yourself; it goes when all is done", code)
    return code


def _say_failures(results: Sequence[Any]) -> bool:
    """Names on stderr the pictures that failed or have faces on which a model broke; whether there were any."""
    failed = [result.job.name for result in results if not result.ok or result.failed_faces]
    for name in failed if len(results) > 1 else ():
        complain(f"failed: {name}", 1)
    if broken := _first_failure(results):
        complain(f"a model broke, and its faces were hidden; the first reason: {broken}", 1)
    return bool(failed)


def _first_failure(results: Sequence[Any]) -> str:
    """Why a model broke; empty when none did."""
    return next((face["reason"] for result in results for face in result.faces if face["outcome"] == "failed"), "")


def _say_unreadable(skipped: Sequence[Any]) -> bool:
    """Names on stderr the folders that could not be listed; whether there were any."""
    from deid_diffusion.jobs.plan import UNREADABLE

    unreadable = [item for item in skipped if item.reason.startswith(UNREADABLE)]
    for item in unreadable:
        complain(f"failed: {item.path}: {item.reason}; nothing in it was done", 1)
    return bool(unreadable)


def _plan(options: argparse.Namespace) -> Any:
    """What to do; every complaint is a PlanError, and nothing is written or loaded for it."""
    from dataclasses import replace

    from deid_diffusion.jobs.places import check_report, linked_outputs
    from deid_diffusion.jobs.plan import PlanError, plan
    from deid_diffusion.jobs.urls import Url

    from .boxes import with_boxes
    from .face_lists import with_face_lists

    if any(isinstance(end, Url) for end in (*options.inputs, options.out)):
        planned = _plan_urls(options)
    else:
        planned = plan(
            options.inputs, options.out, options.seed, bool(options.preview), options.exclude, options.overwrite
        )
    if options.report:
        boxes = [options.boxes] if options.boxes else []
        check_report(options.report, planned, [*boxes, *options.only, *options.keep], options.overwrite)
    if options.report_seeds and not options.report:
        raise PlanError("--report-seeds says what the report holds; give --report too")
    _check_clips(options, planned.jobs)
    if options.boxes_format and not options.boxes:
        raise PlanError("--boxes-format says what the numbers of --boxes are; give --boxes too")
    if options.boxes:
        if options.boxes.suffix.lower() == ".jsonl":
            boxed, notes = with_face_lists(planned.jobs, options.boxes, options.start_s, options.stop_s)
        else:
            boxed, notes = with_boxes(planned.jobs, options.boxes, options.boxes_format)
        planned = replace(planned, jobs=boxed)
        for note in notes:
            print(f"deid: {note}", file=sys.stderr)
    if options.keep_times:
        planned = replace(planned, jobs=tuple(replace(job, keep_times=True) for job in planned.jobs))
    if options.overwrite and (linked := linked_outputs(planned.jobs)):
        more = f" (and {len(linked) - 1} more like it)" if len(linked) > 1 else ""
        complain(f"{linked[0]}{more} is a hard link: this name gets the new picture, its other names keep the old", 0)
    return planned


def _plan_urls(options: argparse.Namespace) -> Any:
    """What to do where an end is an object store, which some options do not reach."""
    from deid_diffusion.jobs.plan import PlanError
    from deid_diffusion.jobs.url_plan import plan_urls

    for name in ("boxes", "preview", "keep_times"):
        if getattr(options, name):
            raise PlanError(f"--{name.replace('_', '-')} is for files of this machine, and there is an object store")
    if options.method == "k-same":
        raise PlanError("--method k-same is for files of this machine, and there is an object store")
    return plan_urls(options.inputs, options.out, options.seed, options.exclude, options.overwrite)


def _check_clips(options: argparse.Namespace, jobs: Sequence[Any]) -> None:
    """Refuses what clips cannot follow, before anything is loaded."""
    from deid_diffusion.jobs.plan import PlanError

    clip = next((job.in_path for job in jobs if job.is_clip), None)
    if clip is None:
        return
    wrong = {
        f"--boxes {options.boxes}": options.boxes and options.boxes.suffix.lower() != ".jsonl",
        f"--method {options.method}": options.method in (*AVERAGES, "perturb"),
        "--panorama": options.panorama,
        "--keep-metadata": options.keep_metadata,
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            hint = "give the .jsonl file that `deid detect` writes" if "--boxes" in what else "leave one of them out"
            raise PlanError(f"{clip}: {what} is for pictures, and this is a clip; {hint}")


def _settings(options: argparse.Namespace) -> Any:
    """The anonymizer's Settings. Unknown attributes and values out of range end here, before a weight is read."""
    from deid_diffusion.methods import find_method
    from deid_diffusion.methods.pseudonyms import Pseudonyms, check_pseudonyms
    from deid_diffusion.models.loading import check_speed, pick_device
    from deid_diffusion.settings import Repulsion, Settings

    find_method(options.method)
    for name, method in _OF_METHODS.items():
        if getattr(options, name) not in (None, []) and options.method != method:
            said = f"--{name.replace('_', '-')}"
            raise ValueError(f"{said} is for --method {method}, got --method {options.method}; leave one of them out")
    if options.ray is None:
        options.device = pick_device(options.device)
        check_speed(options.dtype, options.device)

    settings = Settings(
        steps=options.steps,
        candidates=options.candidates,
        guidance_scale=options.guidance,
        prompt=options.prompt,
        landmark_style=options.landmark_style,
        repulsion=Repulsion() if options.repulsion is None else Repulsion(scale=options.repulsion),
        repulsion_factor=options.repulsion_factor,
        attributes=dict(options.set),
        drop_attributes=tuple(options.drop),
        privacy=options.privacy,
        redact_with=options.redact_with,
        method=options.method,
        target="random" if options.target is None else options.target,
        attraction=Settings.attraction if options.attraction is None else options.attraction,
        quantization=options.quantization,
        against=tuple(options.against),
        max_change=Settings.max_change if options.max_change is None else options.max_change,
        max_dssim=Settings.max_dssim if options.max_dssim is None else options.max_dssim,
        threshold=options.threshold,
        k=options.k,
        panorama=options.panorama,
        keep_metadata=options.keep_metadata,
        max_pixels=options.max_pixels,
        pseudonyms=Pseudonyms(options.key) if options.key else None,
    )
    check_pseudonyms(settings)
    return settings


def _clips(options: argparse.Namespace) -> Any:
    """What was chosen about clips."""
    from deid_diffusion.video import ClipOptions

    names = ("audio", "crf", "codec", "stride", "motion", "start_s", "stop_s")
    return ClipOptions(**{name: getattr(options, name) for name in names})


def _references(paths: Sequence[Path]) -> list[str]:
    """Reference photos: files as they are, folders as the pictures in them."""
    from deid_diffusion.jobs.plan import PlanError, pictures_in

    photos: list[Path] = []
    for path in paths:
        if not os.path.exists(path):
            raise PlanError(f"{path}: wanted a reference photo or a folder of them, found nothing there")
        photos += pictures_in(path) if os.path.isdir(path) else [path]
    return [str(photo) for photo in photos]


def _completed(settings: Any, anonymize: Any, plan: Any, references: list[str], options: argparse.Namespace) -> Any:
    """The settings with what only a loaded model can add: the people to keep, and the people to average."""
    from dataclasses import replace

    anonymize.check(settings)
    if options.method == "swap":
        settings = _with_target(settings, anonymize, plan.jobs[0].seed if options.seed is None else options.seed)
    if references:
        people = anonymize.embed_references(references)
        settings = replace(settings, **{"only" if options.only else "keep": people})
        print(f"deid: {_selection(people, bool(options.only))}", file=sys.stderr)
    return _with_cohort(settings, anonymize, plan) if options.method in AVERAGES else settings


def _with_target(settings: Any, anonymize: Any, seed: int) -> Any:
    """Draws the random person once for all files, whose seeds differ; says who it is."""
    from deid_diffusion.methods.swap import same_target

    settings = same_target(settings, anonymize.bank, seed)
    print(f"deid: everybody becomes person {settings.target} of {len(anonymize.bank.embedding)}", file=sys.stderr)
    return settings


def _selection(people: Any, only: bool) -> str:
    """What is done with reference people, in words: the recogniser is weaker than the options sound."""
    count = f"{len(people.embedding)} reference photo{'s' * (len(people.embedding) != 1)}"
    if only:
        return (
            f"--only, {count}: leaves faces whose similarity is below {people.missed:.2f} and hides the rest, most "
            "strangers too, so as not to miss the person; the report names borderline faces"
        )
    limit = people.sure
    return (
        f"--except, {count}: leaves faces whose similarity is {limit:.2f} or more and hides the rest, most other "
        "photos of the person too, so as not to leave a stranger; the report names borderline faces"
    )


def _with_cohort(settings: Any, anonymize: Any, plan: Any) -> Any:
    """Looks at every picture, also at those that are done: whoever is published is averaged."""
    from dataclasses import replace

    print(f"deid: {settings.method} looks at all {len(plan.jobs)} pictures first", file=sys.stderr)
    cohort = anonymize.fit_cohort(((job.in_path, job.boxes) for job in plan.jobs), settings)
    print(f"deid: {cohort.faces} faces, {cohort.people} people told apart", file=sys.stderr)
    return replace(settings, cohort=cohort)


def _load(options: argparse.Namespace) -> Any:
    from deid_diffusion import FaceAnonymizer
    from deid_diffusion.jobs.machine import quiet_libraries

    quiet_libraries()
    # What was not given is left to the library's own defaults.
    names = ("pipeline", "revision", "controlnet", "preview_vae", "dtype", "backend")
    how = {name: getattr(options, name) for name in names}
    how = {name: value for name, value in how.items() if value is not None} | {"detection": options.detect}
    # On a cluster the device is the workers': this process only needs to know what the weights are.
    return FaceAnonymizer.from_pretrained(options.model, device="cpu" if options.ray else options.device, **how)


def _report(options: argparse.Namespace, plan: Any, anonymize: Any, settings: Any, results: Sequence[Any]) -> None:
    from deid_diffusion.jobs.journal import describe
    from deid_diffusion.jobs.report import CONFIDENTIAL, write_report

    about = {
        "versions": anonymize.versions(),
        **({"confidential": CONFIDENTIAL, "seed": options.seed} if options.report_seeds else {}),
        "settings": describe(settings),
        "complete": len(results) == len(plan.jobs),
    }
    if cloaked := sum(result.cloaked_faces for result in results):
        about["warning"] = f"{cloaked} faces {NOT_ANONYMIZED}"
    left_out = [(str(item.path), item.reason) for item in plan.skipped]
    try:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        write_report(options.report, results, about, left_out, options.report_seeds)
    except OSError as error:
        raise OSError(f"{options.report}: wanted to write the report there, got {error.strerror}") from error


def _print_attributes() -> int:
    from deid_diffusion.pipelines.conditioning import FIELDS

    for name, field in FIELDS.items():
        print(f"{name:<11}{field.low:g} to {field.high:g}: {field.unit}")
    return 0
