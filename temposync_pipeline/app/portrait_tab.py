"""The tab "Speaking portrait", with the endpoints /generate, /visemes and /preview."""

from collections.abc import Callable, Iterator

import gradio as gr
import numpy as np

from ..limits import MAX_PIXELS, megapixels
from ..limits import PAGE_MAX_UPLOAD_MB as MAX_UPLOAD_MB
from .answers import choose_one, hand_over, plain_errors, remarks, whole
from .look import CONSENT, FACES, FOLLOW_VIDEO, LIFE_INFO, NOTICE, STOPPED
from .making import ONE_VIDEO, Making
from .studio import MAX_AMPLITUDE, MAX_LIFE, MAX_SECONDS, MAX_SEED, MAX_SIZE, MAX_STEPS, MIN_SIZE, Progress, Studio, viseme_table
from .timeline import draw_timeline


def portrait_tab(studio: Studio, making: Making, on_gpu: Callable, examples: list[list[str]]) -> None:
    """A portrait and a voice become a video; `on_gpu` wraps what computes, `examples` are pairs of files to try."""
    fps = studio.pipeline.config.fps

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

    def generate(portrait: str, recording: str, consent: bool, steps: int = 4, seed: int = 0, amplitude: float = 1.0,
                 face_index: int = 0, max_size: int = MAX_SIZE, life: float = 1.0, request: gr.Request = None):
        """Makes the video; yields (video, timings, status) while it does, of which the last counts."""
        yield from making.made(request, consent, {"portrait": portrait, "recording": recording}, lambda output: reports(
            portrait, recording, output, whole("number of steps", steps), whole("seed", seed), amplitude,
            whole("number of the face", face_index), whole("size", max_size), life))

    with gr.Tab("Speaking portrait"):
        with gr.Row():
            with gr.Column():
                with gr.Row():
                    portrait = gr.Image(label=f"Portrait, up to {megapixels(MAX_PIXELS)} and {MAX_UPLOAD_MB} MB",
                                        type="filepath", sources=["upload", "webcam"], height=260, scale=2, elem_id="portrait")
                    portrait.preprocess = hand_over
                    crop = gr.Image(label="This will move", interactive=False, height=260, buttons=[], min_width=120, elem_id="crop")
                overview = gr.Image(label="Faces in the picture", interactive=False, visible=False, height=260, buttons=[],
                                    elem_id="faces")
                face = gr.Radio(FACES, value=0, label="Who speaks?", visible=False, elem_id="face")
                recording = gr.Audio(label=f"Voice, up to {MAX_SECONDS:g} seconds and {MAX_UPLOAD_MB} MB",
                                     sources=["upload", "microphone"], type="filepath", buttons=[], elem_id="voice")
                choose_one(gr.Examples(examples, [portrait, recording], label="Examples, each a portrait and a voice",
                                       visible_columns=[0], elem_id="examples"))
                consent = gr.Checkbox(label=CONSENT, elem_id="consent")
                with gr.Row():
                    make = gr.Button("Generate", variant="primary", scale=3)
                    stop = gr.Button("Stop", scale=1, min_width=80)
                with gr.Accordion("Settings", open=False):
                    steps = gr.Slider(1, MAX_STEPS, 4, step=1, precision=0, label="Steps", info="More are slower and steadier.")
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
            api_name="generate", concurrency_id=ONE_VIDEO, show_progress="minimal", show_progress_on=status)
        # Cancelling a video under way as well would let its progress overtake the "Stopped.".
        stop.click(making.stop, None, waiting, queue=False, api_visibility="private", show_progress="hidden")
        waiting.change(lambda: STOPPED, None, status, cancels=running, queue=False, api_visibility="private")
