"""Reading ahead and writing behind: in order, bounded, and with the errors of the other side."""

import threading
import time

import pytest

from deid_diffusion.imaging.threads import Behind, prefetched


def running() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"ahead", "behind"}


def test_items_come_in_order_and_only_so_many_wait():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    got = []
    for item in prefetched(items(), size=3):
        time.sleep(0.002)
        got.append(item)
        assert len(made) <= len(got) + 3 + 1
    assert got == list(range(20))
    assert not running()


def test_an_error_comes_after_what_was_made_before_it():
    def items():
        yield 1
        yield 2
        raise ZeroDivisionError

    got = []
    with pytest.raises(ZeroDivisionError):
        got.extend(prefetched(items()))
    assert got == [1, 2]


def test_a_reader_that_is_left_stops():
    items = prefetched(iter(int, 1), size=2)
    next(items)
    items.close()
    assert not running()


def test_what_is_written_behind_is_whole_at_the_end():
    got = []
    with Behind(lambda *given: (time.sleep(0.002), got.append(given)), size=2) as write:
        for number in range(20):
            write(number, -number)
            assert number - len(got) <= 3
    assert got == [(number, -number) for number in range(20)]
    assert not running()


@pytest.mark.parametrize("count", [1, 50])
def test_an_error_behind_stops_those_who_write(count):
    def use(number):
        raise OSError(f"full at {number}")

    def write_all():
        with Behind(use, size=2) as write:
            for number in range(count):
                write(number)

    with pytest.raises(OSError, match="full at 0"):
        write_all()
    assert not running()


def test_what_waits_is_dropped_where_the_other_side_fails():
    got = []

    def write_all():
        with Behind(lambda number: (time.sleep(0.05), got.append(number)), size=9) as write:
            for number in range(8):
                write(number)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_all()
    assert len(got) < 8
    assert not running()
