"""Spreads jobs over worker processes of one thread each, each with a model of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from ..messages import brief_error, brief_path
from .machine import cores, free_memory, one_thread, own_memory, quiet_libraries
from .run import Job, JobResult, JobsStopped, Work

log = logging.getLogger(__name__)
LOADING = 4  # pictures that are done in the time until the workers have loaded their models
A_CLIP = 10  # pictures that a clip counts as
PICTURES_MEMORY = 700 << 20  # bytes that a worker needs on top of a loaded model, for a photo of 12 megapixels
_PRELOADED = ("deid_diffusion.anonymizer", "onnxruntime")
_MASKED = {getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)}


def count_workers(asked: int | None, jobs: Sequence[Job], device: str = "cpu") -> int:
    """How many worker processes jobs are spread over; 1 is for none: this process does them.

    Args:
        asked: by the user; None for as many as cores and memory allow, if that pays.
        jobs: that are to be done.
        device: of the model; on anything but a CPU, one model is enough unless more are asked for.
    """
    if asked is not None:
        return max(1, min(asked, len(jobs)))
    if not device.startswith("cpu"):
        return 1
    room = free_memory() // (own_memory() + PICTURES_MEMORY)
    count = max(1, min(cores(), room, len(jobs)))
    pictures = sum(A_CLIP if job.is_clip else 1 for job in jobs)
    return count if pictures * (1 - 1 / count) > LOADING else 1


def spread(asked: int | None, device: str, work: Work, jobs: Iterable[Job]) -> Iterator[JobResult]:
    """Does jobs in worker processes: `partial(spread, None, "cpu")` is a `map` for `jobs.run.run`.

    Each worker gets one job at a time. A job whose worker is killed is done once more, last, and then fails. Seeds lie
    in the jobs, so that pictures do not depend on who makes them, or when.

    Args:
        asked, device: as `count_workers` takes them.
        work: what is done with each job; its anonymizer is pickled, as its spec.
        jobs: to do.

    Yields:
        the results, as they come.

    Raises:
        JobsStopped: nothing more can be written, or no worker can be started.
    """
    jobs = list(jobs)
    count = count_workers(asked, jobs, device)
    if count == 1:
        yield from map(work, jobs)
        return
    pool = _Pool(work, count)
    try:
        yield from pool.results(jobs)
    finally:
        pool.close()


@dataclass(eq=False)
class _Worker:
    """A process, and what it is doing.

    Attributes:
        process: of the worker.
        connection: to it; it ends with the process.
        job: in its hands.
        tell: who is told of the progress of its clip.
        ready: its model is loaded.
    """

    process: Any
    connection: Connection
    job: Job | None = None
    tell: Callable[..., None] | None = None
    ready: bool = False


@dataclass(eq=False)
class _Pool:
    """Workers, and the jobs that wait for one."""

    work: Work
    count: int
    workers: list[_Worker] = field(default_factory=list)
    waiting: deque[Job] = field(default_factory=deque)
    struck: set[int] = field(default_factory=set)
    trouble: str = ""

    def results(self, jobs: Sequence[Job]) -> Iterator[JobResult]:
        self.waiting.extend(jobs)
        load = pickle.dumps(replace(self.work, watch=None))
        for _ in range(self.count):
            self._start(load)
        while self.waiting or any(worker.job for worker in self.workers):
            if not self.workers:
                raise JobsStopped(f"no worker process could be started: {self.trouble}; give fewer --workers")
            for connection in wait([worker.connection for worker in self.workers]):
                worker = next(one for one in self.workers if one.connection is connection)
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, OSError):
                    yield from self._lost(worker, load)
                    continue
                yield from self._heard(worker, kind, value)

    def _start(self, load: bytes) -> None:
        context = _context()
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, load), daemon=True)
        # Ctrl-C goes to all processes of a terminal: this one alone ends the others.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _MASKED) if hasattr(signal, "pthread_sigmask") else None
        try:
            process.start()
        finally:
            if mask is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self.workers.append(_Worker(process, ours))

    def _heard(self, worker: _Worker, kind: str, value: Any) -> Iterator[JobResult]:
        """Acts on what a worker says."""
        if kind == "stopped":
            raise JobsStopped(value)
        if kind == "broken":
            self.trouble = value
        elif kind == "watch" and worker.tell is not None:
            worker.tell(*value)
        elif kind in ("ready", "done"):
            worker.ready = True
            worker.job = worker.tell = None
            self._give(worker)
            if kind == "done":
                yield value

    def _give(self, worker: _Worker) -> None:
        """The next job, if there is one."""
        if not self.waiting:
            return
        job = self.waiting.popleft()
        try:
            worker.connection.send(job)
        except OSError:
            self.waiting.appendleft(job)  # it has just ended, which is noticed next
            return
        worker.job = job
        if job.is_clip and self.work.watch is not None:
            worker.tell = self.work.watch(job)

    def _lost(self, worker: _Worker, load: bytes) -> Iterator[JobResult]:
        """A worker has ended that was not asked to."""
        self.workers.remove(worker)
        worker.process.join()
        code, job = worker.process.exitcode, worker.job
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        log.warning("a worker process %s", ended)
        if not worker.ready:
            self.trouble = self.trouble or f"it {ended} while it loaded the model"
            return  # another one would not fare better
        if job is not None and id(job) in self.struck:
            yield JobResult(
                job,
                error=f"{brief_path(job.in_path)}: its worker process {ended}, twice; nothing was written: "
                "if memory is short, give fewer --workers",
            )
        elif job is not None:
            self.struck.add(id(job))
            self.waiting.append(job)
        if self.waiting:
            self._start(load)

    def close(self) -> None:
        """Ends all workers; those that are in the middle of a picture remove what they have written of it."""
        for worker in self.workers:
            worker.connection.close()
            if worker.job is not None or not worker.ready:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join(10)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()


def _context() -> Any:
    """On Linux workers are forked from a process that has imported the libraries, which takes longest; else spawned.

    That process runs no model, and so has no threads and no GPU that a fork could not take along.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # What this process needed, its workers will.
    more = ["deid_diffusion.pipelines.face_inpaint"] if "diffusers" in sys.modules else []
    context.set_forkserver_preload([*_PRELOADED, *more])
    return context


def _serve(connection: Connection, load: bytes) -> None:
    """The worker: says that it is ready, and does what it is sent until the connection ends."""
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _work(connection, load)
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # the run is over


def _work(connection: Connection, load: bytes) -> None:
    quiet_libraries()
    one_thread()
    try:
        work: Work = pickle.loads(load)
    except Exception as error:
        connection.send(("broken", f"{type(error).__name__}: {brief_error(error)}"))
        return
    work = replace(work, watch=lambda job: lambda *progress: connection.send(("watch", progress)))
    connection.send(("ready", None))
    while True:
        job = connection.recv()
        try:
            connection.send(("done", work(job)))
        except JobsStopped as error:
            connection.send(("stopped", str(error)))


def _end(_number: int, _frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing interrupts the cleaning
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Ends the process when its parent is killed: nobody would write its picture into the journal."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
