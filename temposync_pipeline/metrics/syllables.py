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
from ..face.landmarks import CLOSED_OPENING, lip_opening
from ..media.image import load_image
from ..media.video import FPS
from ..models.visemes import VISEME_INDEX
from ..pipelines.pipeline_temposync import TempoSyncPipeline
from .closures import Span, shut_share
from .crop_video import VideoMaker

WORDS = ("papa", "mama", "baba")
# Voice, and its speeds: words a minute, or the stretch of flite's durations.
ESPEAK_VOICES, ESPEAK_SPEEDS = ("en-us", "en-us+f2", "en-us+m3"), (140, 190, 240)
FLITE_VOICE, FLITE_SPEEDS = "slt", (1.2, 1.0, 0.8)
PAUSE = 0.2  # seconds of silence before and after each word


def spoken_words(speak: Callable[[str], Speech]) -> tuple[np.ndarray, list[Span], list[Span]]:
    """The words one after the other, float32 [N] at 16 kHz, and when their p, b and m, and their vowels are: start and end in seconds."""
    pause = np.zeros(int(PAUSE * SAMPLE_RATE), np.float32)
    speech = with_pauses([speak(word) for word in WORDS], [pause] * (len(WORDS) + 1))
    spoken = [((item.start, item.end), item.viseme == VISEME_INDEX["PP"]) for item in viseme_segments(speech.phones)
              if item.viseme != VISEME_INDEX["sil"]]
    return speech.samples, [span for span, shut in spoken if shut], [span for span, shut in spoken if not shut]


def open_count(opening: np.ndarray, vowels: list[Span]) -> int:
    """In how many vowels the lips open: opening [T] in interocular distances, 25 frames a second, above twice that of shut lips."""
    return sum(opening[int(start * FPS):max(int(start * FPS) + 1, round(end * FPS))].max(initial=0) > 2 * CLOSED_OPENING
               for start, end in vowels)


def voices() -> Iterator[tuple[str, float, Callable[[str], Speech]]]:
    """Name, speed and how to speak, of each voice at each of its speeds."""
    for voice in ESPEAK_VOICES:
        for rate in ESPEAK_SPEEDS:
            yield f"espeak-ng {voice}", rate, lambda text, voice=voice, rate=rate: speak_espeak(text, voice, rate)
    for stretch in FLITE_SPEEDS:
        yield f"flite {FLITE_VOICE}", stretch, lambda text, stretch=stretch: speak_flite(text, FLITE_VOICE, stretch)


def syllable_table(pipe: TempoSyncPipeline, photo: np.ndarray, steps: int) -> str:
    """A Markdown table: of each voice at each speed, in how many of its closures the lips of the video shut, and in how many of its vowels
    they open, without which the former says nothing.

    photo: uint8 RGB [H, W, 3]. steps: the student's, 1 to 8.
    """
    maker = VideoMaker(pipe)
    portrait = maker.portrait(photo)
    lines = ["| voice | speed | closures | shut | vowels | open |", "|---|---|---|---|---|---|"]
    total = np.zeros(4, int)
    for name, speed, speak in tqdm(list(voices()), desc="papa mama baba"):
        samples, closures, vowels = spoken_words(speak)
        video = maker.student(portrait, (samples, SAMPLE_RATE), steps)
        opening = lip_opening(np.stack(pipe.face_aligner.track(video.crops)))
        figures = shut_share(opening, closures)
        shut = round(figures["closures"] * figures["closures_shut"])
        counts = [round(figures["closures"]), shut, len(vowels), open_count(opening, vowels)]
        total += counts
        lines.append(f"| {name} | {speed:g} | " + " | ".join(map(str, counts)) + " |")
    shares = [f"{count} ({count / of:.0%})" for of, count in zip(total[::2], total[1::2])]
    return "\n".join([*lines, f"| all | | {total[0]} | {shares[0]} | {total[2]} | {shares[1]} |"]) + "\n"


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
