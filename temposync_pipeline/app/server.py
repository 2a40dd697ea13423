"""How the page is served, and how the process ends."""

import logging
import os
import re
import signal
import time
from threading import Event

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..limits import PAGE_MAX_UPLOAD_MB as MAX_UPLOAD_MB
from .look import CSS, THEME
from .memory import Housekeeping

logger = logging.getLogger("temposync.app")

# Of Gradio's own endpoints those that the page does without: one has ffmpeg, where there is one, read whatever file is sent, the others
# write a file at each call, or into the log whatever they are asked for.
CLOSED = re.compile(r"/gradio_api/(process_recording|deep_link|custom_component)(/|$)")


class Porter:
    """Keeps requests from endpoints that are `CLOSED`; one that no endpoint can make sense of is a line of the log, not a traceback."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and CLOSED.search(scope["path"]):
            await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)
            return
        begun = []

        async def answer(message: Message) -> None:
            begun.append(message["type"])
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception as error:
            if scope["type"] != "http":
                raise
            logger.warning("a request was refused: %s", type(error).__name__)
            if not begun:
                await JSONResponse({"detail": "No endpoint here takes this request."}, 400)(scope, receive, send)


LAUNCH = {
    "theme": THEME, "css": CSS, "max_file_size": f"{MAX_UPLOAD_MB}mb", "allowed_paths": [], "show_error": False, "strict_cors": True,
    "run_history": False, "mcp_server": False, "state_session_capacity": 100, "ssr_mode": False, "footer_links": ["api"],
    "enable_monitoring": False, "app_kwargs": {"middleware": [Middleware(Porter)]},
}


def serve_until_told(page: gr.Blocks, under_way: dict[str, Event], patience: float = 10.0) -> None:
    """Ends the process on Ctrl-C or SIGTERM: videos under way stop after the step they are at and take their files with them."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    housekeeping = Housekeeping(page)
    try:
        while True:
            time.sleep(1)
            housekeeping.sweep()
    except KeyboardInterrupt:
        for told in (signal.SIGINT, signal.SIGTERM):  # once is enough
            signal.signal(told, signal.SIG_IGN)
        print("Stopping.", flush=True)
    deadline = time.monotonic() + patience
    while under_way and time.monotonic() < deadline:
        for stopped in list(under_way.values()):
            stopped.set()
        time.sleep(0.05)
    page.close()
    logging.shutdown()
    # Without Python's own farewell, in which threads that still listen or look for a face crash the process.
    os._exit(0)


def set_up_log() -> None:
    """Sizes and durations only: what the library says of a visitor's file by its name is for the visitor (`remarks`)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    library = logging.getLogger("temposync_pipeline")
    library.propagate = False
    library.addHandler(logging.NullHandler())
