"""Calls a model batch by batch; when memory runs out, a batch is halved and the work goes on."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
_CPU_WORDS = ("can't allocate memory", "not enough memory")  # torch's allocator of main memory has no class of its own
_fits: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # by model: items that did not run out of memory


def in_batches(
    model: Any, items: Sequence[Item], size: int, call: Callable[[Sequence[Item]], Result]
) -> Iterator[tuple[Sequence[Item], Result | Exception]]:
    """Works items off in their order.

    Args:
        model: what fits into memory is remembered for it, as long as it lives.
        items: to work off.
        size: of a batch, at most.
        call: what is done with one.

    Yields:
        a batch and its result, or what it failed with; out of memory only for a single item.
    """
    done = 0
    while done < len(items):
        batch = items[done : done + min(size, _fits.get(model, size))]
        try:
            result: Result | Exception = call(batch)
        except Exception as error:
            if is_out_of_memory(error) and len(batch) > 1:
                _fits[model] = len(batch) // 2
                log.warning("out of memory with %d faces at once, going on with %d", len(batch), _fits[model])
                del error  # its traceback holds what is to be freed
                _free()
                continue
            result = error
        yield batch, result
        done += len(batch)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether fewer items at once may help.

    Args:
        error: what a model raised.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_WORDS)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
