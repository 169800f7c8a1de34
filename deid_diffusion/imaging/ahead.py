"""Reads pictures before they are asked for, and writes them while others are made: both in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(pool: Executor, call: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """`map(call, items)`, in order, with at most `count` results that nobody has taken yet.

    Args:
        pool: its threads do the calls.
        call: of each item; what it raises, is raised in its place.
        items: read one by one, as results are taken.
        count: at least 1.
    """
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(call, item))
        if len(waiting) >= count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def behind(pool: Executor, call: Callable[[int, Any], object], items: Iterable[Item], count: int) -> Iterator[Item]:
    """Gives items on, each when `call(number, it)` is done; up to `count` calls run while the next items are made.

    Args:
        pool: its threads do the calls.
        call: of each number, from 0, and item; what it raises, is raised in its place.
        items: made one by one.
        count: at least 1.
    """
    waiting: deque[tuple[Item, Future[object]]] = deque()
    for number, item in enumerate(items):
        waiting.append((item, pool.submit(call, number, item)))
        if len(waiting) >= count:
            done, future = waiting.popleft()
            future.result()
            yield done
    for done, future in waiting:
        future.result()
        yield done
