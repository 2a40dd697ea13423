"""The demo: a portrait and a voice become a talking video, a video is dubbed, and a portrait speaks what a microphone hears.

Run `python app.py` and open the address it prints.
"""

import base64
import binascii
import html
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, get_ident
from uuid import uuid4

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see `temposync_pipeline.startup.yield_cores`
try:
    import spaces  # before torch; lends the functions below a GPU on a ZeroGPU Space and does nothing elsewhere

    on_gpu = spaces.GPU
except ImportError:
    def on_gpu(function):
        return function

import gradio as gr
import numpy as np
import torch

from temposync_pipeline import InvalidInputError, TempoSyncPipeline
from temposync_pipeline.app.conversation import MICROPHONE, Conversation, Conversations
from temposync_pipeline.app.memory import Housekeeping, give_back, set_up_memory
from temposync_pipeline.app.status import draw_status, timings
from temposync_pipeline.app.studio import (
    LIVE_SIZE,
    MAX_AMPLITUDE,
    MAX_FACES,
    MAX_LIFE,
    MAX_SECONDS,
    MAX_SEED,
    MAX_SIZE,
    MAX_STEPS,
    MIN_SIZE,
    Progress,
    Studio,
    viseme_table,
)
from temposync_pipeline.app.timeline import draw_timeline
from temposync_pipeline.limits import MAX_PIXELS, PAGE_MAX_WAITING
from temposync_pipeline.limits import PAGE_MAX_UPLOAD_MB as MAX_UPLOAD_MB
from temposync_pipeline.media.footage import ENDS

logger = logging.getLogger("temposync.app")

MEDIA = Path(__file__).parent / "examples" / "media"
EXAMPLES = [[str(MEDIA / portrait), str(MEDIA / speech)] for portrait, speech in (
    ("portrait_woman.jpg", "speech_hello.wav"), ("portrait_man.jpg", "speech_weather.wav"), ("portrait_man_2.jpg", "speech_apples.wav"))]
KEPT_SECONDS = 600
NOTICE = "**AI-generated.** Say so wherever you show the video. Uploads and videos are deleted after ten minutes."
LIFE_INFO = "Blinks, brows, small motions of the head; 0 = all but the lower face is still."
STOPPED = '<div class="status">Stopped.</div>'
FACES = [(str(index + 1), index) for index in range(MAX_FACES)]
# There a GPU is lent for one call at a time, to a process of its own: nobody can be listened to for longer.
IS_LENT = bool(os.environ.get("SPACES_ZERO_GPU"))
CONSENT = "The person shown and the person heard agree to this video, or I am both of them."

# Gradio's own font, of which it ships a regular and a bold cut whole: nothing is fetched from elsewhere.
FONT = (gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif")
THEME = gr.themes.Default(primary_hue="teal", secondary_hue="teal", radius_size="lg", font=FONT)
CSS = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
#voice .wrap, #new-voice .wrap { min-height: 0; padding: 12px 0; line-height: 1.3; }
#status, #dub-status, #timeline, #live, #status > div, #dub-status > div, #timeline > div, #live > div {
  padding: 0 !important; color: var(--body-text-color);
}
#live video { width: 100%; height: 420px; background: var(--background-fill-secondary); border-radius: 8px; }
.status { min-height: 48px; }
#status .error, #status .clear-status, #dub-status .error, #dub-status .clear-status { display: none; }
.bar { height: 6px; margin: 6px 0; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
.bar div { height: 100%; border-radius: 3px; background: var(--primary-500); transition: width 0.3s; }
.track { position: relative; overflow: hidden; }
.playhead { position: absolute; left: -2px; top: 0; width: 2px; height: 96px; background: var(--body-text-color); }
footer { opacity: 0.6; }
"""
# A line that runs over the timeline while the video plays.
FOLLOW_VIDEO = """
const follow = () => {
  const video = document.querySelector('#video video'), line = element.querySelector('.playhead');
  if (line) line.style.left = video && video.duration ? `${100 * video.currentTime / video.duration}%` : '-2px';
  requestAnimationFrame(follow);
};
follow();
"""


def hand_over(upload: gr.FileData | None) -> str | None:
    """The uploaded picture as it is: Gradio itself would open any format that Pillow knows, and answer a damaged file with "Error"."""
    return upload and upload.path


@contextmanager
def plain_errors() -> Iterator[None]:
    """Whatever goes wrong becomes one sentence without a path; the log says where it went wrong, and nothing of the visitor's files."""
    try:
        yield
    except gr.Error:
        raise
    except InvalidInputError as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None
    except FileNotFoundError:
        message = "The file is no longer on the server, where uploads stay for ten minutes; choose it again."
        raise gr.Error(message, print_exception=False) from None
    except Exception as error:
        logger.error("%s at\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        message = "The server's disk is full; try again later." if isinstance(error, OSError) else "Something went wrong on the server."
        raise gr.Error(message, print_exception=False) from None


@contextmanager
def remarks() -> Iterator[None]:
    """What the library has to say of an upload, such as that nobody speaks in it, is shown beside the page."""
    heard, here = [], get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == here and record.levelno >= logging.WARNING and record.getMessage() not in heard:
                heard.append(record.getMessage())

    library, listener = logging.getLogger("temposync_pipeline"), Listener()
    library.addHandler(listener)
    try:
        yield
    finally:
        library.removeHandler(listener)
    for remark in heard:
        gr.Warning(html.escape(remark, quote=False), title="Note")


def needed(**files: str | None) -> None:
    for name, path in files.items():
        if not path:
            raise gr.Error(f"Choose a {name} first.", print_exception=False)


def whole(name: str, value: float | None) -> int:
    if value is None or value != int(value):
        raise gr.Error(f"The {name} must be a whole number.", print_exception=False)
    return int(value)


def check_quietly(page: gr.Blocks) -> None:
    """What a program sends that no endpoint takes (steps out of range, a name for a file) is a line of the log, not Gradio's traceback."""
    check = page.preprocess_data

    async def preprocess_data(*arguments, **keywords):
        try:
            return await check(*arguments, **keywords)
        except gr.Error as error:
            message = html.escape(str(error.message), quote=False)
        except Exception:
            message = "The values sent are not those that this endpoint takes."
        logger.warning("values sent to an endpoint were refused")
        raise gr.Error(message, print_exception=False)

    page.preprocess_data = preprocess_data


def build(studio: Studio, under_way: dict[str, Event] | None = None) -> gr.Blocks:
    """The page and its endpoints, /generate, /dub, /visemes and /preview.

    `under_way` will hold, by visitor, what stops the video that is being made.
    """
    fps = studio.pipeline.config.fps
    under_way = {} if under_way is None else under_way

    @on_gpu
    def look(portrait: str | None) -> tuple[np.ndarray | None, dict, dict]:
        """Of an upload: the face that will speak, and where there are several, the picture with all of them numbered, and the choice."""
        if not portrait:
            return None, gr.update(visible=False), gr.update(value=0, visible=False)
        with plain_errors(), remarks():
            found = studio.preview(portrait)
        several = found.num_faces > 1
        return (found.crop, gr.update(value=found.overview, visible=several),
                gr.update(choices=FACES[:found.num_faces], value=0, visible=several))

    @on_gpu
    def preview(portrait: str | None, face_index: int = 0) -> np.ndarray | None:
        """Shows the face that will speak (0 = the largest); what stays still is dimmed."""
        with plain_errors():
            return studio.preview(portrait, whole("number of the face", face_index)).crop if portrait else None

    @on_gpu
    def visemes(recording: str | None) -> tuple[dict | None, str]:
        """Mouth shapes over time: {"fps", "visemes", "probabilities"}, and the same drawn, as HTML."""
        if not recording:
            return None, ""
        with plain_errors(), remarks():
            probabilities, audio = studio.visemes(recording)
            drawing = draw_timeline(probabilities, audio.samples, fps)
            return viseme_table(probabilities, fps), f'<div class="track">{drawing}<div class="playhead"></div></div>'

    @on_gpu
    def reports(*settings) -> Iterator[Progress]:
        with plain_errors():
            yield from studio.generate(*settings)

    @on_gpu
    def dub_reports(*settings) -> Iterator[Progress]:
        with plain_errors():
            yield from studio.dub(*settings)

    def generate(portrait: str, recording: str, consent: bool, steps: int = 4, seed: int = 0, amplitude: float = 1.0,
                 face_index: int = 0, max_size: int = MAX_SIZE, life: float = 1.0, request: gr.Request = None):
        """Makes the video; yields (video, timings, status) while it does, of which the last counts."""
        yield from made(request, consent, {"portrait": portrait, "recording": recording}, lambda output: reports(
            portrait, recording, output, whole("number of steps", steps), whole("seed", seed), amplitude,
            whole("number of the face", face_index), whole("size", max_size), life))

    def dub(film: str, recording: str, consent: bool, end: str = "loop", face_index: int = 0, steps: int = 4, seed: int = 0,
            amplitude: float = 1.0, request: gr.Request = None):
        """Makes the person in a video speak the recording; yields as /generate does. `end` says what follows where that is longer."""
        yield from made(request, consent, {"video": film, "recording": recording}, lambda output: dub_reports(
            film, recording, output, whole("number of steps", steps), whole("seed", seed), amplitude,
            whole("number of the face", face_index), end))

    def made(request: gr.Request, consent: bool, files: dict[str, str | None], begin: Callable[[Path], Iterator[Progress]]):
        """What a visitor is shown while `begin` makes the video, and then the video."""
        # In this order: as long as a visitor can be stopped, the folder may still be there.
        with plain_errors(), stop_of(request) as stopped, TemporaryDirectory() as folder:
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
                            yield gr.skip(), gr.skip(), draw_status(progress, fps)
                if progress.finished:
                    yield str(output), timings(progress, fps), draw_status(progress, fps)
            finally:
                logger.info("%s: %d of %d frames, %.1f s", uuid4().hex[:8], progress.frames, progress.total,
                            sum(progress.seconds.values()))
                give_back()
        if not progress.finished:
            yield gr.skip(), gr.skip(), STOPPED

    @contextmanager
    def stop_of(request: gr.Request) -> Iterator[Event]:
        """What the visitor's Stop sets while a video is made."""
        stopped = under_way[request.session_hash] = Event()
        try:
            yield stopped
        finally:
            del under_way[request.session_hash]

    def stop_video(request: gr.Request) -> str | dict:
        """A video under way ends by itself, so that its last word to the page is "Stopped."; one still waiting is to be cancelled."""
        if stopped := under_way.get(request.session_hash):
            stopped.set()
            return gr.skip()
        return uuid4().hex

    with gr.Blocks(title="TempoSync", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown("# TempoSync\nOne portrait and one voice recording become a video in which that person speaks; a video is dubbed; "
                    "a portrait says what you say.")
        with gr.Tab("Speaking portrait"):
            with gr.Row():
                with gr.Column():
                    with gr.Row():
                        portrait = gr.Image(label=f"Portrait, up to {MAX_PIXELS // 10**6} megapixels and {MAX_UPLOAD_MB} MB",
                                            type="filepath", sources=["upload", "webcam"], height=260, scale=2, elem_id="portrait")
                        portrait.preprocess = hand_over
                        crop = gr.Image(label="This will move", interactive=False, height=260, buttons=[], min_width=120, elem_id="crop")
                    overview = gr.Image(label="Faces in the picture", interactive=False, visible=False, height=260, buttons=[],
                                        elem_id="faces")
                    face = gr.Radio(FACES, value=0, label="Who speaks?", visible=False, elem_id="face")
                    recording = gr.Audio(label=f"Voice, up to {MAX_SECONDS:g} seconds and {MAX_UPLOAD_MB} MB",
                                         sources=["upload", "microphone"], type="filepath", buttons=[], elem_id="voice")
                    gr.Examples(EXAMPLES, [portrait, recording], label="Examples, each a portrait and a voice", visible_columns=[0],
                                elem_id="examples")
                    consent = gr.Checkbox(label=CONSENT, elem_id="consent")
                    with gr.Row():
                        make = gr.Button("Generate", variant="primary", scale=3)
                        stop = gr.Button("Stop", scale=1, min_width=80)
                    with gr.Accordion("Settings", open=False):
                        steps = gr.Slider(1, MAX_STEPS, 4, step=1, precision=0, label="Steps", info="More are slower and sharper.")
                        amplitude = gr.Slider(0, MAX_AMPLITUDE, studio.pipeline.config.mouth_amplitude, step=0.1, label="Mouth amplitude",
                                              info="0 keeps the mouth still.")
                        life = gr.Slider(0, MAX_LIFE, 1, step=0.1, label="Life", info=LIFE_INFO)
                        size = gr.Slider(MIN_SIZE, MAX_SIZE, MAX_SIZE, step=160, precision=0, label="Longer side of the video, px",
                                         info="Larger photos are shrunk to it.")
                        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED,
                                         info="The same seed gives the same video.")
                with gr.Column():
                    video = gr.Video(label="Video", interactive=False, autoplay=True, height=420, buttons=["download"], elem_id="video")
                    gr.Markdown(NOTICE)
                    status = gr.HTML('<div class="status"></div>', label="Status", elem_id="status")
                    timeline = gr.HTML(label="Timeline", elem_id="timeline", js_on_load=FOLLOW_VIDEO)
            numbers, times = gr.JSON(label="Visemes", visible=False), gr.JSON(label="Timings", visible=False)
            waiting = gr.Textbox(visible="hidden")

            portrait.change(look, portrait, [crop, overview, face], api_visibility="private", concurrency_id="look", concurrency_limit=2)
            face.input(preview, [portrait, face], crop, api_name="preview", concurrency_id="look")
            recording.change(visemes, recording, [numbers, timeline], api_name="visemes", concurrency_id="look")
            running = make.click(
                generate, [portrait, recording, consent, steps, seed, amplitude, face, size, life], [video, times, status],
                api_name="generate", show_progress="minimal", show_progress_on=status)
            # Cancelling a video under way as well would let its progress overtake the "Stopped.".
            stop.click(stop_video, None, waiting, queue=False, api_visibility="private", show_progress="hidden")
            waiting.change(lambda: STOPPED, None, status, cancels=running, queue=False, api_visibility="private")
        with gr.Tab("Dub a video"):
            with gr.Row():
                with gr.Column():
                    film = gr.Video(label=f"Video, up to {MAX_SIZE} pixels a side and {MAX_UPLOAD_MB} MB", sources=["upload", "webcam"],
                                    height=260, buttons=[], elem_id="film")
                    new_voice = gr.Audio(label=f"New voice, up to {MAX_SECONDS:g} seconds and {MAX_UPLOAD_MB} MB",
                                         sources=["upload", "microphone"], type="filepath", buttons=[], elem_id="new-voice")
                    film_consent = gr.Checkbox(label=CONSENT, elem_id="film-consent")
                    with gr.Row():
                        redo = gr.Button("Dub", variant="primary", scale=3)
                        stop_dub = gr.Button("Stop", scale=1, min_width=80)
                    with gr.Accordion("Settings", open=False):
                        end = gr.Radio(ENDS, value="loop", label="Where the voice is longer than the video",
                                       info="It goes back and forth, stays at its last frame, or the voice ends with it.")
                        film_face = gr.Radio(FACES, value=0, label="Who speaks?", info="1 is the largest face at the start.")
                        film_steps = gr.Slider(1, MAX_STEPS, 4, step=1, precision=0, label="Steps", info="More are slower and sharper.")
                        film_amplitude = gr.Slider(0, MAX_AMPLITUDE, studio.pipeline.config.mouth_amplitude, step=0.1,
                                                   label="Mouth amplitude", info="0 keeps the mouth still.")
                        film_seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED,
                                              info="The same seed gives the same video.")
                with gr.Column():
                    dubbed = gr.Video(label="Dubbed video", interactive=False, autoplay=True, height=420, buttons=["download"],
                                      elem_id="dubbed")
                    gr.Markdown(NOTICE)
                    dub_status = gr.HTML('<div class="status"></div>', label="Status", elem_id="dub-status")
            dub_times = gr.JSON(label="Timings", visible=False)
            dub_waiting = gr.Textbox(visible="hidden")
            dubbing = redo.click(
                dub, [film, new_voice, film_consent, end, film_face, film_steps, film_seed, film_amplitude],
                [dubbed, dub_times, dub_status], api_name="dub", show_progress="minimal", show_progress_on=dub_status)
            stop_dub.click(stop_video, None, dub_waiting, queue=False, api_visibility="private", show_progress="hidden")
            dub_waiting.change(lambda: STOPPED, None, dub_status, cancels=dubbing, queue=False, api_visibility="private")
        if not IS_LENT:
            live_tab(studio, page)
    check_quietly(page)
    return page.queue(max_size=PAGE_MAX_WAITING, default_concurrency_limit=1)


def live_tab(studio: Studio, page: gr.Blocks) -> None:
    """The tab whose portrait speaks what the visitor's microphone hears."""

    def say(talk: Conversation) -> None:
        logger.info("%s: %d frames live, %.1f s heard", uuid4().hex[:8], talk.num_frames, talk.seconds)

    conversations = Conversations(say=say)

    def begin(portrait: str | None, consent: bool, amplitude: float, face_index: int, life: float, request: gr.Request) -> str:
        """The token by which the page's script goes on."""
        with plain_errors(), remarks():
            if consent is not True:
                raise gr.Error("Confirm first that those shown and heard agree.", print_exception=False)
            needed(portrait=portrait)
            return conversations.begin(request.session_hash, lambda: studio.session(portrait, amplitude, int(face_index), life))

    def hear(piece: dict) -> dict:
        """{"token", "rate", "samples": int16 in base64} to {"video": mp4 in base64, "ended": why, if it has}, or {"error"}."""
        try:
            samples = np.frombuffer(base64.b64decode(piece["samples"], validate=True), "<i2")
            video, has_ended = conversations.hear(piece["token"], samples, piece["rate"])
        except (InvalidInputError, binascii.Error, KeyError, TypeError, ValueError) as error:
            return {"error": str(error) if isinstance(error, InvalidInputError) else "That is no piece of sound."}
        ended = f"The limit of {MAX_SECONDS:g} seconds is reached." if has_ended else None
        return {"video": base64.b64encode(video).decode(), "ended": ended}

    def finish(piece: dict) -> dict:
        """{"token"} to {"video"}: what is left when nothing more is said."""
        try:
            return {"video": base64.b64encode(conversations.end(piece["token"])).decode()}
        except (InvalidInputError, KeyError, TypeError):
            return {}

    with gr.Tab("Speak live"):
        with gr.Row():
            with gr.Column():
                portrait = gr.Image(label=f"Portrait, up to {MAX_PIXELS // 10**6} megapixels and {MAX_UPLOAD_MB} MB", type="filepath",
                                    sources=["upload", "webcam"], height=260, elem_id="live-portrait")
                portrait.preprocess = hand_over
                consent = gr.Checkbox(label=CONSENT, elem_id="live-consent")
                with gr.Row():
                    speak = gr.Button("Speak", variant="primary", scale=3)
                    stop = gr.Button("Stop", scale=1, min_width=80)
                with gr.Accordion("Settings", open=False):
                    amplitude = gr.Slider(0, MAX_AMPLITUDE, studio.pipeline.config.mouth_amplitude, step=0.1, label="Mouth amplitude",
                                          info="0 keeps the mouth still.")
                    face = gr.Radio(FACES, value=0, label="Who speaks?", info="1 is the largest face.")
                    life = gr.Slider(0, MAX_LIFE, 1, step=0.1, label="Life", info=LIFE_INFO)
            with gr.Column():
                stage = gr.HTML("", html_template='<video playsinline controls></video><div class="status"></div>', js_on_load=MICROPHONE,
                                server_functions=[hear, finish], label="Live video", elem_id="live")
                gr.Markdown(f"**AI-generated.** Say so wherever you show it. Your microphone is heard for up to {MAX_SECONDS:g} seconds, "
                            f"and neither sound nor video is kept. {LIVE_SIZE} pixels at most. With headphones it does not hear itself.")
        speak.click(begin, [portrait, consent, amplitude, face, life], stage, api_visibility="private", concurrency_id="look",
                    show_progress="minimal")
        stop.click(None, js="() => document.dispatchEvent(new Event('temposync:stop'))", api_visibility="private")

    def leave(request: gr.Request) -> None:
        conversations.leave(request.session_hash)

    page.unload(leave)


LAUNCH = {
    "theme": THEME, "css": CSS, "max_file_size": f"{MAX_UPLOAD_MB}mb", "allowed_paths": [], "show_error": False, "strict_cors": True,
    "run_history": False, "mcp_server": False, "state_session_capacity": 100, "ssr_mode": False, "footer_links": ["api"],
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
