"""What one thread reads, handed to another that wants all of it in order."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub.convert.background import BLOCK, Background, Stopped
from modelhub.convert.feed import Feed, Memory
from modelhub.source.memory import BytesSource

SIZE = 1 << 20
DATA = bytes(range(251)) * (SIZE // 251 + 1)
DATA = DATA[:SIZE]

spans = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 200_000)).map(lambda s: (s[0], min(SIZE, s[0] + s[1])))


class Counting(BytesSource):
    """A source that counts the bytes that are read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__("counted", data)
        self.read = 0

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        self.read += len(buffer)
        return super().readinto_at(offset, buffer)


def pulled(feed: Feed, source: Counting, ranges: list[tuple[int, int]], stopped: Stopped) -> list[bytes]:
    """All of *ranges*, as the reader gives them."""
    read = feed.reader("it", source, stopped)
    try:
        return [b"".join(bytes(data) for _, data in read(start, end)) for start, end in ranges]
    finally:
        feed.leave()


@settings(max_examples=150)
@given(
    handed=st.lists(st.tuples(st.sampled_from(["it", "another"]), spans), max_size=12),
    ranges=st.lists(spans, min_size=1, max_size=6).map(sorted),
)
def test_whatever_is_handed_on_the_bytes_are_those_of_the_file(handed, ranges):
    """Blocks in any order, of any file, twice or not at all: what comes out is what was asked for."""
    feed, source = Feed(), Counting(DATA)
    memory = Memory(feed)
    with Background(lambda stopped: pulled(feed, source, ranges, stopped)) as reading, closing(feed):
        for what, (start, end) in handed:
            data = DATA if what == "it" else DATA[::-1]
            assert memory.read(BytesSource(what, data), start, end - start, what) == data[start:end]
    assert reading.result() == [DATA[start:end] for start, end in ranges]


def test_what_is_read_in_order_is_read_once():
    """The one who digests reads nothing but what the other has left out."""
    feed, source = Feed(), Counting(DATA)
    memory = Memory(feed)
    step = 100_000
    with Background(lambda stopped: pulled(feed, source, [(0, SIZE)], stopped)) as reading, closing(feed):
        for start in range(5_000, SIZE - step, step):
            memory.read(BytesSource("it", DATA), start, step, "it")
        handed = start + step - 5_000
    assert reading.result() == [DATA]
    assert source.read == SIZE - handed


def test_an_error_on_either_side_leaves_nobody_waiting():
    """Whoever digests may give up, whoever copies may fail, at any moment."""
    feed, threads = Feed(), threading.active_count()
    memory = Memory(feed)

    def give_up(_: Stopped) -> None:
        feed.leave()
        raise ValueError("damaged")

    with Background(give_up) as reading, closing(feed):
        for _ in range(5):
            memory.read(BytesSource("it", DATA), 0, SIZE, "it")
    with pytest.raises(ValueError, match="damaged"):
        reading.result()

    feed, source = Feed(), Counting(DATA)
    with (
        pytest.raises(OSError, match="full"),
        Background(lambda stopped: pulled(feed, source, [(0, SIZE)], stopped)),
        closing(feed),
    ):
        raise OSError("full")
    assert threading.active_count() == threads


def test_without_a_feed_one_buffer_does():
    """Memory that hands nothing on takes one block."""
    memory, source = Memory(), BytesSource("it", DATA)
    first = memory.read(source, 0, 10)
    assert memory.read(source, 10, 10).obj is first.obj
    assert len(first.obj) == BLOCK
