"""Reads ahead and writes behind in threads of their own, with bounded queues: decoding and encoding hold no lock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_WAIT_S = 0.1  # between two looks whether the other side has gone


def prefetched(items: Iterable[_Item], size: int = 4) -> Iterator[_Item]:
    """The items, made in a thread while earlier ones are used.

    Args:
        items: consumed in the thread.
        size: how many may wait.

    Raises:
        Exception: whatever the items raised.
    """
    queue: Queue[tuple[Any, BaseException | None]] = Queue(size)
    gone = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> bool:
        while not gone.is_set():
            try:
                queue.put((item, error), timeout=_WAIT_S)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            if all(put(item) for item in items):
                put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        gone.set()
        thread.join()


class Behind:
    """A context that hands items to a function in a thread, in order; what it raises is raised at the next item."""

    def __init__(self, use: Callable[..., None], size: int = 4) -> None:
        """Starts the thread.

        Args:
            use: called with the arguments of each call.
            size: how many may wait.
        """
        self._use, self._queue = use, Queue[tuple[Any, ...] | None](size)
        self._error: BaseException | None = None
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._work, name="behind", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._gone.is_set():
            try:
                given = self._queue.get(timeout=_WAIT_S)
            except Empty:
                continue
            if given is None:
                return
            try:
                self._use(*given)
            except BaseException as error:
                self._error = error
                return

    def __call__(self, *given: Any) -> None:
        """Hands on one item.

        Args:
            given: the function's arguments.

        Raises:
            BaseException: what it raised at an earlier item.
        """
        self._put(given)

    def _put(self, given: tuple[Any, ...] | None) -> None:
        while True:
            if self._error is not None:
                raise self._error
            try:
                self._queue.put(given, timeout=_WAIT_S)
                return
            except Full:
                continue

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._put(None)
            else:
                self._gone.set()
        finally:
            self._thread.join()
        if error is None and self._error is not None:
            raise self._error


def map_ahead(
    pool: Executor, call: Callable[[_Item], _Result], items: Iterable[_Item], count: int
) -> Iterator[_Result]:
    """`map(call, items)`, in order, with at most `count` results that nobody has taken yet.

    Args:
        pool: its threads do the calls.
        call: of each item; what it raises, is raised in its place.
        items: read one by one, as results are taken.
        count: at least 1.
    """
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(pool.submit(call, item))
        if len(waiting) >= count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def save_behind(
    pool: Executor, call: Callable[[int, Any], object], items: Iterable[_Item], count: int
) -> Iterator[_Item]:
    """Gives items on, each when `call(number, it)` is done; up to `count` calls run while the next items are made.

    Args:
        pool: its threads do the calls.
        call: of each number, from 0, and item; what it raises, is raised in its place.
        items: made one by one.
        count: at least 1.
    """
    waiting: deque[tuple[_Item, Future[object]]] = deque()
    for number, item in enumerate(items):
        waiting.append((item, pool.submit(call, number, item)))
        if len(waiting) >= count:
            done, future = waiting.popleft()
            future.result()
            yield done
    for done, future in waiting:
        future.result()
        yield done
