"""What other threads do while a file is written."""

from __future__ import annotations

import threading

import pytest

from modelhub.convert.background import flushing


def test_a_file_is_flushed_while_it_is_written_and_once_it_is() -> None:
    """The disk does not idle until the last byte is written, and the last flush is of all bytes."""
    written, flushed = threading.Event(), threading.Event()
    whole: list[bool] = []

    def sync() -> None:
        whole.append(written.is_set())
        flushed.set()

    with flushing(sync, written) as flush:
        assert flushed.wait(10)
        written.set()
        flush.result()
    assert (whole[0], whole[-1]) == (False, True)


def test_an_error_of_writing_ends_the_flushing() -> None:
    """Nobody waits for the disk to have what is thrown away; an error of the disk is not lost."""
    threads = threading.active_count()
    with pytest.raises(ValueError, match="wrong"), flushing(lambda: None, threading.Event()):
        raise ValueError("wrong")
    assert threading.active_count() == threads

    def fail() -> None:
        raise OSError("no disk")

    written = threading.Event()
    written.set()
    with flushing(fail, written) as flush, pytest.raises(OSError, match="no disk"):
        flush.result()
