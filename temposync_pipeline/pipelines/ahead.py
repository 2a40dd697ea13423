"""Stages of a video at work at the same time: torch, OpenCV and FFmpeg let go of Python's lock while they compute."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import RLock
from typing import TypeVar

import cv2
import torch

Item = TypeVar("Item")
_END = object()
_THREADS = "temposync"  # what they are called


def ahead(
    items: Generator[Item, None, None], count: int = 1, worker: ThreadPoolExecutor | None = None, alone: bool = False
) -> Generator[Item, None, None]:
    """The same items, made by a thread of its own, which is up to `count` of them ahead of who takes them.

    With a `worker` (`threads_to_share`) it is that which makes them, and the first comes from the thread that asks for it: somebody waits
    for it, and a new thread would have to warm up.  Where all others wait for the second, too, it is made `alone` (of a
    count of 1): by one more thread, in which torch takes all its threads.

    What `items` raises is raised where its item would have come.  When this generator ends, also early, it waits for the item at work, if
    any, closes `items`, and the thread is gone.
    """
    inference = torch.is_inference_mode_enabled()  # a setting of each thread

    def following() -> Item | object:
        with torch.inference_mode(inference):
            return next(items, _END)

    own = worker or ThreadPoolExecutor(1, _THREADS)
    starter = ThreadPoolExecutor(1, _THREADS) if alone else own
    try:
        if worker:
            if (item := next(items, _END)) is _END:
                return
            yield item
            del item
        pending = deque([starter.submit(following), *(own.submit(following) for _ in range(count - 1))])
        while (item := pending.popleft().result()) is not _END:
            pending.append(own.submit(following))
            yield item
            del item  # who took it may be the last to hold it
    finally:
        for thread in (starter, own):
            thread.shutdown(cancel_futures=True)
        items.close()


class _OpenCVShare:
    """OpenCV's number of threads, which is the whole process's: half of it while stages are at work at the same time.

    Its threads wait for each other with the core in hand, which was a quarter of the CPU time of putting frames into the photo.  A number
    that somebody else has chosen meanwhile stays.
    """

    def __init__(self) -> None:
        self._lock, self._users, self._own, self._taken = RLock(), 0, 0, 0

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._own = cv2.getNumThreads()
                self._taken = max(1, self._own // 2)
                cv2.setNumThreads(self._taken)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and cv2.getNumThreads() == self._taken:
                cv2.setNumThreads(self._own)


_opencv_share = _OpenCVShare()


@contextmanager
def threads_to_share(count: int) -> Iterator[list[ThreadPoolExecutor]]:
    """So many threads for stages at work at the same time, in each of which torch takes half as many threads as in this one; and OpenCV
    half of its."""
    own = torch.get_num_threads()
    workers = [ThreadPoolExecutor(1, _THREADS) for _ in range(count)]
    try:
        try:
            for worker in workers:
                worker.submit(_take_threads, max(1, own // 2)).result()
        finally:
            torch.set_num_threads(own)  # a thread to come takes what any has chosen last
        with _opencv_share:
            yield workers
    finally:
        for worker in workers:
            worker.shutdown(cancel_futures=True)


def _take_threads(count: int) -> None:
    torch.get_num_threads()  # a thread that has never asked would take what others choose later
    torch.set_num_threads(count)


@contextmanager
def beside(make: Callable[[], Item]) -> Iterator[Callable[[], Item]]:
    """Yields what waits for an item, which a thread of its own makes meanwhile, and raises what that raised.

    When the block ends, also early, the thread is done.
    """
    inference = torch.is_inference_mode_enabled()

    def made() -> Item:
        with torch.inference_mode(inference):
            return make()

    with threads_to_share(1) as (worker,):
        yield worker.submit(made).result
