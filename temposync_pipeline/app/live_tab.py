"""The tab "Speak live"."""

import base64
import binascii
import logging
from uuid import uuid4

import gradio as gr
import numpy as np

from ..errors import InvalidInputError
from ..limits import MAX_PIXELS, megapixels
from ..limits import PAGE_MAX_SECONDS as MAX_SECONDS
from ..limits import PAGE_MAX_UPLOAD_MB as MAX_UPLOAD_MB
from .answers import hand_over, needed, plain_errors, remarks
from .conversation import MICROPHONE, Conversation, Conversations
from .look import CONSENT, FACES, LIFE_INFO
from .studio import LIVE_SIZE, MAX_AMPLITUDE, MAX_LIFE, Studio

logger = logging.getLogger("temposync.app")


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
                portrait = gr.Image(label=f"Portrait, up to {megapixels(MAX_PIXELS)} and {MAX_UPLOAD_MB} MB", type="filepath",
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
