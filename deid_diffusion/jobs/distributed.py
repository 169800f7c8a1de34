"""Spreads jobs over the machines of a Ray cluster: the same jobs, journal and report as on one machine.

Actors of Ray's core and not `ray.data.Dataset.map_batches`: there a picture that kills its process takes its block's
other pictures with it, again and again. Here an actor has one job at a time, which is all the back-pressure needed.
"""

from __future__ import annotations

import logging
import pickle
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..anonymizer import FaceAnonymizer
from ..errors import DeidError
from ..messages import brief, brief_error, brief_path
from ..spec import AnonymizerSpec
from .journal import Journal
from .machine import one_thread, quiet_libraries
from .run import Job, JobResult, JobsStopped, Work
from .run import run as run_jobs

log = logging.getLogger(__name__)
TRIES = 3  # of a job whose actor or machine ends under it; two machines may go one after the other
LOOK_S = 5.0  # between two looks at a cluster that does not answer
_LOCAL = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}


class ClusterError(DeidError, RuntimeError):
    """There is no cluster to work on, or it has no room for a worker."""


@dataclass(frozen=True)
class Cluster:
    """Where to work, and on how much of it.

    Attributes:
        address: "auto" for the cluster that this machine is a part of, "HOST:PORT" or "ray://HOST:PORT" for another
            one, "local" to start one on this machine for the time of the run.
        workers: actors; None for as many as the cluster has room for when the run begins.
        cpus, gpus: of each actor; a fraction of a GPU lets several actors share it.
        patience_s: how long to wait for the first actor, and for a new one when all have ended.
    """

    address: str = "auto"
    workers: int | None = None
    cpus: float = 1
    gpus: float = 0
    patience_s: float = 600


def run(
    jobs: Iterable[Job],
    spec: AnonymizerSpec,
    settings: Any = None,
    journal: Journal | None = None,
    overwrite: bool = False,
    cluster: Cluster | None = None,
    **more: Any,
) -> Iterator[JobResult]:
    """Works jobs off on a cluster, as `jobs.run.run` does on one machine.

    Args:
        jobs: of `plan.plan` or `url_plan.plan_urls`; local paths must be the same on all machines.
        spec: what each actor builds; the device is the actors', and this process uses a CPU.
        settings, journal, overwrite: as `jobs.run.run` takes them.
        cluster: where; "auto" by default.
        more: `clips`, as `jobs.run.run` takes it.

    Raises:
        ClusterError: no cluster there, or no room on it.
        JobsStopped: nothing more can be written.
    """
    here = FaceAnonymizer.from_spec(replace(spec, device="cpu"))
    spreading = partial(spread, cluster or Cluster(), spec)
    yield from run_jobs(jobs, here, settings, journal, overwrite, spreading, **more)


def spread(cluster: Cluster, spec: AnonymizerSpec | None, work: Work, jobs: Iterable[Job]) -> Iterator[JobResult]:
    """Does jobs on a cluster: `partial(spread, cluster, spec)` is a `map` for `jobs.run.run`.

    Args:
        cluster: where.
        spec: what actors build in place of the work's own anonymizer; None for that one.
        work: what is done with each job.
        jobs: to do.

    Yields:
        the results, as they come.

    Raises:
        ClusterError, JobsStopped: as `run`.
    """
    jobs = list(jobs)
    if not jobs:
        return
    versions = work.anonymize.versions()
    work = replace(work, watch=None, anonymize=work.anonymize if spec is None else _Spec(spec))
    load = pickle.dumps(work)
    started = connect(cluster.address)
    pool = _Actors(cluster, load, _names(versions))
    try:
        yield from pool.results(jobs)
    finally:
        pool.close()
        if started:
            _ray().shutdown()


def connect(address: str) -> bool:
    """Joins a cluster; whether this call did, and the process was no part of one before.

    Args:
        address: as `Cluster` has it.

    Raises:
        ClusterError: Ray is not installed, or there is no cluster at that address.
    """
    ray = _ray()
    if ray.is_initialized():
        return False
    try:
        _knock(address)
        ray.init(address=None if address == "local" else address, namespace="deid", **_LOCAL)
    except Exception as error:
        raise ClusterError(
            f"--ray {brief(address)}: wanted a running cluster there, got {brief_error(error).splitlines()[0]}; start "
            "one by `ray start --head`, or give --ray local"
        ) from error
    return True


def _knock(address: str) -> None:
    """Fails at once where nobody listens, which Ray itself takes a minute for."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ClusterError("Ray is not installed; pip install 'deid-diffusion[ray]'") from error
    return ray


@dataclass(frozen=True)
class _Spec:
    """Stands for an anonymizer that is to be built where it arrives."""

    spec: AnonymizerSpec

    def __reduce__(self) -> tuple[Any, ...]:
        return FaceAnonymizer.from_spec, (self.spec,)


class _Actor:
    """Runs on some machine of the cluster, with a model of its own."""

    work: Work  # once it is built

    def __init__(self, load: bytes, gpus: float):
        self.load, self.gpus = load, gpus

    def build(self) -> Mapping[str, Any]:
        """Loads the model; what it is made of."""
        quiet_libraries()
        if not self.gpus:
            one_thread()
        self.work = pickle.loads(self.load)
        return _names(self.work.anonymize.versions())

    def do(self, job: Job) -> tuple[str, Any]:
        """A job's result, or why this machine can do no more."""
        try:
            return "done", self.work(job)
        except JobsStopped as error:
            return "stopped", str(error)


@dataclass(eq=False)
class _Actors:
    """The actors, and the jobs that wait for one."""

    cluster: Cluster
    load: bytes
    versions: Mapping[str, Any]
    waiting: deque[Job] = field(default_factory=deque)
    busy: dict[Any, tuple[Any, Job | None]] = field(default_factory=dict)  # by reference: the actor, and its job
    tries: dict[int, int] = field(default_factory=dict)
    ready: int = 0

    def results(self, jobs: Sequence[Job]) -> Iterator[JobResult]:
        ray = _ray()
        self.waiting.extend(jobs)
        for _ in range(min(self._count(), len(jobs))):
            self._start()
        alone = time.monotonic()
        while self.waiting or any(job for _, job in self.busy.values()):
            found, _ = ray.wait(list(self.busy), num_returns=1, timeout=LOOK_S)
            alone = time.monotonic() if self.ready else alone
            if not found and time.monotonic() - alone > self.cluster.patience_s:
                raise ClusterError(self._no_room())
            for reference in found:
                actor, job = self.busy.pop(reference)
                try:
                    answer = ray.get(reference)
                except ray.exceptions.RayTaskError as error:  # the model's own; `do` raises nothing
                    raise ClusterError(f"a worker could not load the model: {_said(error)}") from error
                except ray.exceptions.RayError as error:
                    yield from self._lost(actor, job, error)
                else:
                    yield from self._heard(actor, job, answer)

    def _heard(self, actor: Any, job: Job | None, answer: Any) -> Iterator[JobResult]:
        """Acts on what an actor says."""
        if job is None:
            if answer != self.versions:
                other = {k: v for k, v in answer.items() if v != self.versions.get(k)}
                raise ClusterError(
                    f"a machine has other versions or weights ({brief(sorted(other))}); install the same"
                )
            self.ready += 1
        elif answer[0] == "stopped":
            # One machine's disk may be full: another one gets the job. A disk that all share is full for all.
            self.ready -= 1
            if self.tries.get(id(job), 0) or not self.ready:
                raise JobsStopped(answer[1])
            log.warning("a machine is left out: %s", answer[1])
            self._again(job)
            _ray().kill(actor)
            return
        else:
            yield answer[1]
        self._give(actor)

    def _lost(self, actor: Any, job: Job | None, error: Exception) -> Iterator[JobResult]:
        """An actor has ended, or its machine."""
        log.warning("a worker has ended: %s", _said(error))
        _ray().kill(actor)  # if it is only out of reach, its answer counts no more
        if job is None:
            self.tries[0] = self.tries.get(0, 0) + 1
            if self.tries[0] >= TRIES and not self.ready:
                raise ClusterError(f"no worker could be started: {_said(error)}")
        else:
            self.ready -= 1
            if self.tries.get(id(job), 0) + 1 < TRIES:
                self._again(job)
            else:
                said = f"its worker process ended {TRIES} times; nothing was written"
                yield JobResult(
                    job, error=f"{brief_path(job.in_path)}: {said}: if memory is short, give fewer --workers"
                )
        if self.waiting:
            self._start()

    def _again(self, job: Job) -> None:
        self.tries[id(job)] = self.tries.get(id(job), 0) + 1
        self.waiting.append(job)

    def _give(self, actor: Any) -> None:
        if self.waiting:
            job = self.waiting.popleft()
            self.busy[actor.do.remote(job)] = (actor, job)
        else:
            self.ready -= 1
            _ray().kill(actor)  # makes room at once

    def _start(self) -> None:
        kind = _ray().remote(num_cpus=self.cluster.cpus, num_gpus=self.cluster.gpus, max_restarts=0)(_Actor)
        actor = kind.remote(self.load, self.cluster.gpus)
        self.busy[actor.build.remote()] = (actor, None)

    def _count(self) -> int:
        if self.cluster.workers is not None:
            return max(self.cluster.workers, 1)
        has = _ray().cluster_resources()
        needs = {"CPU": self.cluster.cpus, "GPU": self.cluster.gpus}
        count = min((int(has.get(name, 0) / need + 1e-6) for name, need in needs.items() if need), default=1)
        if not count:
            raise ClusterError(self._no_room())
        return count

    def _no_room(self) -> str:
        nodes = [node for node in _ray().nodes() if node["Alive"]]
        has = {name: sum(node["Resources"].get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
        return (
            f"the cluster has no room for a worker of {self.cluster.cpus:g} CPUs and {self.cluster.gpus:g} GPUs, it "
            f"has {has['CPU']:g} and {has['GPU']:g} on {len(nodes)} machines; add machines or ask for less"
        )

    def close(self) -> None:
        """Ends all actors."""
        for actor, _ in self.busy.values():
            _ray().kill(actor)


def _names(versions: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same everywhere: packages and weights; backend and device may differ."""
    return {name: value for name, value in versions.items() if name != "checkpoint"}


def _said(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return brief_error(lines[-1] if lines else type(error).__name__)
