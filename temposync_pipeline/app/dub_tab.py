"""The tab "Dub a video", with the endpoint /dub."""

from collections.abc import Callable, Iterator

import gradio as gr

from ..limits import PAGE_MAX_UPLOAD_MB as MAX_UPLOAD_MB
from ..media.footage import ENDS
from .answers import plain_errors, whole
from .look import CONSENT, FACES, NOTICE, STOPPED
from .making import ONE_VIDEO, Making
from .studio import MAX_AMPLITUDE, MAX_SECONDS, MAX_SEED, MAX_SIZE, MAX_STEPS, Progress, Studio


def dub_tab(studio: Studio, making: Making, on_gpu: Callable) -> None:
    """The person in a video speaks another recording; `on_gpu` wraps what computes."""

    @on_gpu
    def reports(*settings) -> Iterator[Progress]:
        with plain_errors():
            yield from studio.dub(*settings)

    def dub(film: str, recording: str, consent: bool, end: str = "loop", face_index: int = 0, steps: int = 4, seed: int = 0,
            amplitude: float = 1.0, request: gr.Request = None):
        """Makes the person in a video speak the recording; yields as /generate does. `end` says what follows where that is longer."""
        yield from making.made(request, consent, {"video": film, "recording": recording}, lambda output: reports(
            film, recording, output, whole("number of steps", steps), whole("seed", seed), amplitude,
            whole("number of the face", face_index), end))

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
                    film_steps = gr.Slider(1, MAX_STEPS, 4, step=1, precision=0, label="Steps", info="More are slower and steadier.")
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
            [dubbed, dub_times, dub_status], api_name="dub", concurrency_id=ONE_VIDEO, show_progress="minimal", show_progress_on=dub_status)
        stop_dub.click(making.stop, None, dub_waiting, queue=False, api_visibility="private", show_progress="hidden")
        dub_waiting.change(lambda: STOPPED, None, dub_status, cancels=dubbing, queue=False, api_visibility="private")
