"""Modules worked on several at a time, and handed over in their order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from modelhub import termination
from modelhub.merge.worker import torch_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_THREADS = 8


def worked(
    items: Iterable[Item], work: Callable[[Item], Result], *, most: int = _MOST_THREADS
) -> Generator[tuple[Item, Result]]:
    """Each of *items* and what *work* makes of it, or raises.

    Each thread has an item of its own, *most* at a time, and a share of torch's threads: what one item takes is too
    little for all to share. Closing the generator waits for what is begun.
    """
    cores = os.cpu_count() or 1
    workers = max(1, min(cores, _MOST_THREADS, most))
    ahead: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="module")
    with torch_threads(max(1, cores // workers)):
        try:
            for item in items:
                with termination.held():
                    ahead.append((item, pool.submit(work, item)))
                if len(ahead) > 2 * workers:
                    first, task = ahead.popleft()
                    yield first, termination.result(task)
            for first, task in ahead:
                yield first, termination.result(task)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
