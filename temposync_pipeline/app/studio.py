"""One pipeline at the service of many visitors: smaller limits than the library's, progress, and times by stage."""

import errno
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ..errors import InvalidInputError
from ..limits import PAGE_MAX_FACES as MAX_FACES
from ..limits import PAGE_MAX_LIVE_SIZE as LIVE_SIZE
from ..limits import PAGE_MAX_SECONDS as MAX_SECONDS
from ..limits import PAGE_MAX_SIZE as MAX_SIZE
from ..limits import PAGE_MIN_FREE_BYTES as MIN_FREE_BYTES
from ..media.audio import Audio, load_audio
from ..media.footage import Footage
from ..media.image import load_image
from ..models.viseme_classifier import warn_without_speech
from ..models.visemes import VISEMES
from ..pipelines.face_search import choose_face, find_faces
from ..pipelines.live import LiveSession
from ..pipelines.pipeline_temposync import TempoSyncPipeline
from ..pipelines.preview import dim_what_stays, number_faces

MAX_STEPS = 8
MAX_AMPLITUDE = 2.0
MAX_LIFE = 2.0
MAX_SEED = 2**32 - 1
MIN_SIZE = 320  # of the video's longer side, px
# Frames between two signs of life, and between a cancel and the end of the work.
CHUNK_SIZE = 8
# What the visitor is told while the pipeline is at each of its stages.
STAGES = {"visemes": "Listening", "portrait": "Finding the face", "frames": "Moving the lips", "video": "Finishing the video"}


@dataclass(frozen=True)
class Progress:
    """Where a video stands: the stage at work, frames written, frames in all (0 = not yet known), seconds of each stage so far, and its
    frame rate, None = the pipeline's."""

    stage: str
    frames: int = 0
    total: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    finished: bool = False
    fps: float | None = None


@dataclass(frozen=True)
class Preview:
    """What a visitor is shown of an upload.

    `crop` is the face that will speak, everything dimmed that will not move, uint8 [256, 256, 3]; `num_faces` can be chosen from, and
    where they are several, `overview` is the picture with the faces numbered from 1, uint8 [h, w, 3].
    """

    crop: np.ndarray
    num_faces: int
    overview: np.ndarray | None


class Studio:
    """Does what a visitor of the app asks for, within limits, on one pipeline.

    All methods raise `InvalidInputError` with a sentence for the visitor, and OSError where the machine is at fault.
    """

    def __init__(self, pipeline: TempoSyncPipeline):
        self.pipeline = pipeline

    def preview(self, image: str | PathLike, face_index: int = 0) -> Preview:
        """Find the faces and show the one at `face_index`, 0 = the largest."""
        photo = load_image(image)
        with torch.inference_mode():
            photo, faces = find_faces(self.pipeline.face_aligner, photo, "the picture")
        face = choose_face(photo, faces, "the picture", face_index)
        faces = faces[:MAX_FACES]
        overview = number_faces(photo, [face.landmarks for face in faces]) if len(faces) > 1 else None
        return Preview(dim_what_stays(photo, face), len(faces), overview)

    def visemes(self, audio: str | PathLike) -> tuple[np.ndarray, Audio]:
        """Probabilities of the 15 mouth shapes, float32 [T, 15], one row a video frame, and the recording."""
        recording = load_audio(audio, max_seconds=MAX_SECONDS)
        fps = self.pipeline.config.fps
        frames = max(1, round(recording.duration * fps))
        with torch.inference_mode():
            probabilities = self.pipeline.viseme_classifier.predict(recording.samples, frames, fps)
        warn_without_speech(recording.name, probabilities)
        return probabilities, recording

    def generate(
        self, image: str | PathLike, audio: str | PathLike, output: str | PathLike, num_inference_steps: int = 4, seed: int = 0,
        mouth_amplitude: float | None = None, face_index: int = 0, max_size: int = MAX_SIZE, life: float = 0.0,
    ) -> Iterator[Progress]:
        """Write the video, reporting before every stage and after every few frames. Closing the generator stops the work.

        `life` is both `blink_rate` and `head_motion` of the pipeline.
        """
        check_limits(num_inference_steps, seed, mouth_amplitude, face_index, max_size, life)
        check_space(output)
        yield from self._reported(audio, lambda: self.pipeline.stream_to_file(
            image, audio, output, num_inference_steps, torch.Generator().manual_seed(seed),
            mouth_amplitude=mouth_amplitude, face_index=face_index, max_size=max_size, chunk_size=CHUNK_SIZE,
            blink_rate=life, head_motion=life))

    def dub(
        self, video: str | PathLike, audio: str | PathLike, output: str | PathLike, num_inference_steps: int = 4, seed: int = 0,
        mouth_amplitude: float | None = None, face_index: int = 0, end: str = "loop",
    ) -> Iterator[Progress]:
        """The same for a video whose person speaks another recording, of at most `MAX_SIZE` pixels a side."""
        check_limits(num_inference_steps, seed, mouth_amplitude, face_index, MIN_SIZE)
        check_space(output)
        footage = Footage(video)
        if max(footage.width, footage.height) > MAX_SIZE:
            raise InvalidInputError(f"{footage.name}: {footage.width}×{footage.height} px, above the limit of {MAX_SIZE} a side")
        yield from self._reported(audio, lambda: self.pipeline.stream_dub_to_file(
            video, audio, output, num_inference_steps, torch.Generator().manual_seed(seed),
            mouth_amplitude=mouth_amplitude, face_index=face_index, end=end, chunk_size=CHUNK_SIZE), float(footage.rate))

    def session(
        self, image: str | PathLike, mouth_amplitude: float | None = None, face_index: int = 0, life: float = 0.0, seed: int = 0
    ) -> LiveSession:
        """A portrait that speaks what it hears, its longer side at most `LIVE_SIZE` px; `life` as in `generate`."""
        check_limits(1, seed, mouth_amplitude, face_index, MIN_SIZE, life)
        return self.pipeline.session(
            image, generator=torch.Generator().manual_seed(seed), mouth_amplitude=mouth_amplitude, face_index=face_index,
            max_size=LIVE_SIZE, blink_rate=life, head_motion=life)

    def _reported(
        self, audio: str | PathLike, begin: Callable[[], Iterator[tuple[str, int, int]]], fps: float | None = None
    ) -> Iterator[Progress]:
        """The pipeline's stages as a visitor is told of them."""
        yield Progress("visemes")
        load_audio(audio, max_seconds=MAX_SECONDS)  # refuses a long recording before any work is done
        seconds = dict.fromkeys(STAGES, 0.0)
        following = {"listening": "visemes", "visemes": "portrait", "portrait": "frames"}
        started = time.perf_counter()
        with closing(begin()) as steps:
            for stage, frames, total in steps:
                seconds["visemes" if stage == "listening" else stage] += time.perf_counter() - started
                yield Progress(following.get(stage, stage), frames, total, dict(seconds), stage == "video", fps)
                started = time.perf_counter()

    def warm_up(self, image: str | PathLike, audio: str | PathLike) -> None:
        """Make one short video and throw it away, so that the first visitor does not wait for memory and kernels."""
        with TemporaryDirectory() as folder:
            for progress in self.generate(image, audio, Path(folder) / "warm.mp4", num_inference_steps=1):
                if progress.frames:
                    break


def check_space(output: str | PathLike) -> None:
    """Raises OSError where the output's disk is nearly full."""
    if shutil.disk_usage(Path(output).absolute().parent).free < MIN_FREE_BYTES:
        raise OSError(errno.ENOSPC, f"less than {MIN_FREE_BYTES // 2**20} MB free")


def check_limits(
    num_inference_steps: int, seed: int, mouth_amplitude: float | None, face_index: int, max_size: int, life: float = 0.0
) -> None:
    """What the page's own controls cannot exceed, but a program can."""
    for name, value, low, high in (
        ("steps", num_inference_steps, 1, MAX_STEPS), ("seed", seed, 0, MAX_SEED), ("mouth amplitude", mouth_amplitude, 0, MAX_AMPLITUDE),
        ("face_index", face_index, 0, MAX_FACES - 1), ("max_size", max_size, MIN_SIZE, MAX_SIZE), ("life", life, 0, MAX_LIFE),
    ):
        if value is not None and (isinstance(value, bool) or not low <= value <= high):
            found = value if isinstance(value, bool) else f"{value:g}"
            raise InvalidInputError(f"{name}: {found}, outside the limits of {low:g} to {high:g}")


def viseme_table(probabilities: np.ndarray, fps: float) -> dict:
    """What `temposync visemes --json` writes: {"fps", "visemes": 15 names, "probabilities": [T][15]}."""
    return {"fps": fps, "visemes": list(VISEMES), "probabilities": probabilities.round(5).tolist()}
