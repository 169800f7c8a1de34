"""Makes training data that anybody can make again: labelled crops of people who do not exist, balanced by group.

    deid train synthesize --out faces/ --count 60000 --seed 0

Styles are drawn from the seed, painted by the generator of an ordinary wheel (`generator.py`), cut out and labelled
(`face_labels.py`), and kept if they are needed (`quotas.py`). The first ones are drawn blindly; from then on a linear
reading of styles (`style_map.py`) says beforehand who is worth painting. Interrupted, it goes on from the folder.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import torch

from deid_diffusion.faces.estimator import FaceEstimator
from deid_diffusion.faces.facemesh import FaceMesh
from deid_diffusion.training.attempts import Attempt, save_attempts
from deid_diffusion.training.census import census, census_text, draw_sheet
from deid_diffusion.training.face_labels import LABEL_RULE, MEASURED, Labeller, load_net
from deid_diffusion.training.generator import DIM, WHEEL, Generator
from deid_diffusion.training.quotas import TRAITS, Quotas
from deid_diffusion.training.run import option, parse_options, write_json
from deid_diffusion.training.shards import Shards
from deid_diffusion.training.style_map import StyleMap
from deid_diffusion.weight_files import sha256_of, weights_dir

log = logging.getLogger(__name__)
ROUND = 20  # attempts that are chosen before any of them is painted
POOL = 128  # styles of which one is painted
LEAST_NEED = -1.0  # below it there are too many of somebody's groups already
PSI = (0.7, 1.0)  # truncation
ODD_COST = 0.3  # of need, for a style that is expected to be odder than most by a deviation
MOVED = 0.3  # share of styles that are moved along any one measure, by up to a deviation and more
SAME = 0.65  # cosine of two pictures of one person, at least; 1 in 100 strangers reach it by the identity encoder
SMALLER = (1.0, 0.6, 0.35)  # of the moves between two pictures of a person, tried in this order
SHAPES = ("seed", "scouts", "shard", "pairs")  # options that say which people come
# And so do these. Another version of the rule cannot go on with what an earlier one began.
_NUMBERS = (ROUND, POOL, LEAST_NEED, PSI, ODD_COST, MOVED, SAME, SMALLER)
RULE = sha256(repr((TRAITS, MEASURED, LABEL_RULE, _NUMBERS)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Options:
    """What `deid train synthesize` takes."""

    out: str = option("data/synthetic", "folder for the crops; what lies there is gone on from")
    count: int = option(1000, "how many people")
    seed: int = option(0, "the same seed gives the same people")
    scouts: int = option(600, "attempts that are drawn blindly, to learn how to read styles")
    shard: int = option(200, "attempts a shard: what is lost at most when killed")
    pairs: bool = option(False, "a second picture of everybody, turned, lit and smiling otherwise (after the scouts)")
    minutes: float = option(0.0, "stop after the shard in which these are over; 0 for no limit")
    mesh: str = option("", "a Python with mediapipe, for better landmarks than the shipped estimator's")
    recogniser: str = option("", "TorchScript net for the embeddings (see Labeller); empty for the shipped one")
    age_net: str = option("", "TorchScript network for age and gender (see Labeller); empty for the shipped estimator")
    backend: str = option("auto", "what paints: torch, openvino (four times as fast on a CPU), or auto")
    device: str = option("cpu", "where torch paints: cpu or cuda; labels are always made on the CPU")
    threads: int = option(1, "CPU threads")


@dataclass(eq=False)
class Synthesis:
    """One data set in the making.

    Attributes:
        shards: what is finished.
        quotas: who is there, of those kept.
        map: reads styles; None during the first attempts.
    """

    options: Options
    generator: Generator
    label: Labeller
    shards: Shards
    quotas: Quotas = field(default_factory=Quotas)
    map: StyleMap | None = None

    def __post_init__(self) -> None:
        for labels in self.shards.labels:
            for row in self.quotas.groups(labels["measured"][~labels["second"]]):
                self.quotas.count(row)

    @property
    def tried(self) -> int:
        """How many attempts there are in the finished shards."""
        return sum(len(labels["tried_fault"]) for labels in self.shards.labels)

    def make_shard(self, count: int) -> int:
        """Attempts until the shard is full or `count` more people are kept; returns how many were."""
        self.map = self._read_styles()
        attempts: list[Attempt] = []
        kept: list[Attempt] = []
        first = self.tried
        while len(attempts) < self.options.shard and len(kept) < count:
            numbers = range(first + len(attempts), first + min(len(attempts) + ROUND, self.options.shard))
            styles = self._choose(numbers)
            for number, style in zip(numbers, styles, strict=True):
                attempts.append(self._attempt(number, style))
                if not attempts[-1].fault:
                    kept.append(attempts[-1])
                if len(kept) == count:
                    break
        seconds = [self._second_picture(attempt) if self.options.pairs and self.map else None for attempt in kept]
        save_attempts(self.shards, self.options.seed, attempts, kept, seconds)
        return len(kept)

    def _read_styles(self) -> StyleMap | None:
        if self.tried < self.options.scouts:
            return None
        measured = self.shards.column("tried_measured")
        good = np.isfinite(measured).all(1)
        styles = self.shards.column("tried_style")[good].astype(np.float64)
        return StyleMap.fit(styles, measured[good].astype(np.float64), self.generator.mean, self.generator.spread)

    def _choose(self, numbers: range) -> np.ndarray:
        """(R, 512) float16: a style for each attempt."""
        expected, chosen = self.quotas.copy(), []
        for number in numbers:
            dice = np.random.default_rng([self.options.seed, number])
            pool = POOL if self.map else 1
            styles = self.generator.styles(dice.standard_normal((pool, DIM)), dice.uniform(*PSI, pool))
            if self.map:
                shape = (pool, len(MEASURED))
                changes = dice.normal(size=shape) * (dice.uniform(size=shape) < MOVED) * self.map.natural
                changes[:, MEASURED.index("ood_score")] = 0
                styles = self.map.move(styles, changes)
                best = self._best(styles, expected)
                styles = styles[best : best + 1]
            chosen.append(styles[0].astype(np.float16))
        return np.stack(chosen)

    def _best(self, styles: np.ndarray, expected: Quotas) -> int:
        """Who of them is needed most, of those that will be like photos; then counts as expected."""
        read, odd = self.map.read(styles), MEASURED.index("ood_score")
        chances = expected.chances(read, self.map.deviation)
        ood_score = (read[:, odd] - self.map.level[odd]) / self.map.natural[odd]
        best = int(np.argmax(expected.need(chances) - self.map.excess(styles) - ODD_COST * ood_score))
        expected.expect(chances, best)
        return best

    def _attempt(self, number: int, style: np.ndarray) -> Attempt:
        face = self.label(self.generator.paint(style[None])[0])
        if isinstance(face, str):
            return Attempt(number, style, None, face)
        group = self.quotas.groups(face.measured[None])[0]
        fault = face.fault or ("not needed" if self.quotas.need_of(group) < LEAST_NEED else "")
        if not fault:
            self.quotas.count(group)
        return Attempt(number, style, face, fault)

    def _second_picture(self, attempt: Attempt) -> Attempt | None:
        """The same person turned, lit and smiling otherwise; None where no such picture is found."""
        dice = np.random.default_rng([self.options.seed, attempt.number, 1])
        now = dict(zip(MEASURED, attempt.face.measured.tolist(), strict=True))
        changes = np.zeros(len(MEASURED))
        # Away from where they are: who looks left is turned right.
        for name, middle, least, most in (("yaw_deg", 0, 12, 35), ("smile", 0.5, 0.3, 0.7), ("light_x", 0, 0.1, 0.3)):
            way = -1.0 if now[name] > middle else 1.0
            changes[MEASURED.index(name)] = way * dice.uniform(least, most)
        for share in SMALLER:
            style = self.map.move(attempt.style[None].astype(np.float64), share * changes[None])[0].astype(np.float16)
            face = self.label(self.generator.paint(style[None])[0])
            if not isinstance(face, str) and not face.fault and float(face.embedding @ attempt.face.embedding) > SAME:
                return Attempt(attempt.number, style, face, "")
        return None


def settle(options: Options, out: Path) -> None:
    """Writes what the people depend on beside them, or compares with what is written there.

    Args:
        options: those of `SHAPES` and the networks count.
        out: the folder, which exists.

    Raises:
        ValueError: the folder was begun with something else.
    """
    asked = {name: value for name, value in asdict(options).items() if name in SHAPES}
    asked |= {"rule": RULE, "wheel": WHEEL, "landmarks": "mediapipe" if options.mesh else "reader"}
    for name, net in (("recogniser", options.recogniser), ("age_net", options.age_net)):
        asked[name] = sha256_of(Path(net))[:16] if net else "shipped"
    path = out / "synthesis.json"
    if not path.exists():
        write_json(asked, path)
        return
    there = json.loads(path.read_text())
    other = [name for name in asked if there.get(name) != asked[name]]
    if other:
        told_of = "; ".join(f"{name} was {there.get(name)}, is {asked[name]}" for name in other)
        raise ValueError(f"{out} was begun with other options: {told_of}. Give those, or another --out")


def load_labeller(options: Options, mesh: FaceMesh | None) -> Labeller:
    """The networks that the options name.

    Args:
        options: the recogniser and the age network; the shipped ones where they are empty.
        mesh: MediaPipe's landmarks; None for the shipped estimator's.
    """
    from transformers import ResNetForImageClassification

    id_encoder = weights_dir("face256") / "id_encoder"
    return Labeller(
        FaceEstimator.from_pretrained(weights_dir("face_estimator")),
        ResNetForImageClassification.from_pretrained(id_encoder, dtype=torch.float32).eval(),
        mesh, load_net(options.recogniser), load_net(options.age_net),
    )  # fmt: skip


def people(shards: Shards) -> int:
    """How many are there."""
    return sum(int((~labels["second"]).sum()) for labels in shards.labels)


def fill(work: Synthesis, options: Options) -> None:
    """Shard after shard, until there are enough people or the minutes are over.

    Args:
        work: gets them.
        options: how many people, and how many minutes.
    """
    shards, started, before = work.shards, time.monotonic(), work.tried
    while people(shards) < options.count:
        work.make_shard(options.count - people(shards))
        minutes, done = (time.monotonic() - started) / 60, work.tried - before
        log.info(
            "%d of %d people, of %d attempts (%.2f s an attempt); shard %d of %s", people(shards), options.count,
            work.tried, 60 * minutes / max(done, 1), len(shards.labels) - 1, shards.folder,
        )  # fmt: skip
        if options.minutes and minutes > options.minutes:
            return


def synthesize(options: Options) -> dict[str, object]:
    """Fills the folder; returns the table of who is in it, which it writes as `census.json`, `.txt` and `sheet.png`.

    Raises:
        FileNotFoundError: the wheel, or a network that was named, is missing.
        ValueError: options that do not fit, or a folder that was begun with others.
    """
    if min(options.count, options.shard, options.scouts) < 1:
        raise ValueError(f"--count, --shard and --scouts must be 1 or more, got {options}")
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    out = Path(options.out)
    generator = Generator(device=options.device, backend=options.backend)
    mesh = FaceMesh(options.mesh) if options.mesh else None
    label = load_labeller(options, mesh)
    out.mkdir(parents=True, exist_ok=True)
    settle(options, out)
    shards = Shards(out)
    if shards.labels and len(shards.labels[-1]["tried_fault"]) < options.shard and people(shards) < options.count:
        # The last one ended early, as its --count was reached. With this one it would not have.
        shards.drop_last()
    work = Synthesis(options, generator, label, shards)
    try:
        fill(work, options)
    finally:
        if mesh is not None:
            mesh.close()
    work.shards.merge()
    table = census(work.shards, TRAITS)
    write_json(table, out / "census.json")
    (out / "census.txt").write_text(census_text(table))
    draw_sheet(work.shards, TRAITS).save(out / "sheet.png")
    return table


def main(argv: list[str] | None = None) -> None:
    """Command-line door."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(census_text(synthesize(parse_options(Options, argv, __doc__.splitlines()[0]))))


if __name__ == "__main__":
    main()
