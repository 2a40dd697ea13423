"""Stages of a video at work at the same time: torch, OpenCV and FFmpeg let go of Python's lock while they compute."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from threading import Lock
from typing import TypeVar

import torch

Item = TypeVar("Item")
_END = object()


def ahead(items: Generator[Item, None, None], count: int = 1, first_here: bool = False) -> Generator[Item, None, None]:
    """The same items, made by a thread of its own, which is up to `count` of them ahead of who takes them; with `first_here` all but
    the first, which somebody waits for: a new thread would have to warm up.

    What `items` raises is raised where its item would have come.  When this generator ends, also early, it waits for the item at work, if
    any, closes `items`, and the thread is gone.
    """
    inference = torch.is_inference_mode_enabled()  # a setting of each thread

    def following() -> Item | object:
        with torch.inference_mode(inference):
            return next(items, _END)

    worker = ThreadPoolExecutor(1, "temposync")
    try:
        if first_here:
            if (item := next(items, _END)) is _END:
                return
            yield item
            del item
        pending = deque(worker.submit(following) for _ in range(count))
        while (item := pending.popleft().result()) is not _END:
            pending.append(worker.submit(following))
            yield item
            del item  # who took it may be the last to hold it
    finally:
        worker.shutdown(cancel_futures=True)
        items.close()


_lock = Lock()
_sharing, _usual = 0, 1  # blocks of `sharing_threads` that are open, and torch's threads when the first of them was opened


@contextmanager
def sharing_threads() -> Iterator[int]:
    """Block in which stages choose how many threads torch takes for each; yields how many it takes otherwise, as it does after the block.

    torch has a number for each thread of the program, and one for those to come, which is the last that any has chosen.
    """
    global _sharing, _usual
    with _lock:
        if not _sharing:
            _usual = torch.get_num_threads()
        _sharing += 1
        usual = _usual
    try:
        yield usual
    finally:
        torch.set_num_threads(usual)
        with _lock:
            _sharing -= 1


def on_half_the_threads(items: Generator[Item, None, None], usual: int) -> Generator[Item, None, None]:
    """The same items, for which, from the second on, torch takes half of so many threads: for two stages at work at the same time, by
    `ahead` with `first_here`, in a block of `sharing_threads`."""
    with closing(items):
        for item in items:
            yield item
            del item
            torch.set_num_threads(max(1, usual // 2))


@contextmanager
def beside(make: Callable[[], Item]) -> Iterator[Callable[[], Item]]:
    """Yields what waits for an item, which a thread of its own makes meanwhile, and raises what that raised.

    Until then both take half of torch's threads.  When the block ends, also early, the thread is done.
    """
    inference = torch.is_inference_mode_enabled()  # a setting of each thread

    with sharing_threads() as usual, ThreadPoolExecutor(1, "temposync") as worker:

        def made() -> Item:
            torch.set_num_threads(max(1, usual // 2))
            with torch.inference_mode(inference):
                return make()

        def wait() -> Item:
            try:
                return pending.result()
            finally:
                torch.set_num_threads(usual)

        torch.set_num_threads(max(1, usual // 2))
        pending = worker.submit(made)
        yield wait
