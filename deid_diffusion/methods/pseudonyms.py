"""Gives every person the same stranger in all pictures and clips of a key, and another one with another key."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import numpy as np

from ..faces.attributes import Attributes
from ..faces.task import FaceTask, Target
from ..messages import brief, brief_path
from ..settings import Settings
from .identity_bank import IdentityBank
from .key_file import PseudonymError, new_key, read_key
from .people_file import People, PeopleFile, Person
from .protocol import find_method

GROUP = 64  # best matches in age, gender and skin, of whom one is drawn


class Pseudonyms:
    """A key and the people that it knows. Several processes may use one key at the same time."""

    def __init__(self, path: str | PathLike, same: float | None = None) -> None:
        """Reads the key and looks whether its people can be read.

        Args:
            path: of the key, from `deid key new` or `Pseudonyms.new`; its people lie beside it, in `PATH.people`.
            same: cosine of the identity encoder from which on two faces are of one person; None for what 1 % of pairs
                of strangers reach, in photos of real people, as the weights say.

        Raises:
            PseudonymError: either is missing, damaged, of another version, or they do not belong together.
        """
        self.key, self.same = read_key(path), same
        self.file = PeopleFile(self.key)
        self.file.load()

    @classmethod
    def new(cls, path: str | PathLike) -> Pseudonyms:
        """Makes a key that knows nobody yet.

        Args:
            path: where to; nothing may be there.

        Raises:
            PseudonymError: something is there, or nothing can be written.
        """
        key = new_key(path)
        try:
            PeopleFile(key).create()
        except PseudonymError:
            key.path.unlink()
            raise
        return cls(path)

    def __reduce__(self) -> Any:
        """Only the path travels to other processes, never the secret."""
        return Pseudonyms, (str(self.key.path), self.same)

    def __str__(self) -> str:
        """What a report may say: which key it is, and nothing that it hides."""
        return f"key {self.key.name}" + ("" if self.same is None else f", same person from {self.same:g}")

    __repr__ = __str__

    @property
    def people(self) -> list[Person]:
        """Everybody whom the key knows, by number."""
        return list(self.file.load().people.values())

    def person(
        self,
        bank: IdentityBank,
        same: float,
        wanted: Attributes,
        embedding: np.ndarray,
        taken: Collection[int] = frozenset(),
    ) -> Person:
        """Who this is; somebody whom the key does not know is enrolled.

        Args:
            bank: identities to become.
            same: what the weights say, in the place of a `same` that is None.
            wanted: age, male and skin, by which a new person's stranger is matched.
            embedding: (D,) unit norm, of the face.
            taken: bank numbers that others in the picture have: nobody is in it twice.

        Raises:
            PseudonymError: the people cannot be read or written, or their targets are of another bank.
        """
        same = same if self.same is None else self.same
        found = _known(self._checked(self.file.load(), bank), embedding, same, taken)
        if found is not None:
            return found
        with self.file.change() as people:
            self._checked(people, bank)
            found = _known(people, embedding, same, taken)  # another process may have met them meanwhile
            if found is None:
                found = self._enrol(people, bank, wanted, embedding, taken)
        return found

    def merge(self, into: int, others: Sequence[int]) -> None:
        """Makes several people one, who keeps the first one's stranger.

        Args:
            into: number of the person who stays.
            others: numbers of those who are the same person.

        Raises:
            PseudonymError: numbers that the key does not know, or one twice.
        """
        numbers = [into, *others]
        if len(set(numbers)) != len(numbers) or not others:
            raise PseudonymError("merge takes two different people or more, got one twice or one alone")
        with self.file.change() as people:
            found = [_found(people, number) for number in numbers]
            for one in found[1:]:
                del people.people[one.number]
                people.retired.append(one.target)
            rows = np.concatenate([one.embeddings for one in found])
            people.people[into] = replace(found[0], embeddings=rows)

    def forget(self, numbers: Sequence[int]) -> None:
        """Forgets people: when they come again they are somebody new.

        Args:
            numbers: of the people.

        Raises:
            PseudonymError: a number that the key does not know; then nobody is forgotten.
        """
        with self.file.change() as people:
            for one in [_found(people, number) for number in dict.fromkeys(numbers)]:
                del people.people[one.number]
                people.retired.append(one.target)

    def _enrol(
        self, people: People, bank: IdentityBank, wanted: Attributes, embedding: np.ndarray, taken: Collection[int]
    ) -> Person:
        number, used = people.next, Counter(one.target for one in people.people.values())
        used.update(people.retired)
        group = bank.group(wanted, embedding, among=GROUP, exclude=taken)
        fewest = min(used[one] for one in group)
        free = [one for one in group if used[one] == fewest]
        # Highest random weight (Thaler and Ravishankar 1998): an even draw that nobody can repeat without the key.
        target = max(free, key=lambda one: self.key.mac("target", str(number), str(one)))
        people.people[number] = Person(number, target, np.asarray(embedding, np.float32)[None].copy())
        people.next, people.bank = number + 1, _digest(bank)
        return people.people[number]

    def _checked(self, people: People, bank: IdentityBank) -> People:
        if people.bank not in ("", _digest(bank)):
            raise PseudonymError(
                f"{brief_path(self.file.path)}: its people were met with other weights, whose embeddings say nothing "
                "here; load those, or make a new key"
            )
        return people


@dataclass(eq=False)
class PseudonymTargets:
    """Everybody becomes the stranger whom the key says.

    Attributes:
        threshold: cosine to the source from which on a result is rejected.
        bank: identities to become.
        pseudonyms: the key.
        same: cosine from which on two faces are of one person, where the key does not say.
    """

    threshold: float
    bank: IdentityBank
    pseudonyms: Pseudonyms
    same: float
    _last: tuple[Any, Target] | None = field(default=None, repr=False)

    def choose(self, task: FaceTask, attempt: int, candidate: int, taken: Collection[int]) -> Target:
        """The same stranger for every candidate and round."""
        if task.targets:
            return task.targets[0]
        if self._last is None or self._last[0] is not task.embedding:
            self._last = task.embedding, self.for_person(task.wanted, task.embedding, 0, taken)
        return self._last[1]

    def for_person(self, wanted: Attributes, embedding: np.ndarray, seed: int, taken: Collection[int]) -> Target:
        """The stranger of a person, who is enrolled when they come for the first time."""
        person = self.pseudonyms.person(self.bank, self.same, wanted, embedding, taken)
        return replace(self.bank.target(person.target), pseudonym=person.number)

    def rejection(self, task: FaceTask, similarity: float) -> str:
        """Why a result with this cosine to its source may not be used; empty when it may."""
        if similarity < self.threshold:
            return ""
        return f"too similar to the source: {similarity:.2f}, threshold {self.threshold:.2f}"


def check_pseudonyms(settings: Settings) -> None:
    """Refuses a key where nobody gets a face of their own.

    Args:
        settings: of the run.

    Raises:
        ValueError: the method is such a one, or this is no key.
    """
    if not isinstance(settings.pseudonyms, Pseudonyms | None):
        raise ValueError(f"pseudonyms must be a Pseudonyms, made of a key's file, got {brief(settings.pseudonyms)}")
    method = find_method(settings.method)
    if settings.pseudonyms is not None and (not method.uses_targets or hasattr(method, "policy")):
        raise ValueError(
            f"a key gives every person a stranger of their own, and the method {brief(method.name)} does not; leave "
            "one of them out"
        )


def _known(people: People, embedding: np.ndarray, same: float, taken: Collection[int]) -> Person | None:
    """The person whom an embedding is most like, if it is like them at all."""
    free = [one for one in people.people.values() if one.target not in taken]
    if not free:
        return None
    similarity = [float((one.embeddings @ embedding).max()) for one in free]
    best = int(np.argmax(similarity))
    return free[best] if similarity[best] >= same else None


def _found(people: People, number: int) -> Person:
    if number not in people.people:
        raise PseudonymError(
            f"the key knows no person {brief(number)}; `deid key people list` names its {len(people.people)} people"
        )
    return people.people[number]


def _digest(bank: IdentityBank) -> str:
    """16 hex digits: of the bank, and so of the encoder in whose space it is."""
    return hashlib.sha256(bank.embedding.tobytes()).hexdigest()[:16]
