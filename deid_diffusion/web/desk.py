"""Does what visitors ask for, one after the other: the one worker behind the page."""

from __future__ import annotations

import logging
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from ..anonymizer import FaceAnonymizer
from ..errors import DeidError
from ..imaging.pictures import picture_size
from ..jobs.report import write_report
from ..messages import brief_error
from ..methods.k_same import Cohort, fit_cohort
from ..methods.pseudonyms import Pseudonyms
from ..methods.swap import same_target
from ..seeds import derived_seed
from ..settings import Settings
from .choices import Options
from .clips import Clip
from .evaluations import Evaluation
from .photos import Photo
from .sessions import Session, Sessions, VisitError

log = logging.getLogger(__name__)


class Desk:
    """The worker. `do` is called by one thread at a time: gradio's queue sees to that."""

    def __init__(
        self, load: Callable[[], FaceAnonymizer], sessions: Sessions, pseudonyms: Pseudonyms | None = None
    ) -> None:
        """Nothing is loaded yet.

        Args:
            load: makes the anonymizer.
            sessions: the visitors.
            pseudonyms: a key by which everybody becomes the same stranger in all that is brought here.
        """
        self.sessions, self.pseudonyms = sessions, pseudonyms
        self._cohorts: WeakKeyDictionary[Session, tuple[Any, Cohort | str]] = WeakKeyDictionary()
        self._load, self._lock = load, threading.Lock()
        self._loaded: FaceAnonymizer | None = None

    @property
    def anonymizer(self) -> FaceAnonymizer:
        """The one model of all visitors; the first who asks waits for it.

        Raises:
            Exception: whatever loading raises.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def do(self, secret: str, action: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Does one thing.

        Args:
            secret: of the visitor.
            action: a method of this class without its underscore, such as "look".
            values: what it needs: "id" of a photo, "face", and so on.

        Returns:
            what the page needs to know; or `error`, the sentence that the command line would say.
        """
        folder = ""
        if action not in ACTIONS:
            return {"error": "wanted something that this page can do, got something else; load it again"}
        try:
            with self.sessions.working(secret) as session:
                folder, session.cancelled = str(session.folder), False
                session.job, session.working_on = str(values.get("job", "")), str(values.get("id", ""))
                session.tell(0.0, "")
                return ACTIONS[action](self, session, values)
        except Exception as error:
            return {"error": _sentence(error, folder)}

    def _look(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        photo = session.item(Photo, values["id"])
        session.tell(0.0, "loading the model")
        anonymizer = self.anonymizer
        session.tell(0.0, "looking for faces")
        size = picture_size(photo.path)
        limits, others = self.sessions.limits, [one for one in session.items.values() if isinstance(one, Photo)]
        held = sum(one.pixels for one in others if one is not photo)
        if size is not None and size[0] * size[1] <= limits.max_pixels < held + size[0] * size[1] > limits.held_pixels:
            raise VisitError(
                f"{photo.name}: wanted at most {limits.held_pixels:,} pixels in all open photos, got "
                f"{held + size[0] * size[1]:,}; remove some, or use deid run for a whole folder"
            )
        photo.averaged = partial(self._averaged, session)
        photo.look(anonymizer, limits.max_pixels, self._options(session, values))
        return photo.state()

    def _make(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        photo = session.item(Photo, values["id"])
        session.tell(0.0, "making new faces")
        photo.make(self.anonymizer, self._options(session, values))
        return photo.state()

    def _options(self, session: Session, values: Mapping[str, Any]) -> Options:
        """As the page says; whom swap makes of everybody follows from the visit where no seed was given."""
        options = Options.from_json(values.get("options", {}), self.pseudonyms)
        if options.making != "swap":
            return options
        seed = derived_seed(session.secret if options.seed is None else options.seed, options.draw, "swap")
        return replace(options, target=int(same_target(Settings(), self.anonymizer.bank, seed).target))

    def _averaged(self, session: Session, options: Options) -> Cohort | str:
        """The people of all open photos who are to be averaged; or why nobody can be."""
        photos = [one for one in session.items.values() if isinstance(one, Photo)]
        tasks = [task for photo in photos for task in photo.averaging]
        key = options.k, *tasks
        known = self._cohorts.get(session)
        if known is None or known[0] != key:
            faces: list[Any] = [(task.crop, task.embedding) for task in tasks]
            found: Cohort | str
            try:
                found = fit_cohort(faces, options.k, self.anonymizer.same_person(options.settings()))
            except ValueError as error:
                found = str(error)
            known = self._cohorts[session] = key, found
        return known[1]

    def _decide(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        photo = session.item(Photo, values["id"])
        photo.decide(self.anonymizer, values["face"], values["decision"])
        return photo.state()

    def _more(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        photo = session.item(Photo, values["id"])
        session.tell(0.0, "making more faces to choose from")
        photo.more(self.anonymizer, values["face"])
        return photo.state()

    def _take(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        photo = session.item(Photo, values["id"])
        photo.take(self.anonymizer, values["face"], values["place"])
        return photo.state()

    def _adjust(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        photo = session.item(Photo, values["id"])
        photo.adjust(self.anonymizer, values["face"], values["attributes"])
        return photo.state()

    def _draw(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        photo = session.item(Photo, values["id"])
        session.tell(0.0, "looking into the box")
        return {"drawn": photo.draw(self.anonymizer, values["box"]), **photo.state()}

    def _remove(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        photo = session.item(Photo, values["id"])
        photo.remove(self.anonymizer, values["face"])
        return photo.state()

    def _finish(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        """Writes one photo, or several as a zip with the report."""
        photos = [session.item(Photo, number) for number in values["ids"]]
        for number, photo in enumerate(photos):
            session.tell(number / len(photos), "writing at full size")
            photo.finish(self.anonymizer)
        report = session.folder / "report.json"
        about = {"versions": self.anonymizer.versions(), "page": True, "complete": True}
        write_report(report, [photo.result for photo in photos], about)
        if len(photos) == 1:
            return {**photos[0].state(), "files": ["photo", "report"]}
        with zipfile.ZipFile(session.folder / "all.zip", "w") as archive:
            names: set[str] = set()
            for photo in photos:
                archive.write(photo.out_path, _other_name(photo.out_path, names))
            archive.write(report, "report.json")
        return {"files": ["zip", "report"]}

    def _clip_look(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        clip, tell = session.item(Clip, values["id"]), session.tell
        tell(0.0, "loading the model")
        clip.look(self.anonymizer, self.sessions.limits.max_pixels, tell)
        return clip.state()

    def _clip_decide(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        clip = session.item(Clip, values["id"])
        clip.decide(values["track"], values["decision"])
        return clip.state()

    def _clip_draw(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        clip = session.item(Clip, values["id"])
        number = clip.draw(values["still"], values["box"], session.tell)
        return {"drawn_now": number, **clip.state()}

    def _clip_remove(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        clip = session.item(Clip, values["id"])
        clip.remove(values["track"])
        return clip.state()

    def _clip_list(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        """Takes a detections file that was uploaded, or writes one."""
        clip = session.item(Clip, values["id"])
        if "list" in values:
            clip.take_list(session.item(Path, values["list"]))
        clip.write_list()
        return clip.state()

    def _clip_render(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        clip = session.item(Clip, values["id"])
        settings = Settings(privacy=values["privacy"], pseudonyms=self.pseudonyms)
        clip.render(self.anonymizer, values["method"], values["audio"], session.tell, settings)
        about = {"versions": self.anonymizer.versions(), "page": True, "complete": True}
        write_report(session.folder / "report.json", [clip.result], about)
        return clip.state()

    def _evaluate(self, session: Session, values: Mapping[str, Any]) -> dict[str, Any]:
        evaluation = session.item(Evaluation, values["id"])
        session.tell(0.0, "judging")
        return evaluation.judge()


ACTIONS: dict[str, Callable[[Desk, Session, Mapping[str, Any]], dict[str, Any]]] = {
    "look": Desk._look, "make": Desk._make, "decide": Desk._decide, "more": Desk._more, "take": Desk._take,
    "adjust": Desk._adjust, "draw": Desk._draw, "remove": Desk._remove, "finish": Desk._finish,
    "evaluate": Desk._evaluate,
    "clip.look": Desk._clip_look, "clip.decide": Desk._clip_decide, "clip.draw": Desk._clip_draw,
    "clip.remove": Desk._clip_remove, "clip.list": Desk._clip_list, "clip.render": Desk._clip_render,
}  # fmt: skip


def _sentence(error: Exception, folder: str) -> str:
    """What the command line would say, without where the file lies meanwhile."""
    if isinstance(error, DeidError | ValueError | FileNotFoundError):
        text = str(error)
    elif isinstance(error, KeyError | TypeError | AttributeError):
        log.exception("a request could not be followed")
        text = "wanted a request of this page, got another; load the page again"
    else:
        log.exception("a request failed")
        text = f"{type(error).__name__}: {brief_error(error)}"
    if folder:
        # <folder>/<id>/name.jpg
        head, *rest = text.split(f"{folder}/")
        text = head + "".join(part.partition("/")[2] if "/" in part[:40] else part for part in rest)
    return text


def _other_name(path: Path, names: set[str]) -> str:
    """The file's name, or one with a number where another has it."""
    name, number = path.name, 1
    while name in names:
        number += 1
        name = f"{path.stem}_{number}{path.suffix}"
    names.add(name)
    return name
