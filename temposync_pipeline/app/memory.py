"""The page's memory, which is to stay flat however many visitors come: what glibc and Gradio keep of those who are gone is let go.

Buffers of frames come and go in several threads; glibc keeps what they leave, a heap for each thread, until it is told to give it back.
Gradio keeps the messages of up to 2,000 visits that have ended, what it expects to hear from visitors that left, the names of files that it
has deleted already, and statistics of 10,000 calls that it sums up anew, with pandas, after each call.
"""

import os
import tempfile
import time
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

from ..startup import give_back, share_heaps
from .look import KEPT_SECONDS

__all__ = ["Housekeeping", "give_back", "set_up_memory"]

# Of visits that have ended, messages are kept for so long: somebody may still fetch them.
UNREAD_SECONDS = 60.0


def set_up_memory(heaps: int = 2) -> None:
    """Before the page is built: all threads share so many heaps, and Gradio keeps no statistics. Elsewhere than on glibc heaps stay."""
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(2**62))
    share_heaps(heaps)


class Housekeeping:
    """Lets go of visits that ended `UNREAD_SECONDS` ago; `page` is a launched gr.Blocks."""

    def __init__(self, page: Any):
        self.page = page
        self._ended: dict[str, tuple[float, Hashable]] = {}

    def sweep(self, now: float | None = None) -> None:
        """To be called now and then, at most once a second; `now` is a time of `time.monotonic`."""
        now = time.monotonic() if now is None else now
        queue = self.page._queue
        running, expected = queue.event_ids_to_events, queue.pending_event_ids_session
        ended = {visit: frozenset(events) for visit, events in list(expected.items()) if not running.keys() & events}
        known = {visit: moment for visit, (moment, events) in self._ended.items() if ended.get(visit) == events}
        self._ended = {visit: (known.get(visit, now), events) for visit, events in ended.items()}
        for visit, (moment, events) in list(self._ended.items()):
            if now - moment >= UNREAD_SECONDS and expected.get(visit) == events:
                queue.pending_messages_per_session.pop(visit, None)
                expected.pop(visit, None)
                del self._ended[visit]
        for names in self.page.temp_file_sets:
            names -= {name for name in list(names) if not os.path.exists(name)}
        self._remove_broken_uploads()

    def _remove_broken_uploads(self) -> None:
        """What uploads leave that break off, which Gradio forgets: files of no visitor, beside the folders of all others."""
        folder = self.page.app.uploaded_file_dir
        if os.path.realpath(folder) == os.path.realpath(tempfile.gettempdir()):  # also of others
            return
        with suppress(OSError):
            for entry in list(os.scandir(folder)):
                if entry.name.startswith("tmp") and entry.is_file() and time.time() - entry.stat().st_mtime > KEPT_SECONDS:
                    os.unlink(entry)
