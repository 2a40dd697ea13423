"""The demo: a portrait and a voice become a talking video, a video is dubbed, and a portrait speaks what a microphone hears.

Run `python app.py` and open the address it prints.
"""

import os
from pathlib import Path
from threading import Event

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see `temposync_pipeline.startup.yield_cores`
try:
    import spaces  # before torch; lends the functions below a GPU on a ZeroGPU Space and does nothing elsewhere

    on_gpu = spaces.GPU
except ImportError:
    def on_gpu(function):
        return function

import gradio as gr
import torch

from temposync_pipeline import TempoSyncPipeline
from temposync_pipeline.app.answers import check_quietly
from temposync_pipeline.app.dub_tab import dub_tab
from temposync_pipeline.app.live_tab import live_tab
from temposync_pipeline.app.look import KEPT_SECONDS
from temposync_pipeline.app.making import Making
from temposync_pipeline.app.memory import set_up_memory
from temposync_pipeline.app.portrait_tab import portrait_tab
from temposync_pipeline.app.server import LAUNCH, serve_until_told, set_up_log
from temposync_pipeline.app.studio import Studio
from temposync_pipeline.limits import PAGE_MAX_WAITING

MEDIA = Path(__file__).parent / "examples" / "media"
EXAMPLES = [[str(MEDIA / portrait), str(MEDIA / speech)] for portrait, speech in (
    ("portrait_woman.jpg", "speech_hello.wav"), ("portrait_man.jpg", "speech_weather.wav"), ("portrait_man_2.jpg", "speech_apples.wav"))]
# There a GPU is lent for one call at a time, to a process of its own: nobody can be listened to for longer.
IS_LENT = bool(os.environ.get("SPACES_ZERO_GPU"))


def build(studio: Studio, under_way: dict[str, Event] | None = None) -> gr.Blocks:
    """The page and its endpoints, /generate, /dub, /visemes and /preview.

    `under_way` will hold, by visitor, what stops the video that is being made.
    """
    making = Making(studio.pipeline.config.fps, {} if under_way is None else under_way)
    with gr.Blocks(title="TempoSync", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown("# TempoSync\nOne portrait and one voice recording become a video in which that person speaks; a video is dubbed; "
                    "a portrait says what you say.")
        portrait_tab(studio, making, on_gpu, EXAMPLES)
        dub_tab(studio, making, on_gpu)
        if not IS_LENT:
            live_tab(studio, page)
    check_quietly(page)
    return page.queue(max_size=PAGE_MAX_WAITING, default_concurrency_limit=1, api_open=False)  # nobody may pass the queue by


def main() -> None:
    set_up_log()
    set_up_memory()
    pipeline = TempoSyncPipeline.from_pretrained("temposync-tiny")
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    studio = Studio(pipeline)
    if not IS_LENT:
        studio.warm_up(*EXAMPLES[0])
    under_way: dict[str, Event] = {}
    page = build(studio, under_way)
    page.launch(**LAUNCH, prevent_thread_lock=True)
    serve_until_told(page, under_way)


if __name__ == "__main__":
    main()
