"""Stages of a video at work at the same time: torch, OpenCV and FFmpeg let go of Python's lock while they compute."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
_END = object()


def ahead(items: Generator[Item, None, None], count: int = 1) -> Generator[Item, None, None]:
    """The same items, made by a thread of its own, which is up to `count` of them ahead of who takes them.

    What `items` raises is raised where its item would have come.  When this generator ends, also early, it waits for the item at work, if
    any, closes `items`, and the thread is gone.
    """
    inference = torch.is_inference_mode_enabled()  # a setting of each thread

    def following() -> Item | object:
        with torch.inference_mode(inference):
            return next(items, _END)

    worker = ThreadPoolExecutor(1, "temposync")
    try:
        pending = deque(worker.submit(following) for _ in range(count))
        while (item := pending.popleft().result()) is not _END:
            pending.append(worker.submit(following))
            yield item
            del item  # who took it may be the last to hold it
    finally:
        worker.shutdown(cancel_futures=True)
        items.close()
