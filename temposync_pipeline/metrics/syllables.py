"""Do the lips shut for "papa", "mama" and "baba"?  Everybody sees it there; synthetic voices speak them, whose phones' times are known.

    python -m temposync_pipeline.metrics.syllables --model temposync-tiny --image portrait.jpg --output syllables.md

Needs espeak-ng and flite, see `data.speech_synthesis`.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data.speech_synthesis import speak_espeak, speak_flite, with_pauses
from ..data.viseme_labels import SAMPLE_RATE, Speech, viseme_segments
from ..face.landmarks import lip_opening
from ..media.image import load_image
from ..models.visemes import VISEME_INDEX
from ..pipelines.pipeline_temposync import TempoSyncPipeline
from .closures import Span, shut_share
from .crop_video import VideoMaker

WORDS = ("papa", "mama", "baba")
# Voice, and its speeds: words a minute, or the stretch of flite's durations.
ESPEAK_VOICES, ESPEAK_SPEEDS = ("en-us", "en-us+f2", "en-us+m3"), (140, 190, 240)
FLITE_VOICE, FLITE_SPEEDS = "slt", (1.2, 1.0, 0.8)
PAUSE = 0.2  # seconds of silence before and after each word


def spoken_words(speak: Callable[[str], Speech]) -> tuple[np.ndarray, list[Span]]:
    """The words one after the other, float32 [N] at 16 kHz, and when their p, b and m are: start and end in seconds."""
    pause = np.zeros(int(PAUSE * SAMPLE_RATE), np.float32)
    speech = with_pauses([speak(word) for word in WORDS], [pause] * (len(WORDS) + 1))
    return speech.samples, [(item.start, item.end) for item in viseme_segments(speech.phones) if item.viseme == VISEME_INDEX["PP"]]


def voices() -> Iterator[tuple[str, float, Callable[[str], Speech]]]:
    """Name, speed and how to speak, of each voice at each of its speeds."""
    for voice in ESPEAK_VOICES:
        for rate in ESPEAK_SPEEDS:
            yield f"espeak-ng {voice}", rate, lambda text, voice=voice, rate=rate: speak_espeak(text, voice, rate)
    for stretch in FLITE_SPEEDS:
        yield f"flite {FLITE_VOICE}", stretch, lambda text, stretch=stretch: speak_flite(text, FLITE_VOICE, stretch)


def syllable_table(pipe: TempoSyncPipeline, photo: np.ndarray, steps: int) -> str:
    """A Markdown table: of each voice at each speed, how many closures there are and in how many of them the lips of the video shut.

    photo: uint8 RGB [H, W, 3]. steps: the student's, 1 to 8.
    """
    maker = VideoMaker(pipe)
    portrait = maker.portrait(photo)
    lines = ["| voice | speed | closures | shut |", "|---|---|---|---|"]
    closures = shut = 0
    for name, speed, speak in tqdm(list(voices()), desc="papa mama baba"):
        samples, spans = spoken_words(speak)
        video = maker.student(portrait, (samples, SAMPLE_RATE), steps)
        figures = shut_share(lip_opening(np.stack(pipe.face_aligner.track(video.crops))), spans)
        count = round(figures["closures"] * figures["closures_shut"])
        closures, shut = closures + figures["closures"], shut + count
        lines.append(f"| {name} | {speed:g} | {figures['closures']:.0f} | {count} |")
    return "\n".join([*lines, f"| all | | {closures:.0f} | {shut} ({100 * shut / closures:.0f} %) |"]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="temposync-tiny")
    parser.add_argument("--image", required=True)
    parser.add_argument("--output", default="syllables.md", help="Markdown file that is written")
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args(arguments)
    pipe = TempoSyncPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    table = syllable_table(pipe, load_image(options.image), options.steps)
    Path(options.output).write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
