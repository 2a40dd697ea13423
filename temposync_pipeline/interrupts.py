"""Ctrl-C and SIGTERM while a library is at work that would swallow them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect at its end, whatever the end is like.

    PyAV and c2pa lose exceptions that Python raises amid their work: a file that they read through Python then seems to end there, or to be
    of no known format, of a resampler's frame the sound is gone, and all goes on as if nobody had asked for an end.  Work that must not be
    left half done is held together by it, too.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main one may set, and will get, a signal
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held = {number: handler for number, handler in before.items() if handler is not None}  # None: set by other than Python
    try:
        for number in held:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in reversed(held.items()):  # SIGTERM may raise at once, Ctrl-C not before both are what they were
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
