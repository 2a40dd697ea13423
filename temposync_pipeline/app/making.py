"""What a visitor is shown while a video is made, and what stops it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from uuid import uuid4

import gradio as gr

from .answers import needed, plain_errors
from .look import STOPPED
from .memory import give_back
from .status import draw_status, timings
from .studio import Progress

logger = logging.getLogger("temposync.app")

# What makes videos shares this one place in the queue.
ONE_VIDEO = "video"


class Making:
    """Videos of `fps` frames a second that are being made; `under_way` holds, by visitor, what stops theirs."""

    def __init__(self, fps: int, under_way: dict[str, Event]):
        self.fps, self.under_way = fps, under_way

    def made(self, request: gr.Request, consent: bool, files: dict[str, str | None],
             begin: Callable[[Path], Iterator[Progress]]) -> Iterator[tuple]:
        """What a visitor is shown while `begin` makes the video, and then the video."""
        # In this order: as long as a visitor can be stopped, the folder may still be there.
        with plain_errors(), self._stop_of(request) as stopped, TemporaryDirectory() as folder:
            if consent is not True:
                raise gr.Error("Confirm first that those shown and heard agree.", print_exception=False)
            needed(**files)
            output = Path(folder) / "ai-generated.mp4"
            progress = Progress("visemes")
            try:
                with closing(begin(output)) as running:
                    for progress in running:
                        if stopped.is_set():
                            break
                        if not progress.finished:
                            yield gr.skip(), gr.skip(), draw_status(progress, self.fps)
                if progress.finished:
                    yield str(output), timings(progress, self.fps), draw_status(progress, self.fps)
            finally:
                logger.info("%s: %d of %d frames, %.1f s", uuid4().hex[:8], progress.frames, progress.total,
                            sum(progress.seconds.values()))
                give_back()
        if not progress.finished:
            yield gr.skip(), gr.skip(), STOPPED

    def stop(self, request: gr.Request) -> str | dict:
        """A video under way ends by itself, so that its last word to the page is "Stopped."; one still waiting is to be cancelled."""
        if stopped := self.under_way.get(request.session_hash):
            stopped.set()
            return gr.skip()
        return uuid4().hex

    @contextmanager
    def _stop_of(self, request: gr.Request) -> Iterator[Event]:
        """What the visitor's Stop sets while a video is made."""
        stopped = self.under_way[request.session_hash] = Event()
        try:
            yield stopped
        finally:
            if self.under_way.get(request.session_hash) is stopped:  # else the visitor's next one
                del self.under_way[request.session_hash]
