"""What the pipelines return."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..bases import BaseOutput
from ..errors import InvalidInputError
from ..files import called, check_not_input, whole_file
from ..media.audio import AudioSource
from ..media.planes import to_planes, with_mark
from ..media.video import VideoWriter
from ..provenance.credentials import SigningKey, choose_credentials
from ..provenance.origin import Origin
from .latent_video import LatentVideo

logger = logging.getLogger(__name__)

# The clock of videos whose frames have times of their own, in seconds.
TICK = Fraction(1, 90_000)
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class TempoSyncPipelineOutput(BaseOutput):
    """A talking head.

    Attributes:
        frames: one entry a video frame: list of PIL pictures ("pil"), float32 [T, H, W, 3] in [0, 1] ("np"), float32 [T, 3, H, W] in [0, 1]
            ("pt"), or the generated crop's latents [T, C, 16, 16] ("latent").
        visemes: float32 [T, 15], the probabilities the lips followed.
        fps: frames a second, of a dubbed video in the mean.
        times: when each frame of a dubbed video appears, in seconds, [T]; None where they follow each other at `fps`.
        audio: the recording as it was given, a path or (samples, rate).
        latent_video: with output_type "latent", everything that decoding needs (`TempoSyncPipeline.decode_latents`).
        origin: what made the frames, for the marks of a file. The frames here bear none.
    """

    frames: list[Image.Image] | np.ndarray | torch.Tensor
    visemes: np.ndarray
    fps: float
    audio: AudioSource | None = None
    latent_video: LatentVideo | None = None
    times: np.ndarray | None = None
    origin: Origin | None = None

    def save(self, path: str | PathLike, provenance: bool | SigningKey = True) -> None:
        """Write an mp4 with the original audio, or, where the name ends in .gif, a GIF without; InvalidInputError for other endings.

        A line of the metadata says that the video is AI-generated. With `provenance`, it has an invisible watermark as well, in the face's
        crop (`provenance.watermark`); everything outside it stays as it is. Where c2pa-python is installed, it also has content
        credentials, signed with a test certificate or with the `provenance.credentials.SigningKey` that is given instead of True.
        `temposync verify` finds all of these.
        """
        check_video_name(path, (".mp4", ".gif"))
        if isinstance(self.frames, torch.Tensor) and self.frames.shape[1] != 3:
            raise InvalidInputError('Latents cannot be saved as a video; use save_latents, or output_type "pil", "np" or "pt".')
        origin, count = self.origin, len(self.frames)
        if not count:
            raise InvalidInputError(f"{called(path)}: no frames to write")
        frames = _pictures(self.frames, called(path))
        tags = origin.tags() if origin else {}
        starts = np.arange(count) / self.fps if self.times is None else self.times
        ends = [*starts[1:], starts[-1] + 1 / self.fps]
        credentials = choose_credentials(provenance)
        mark_of = origin.marker() if origin and provenance else _no_mark
        signing = origin.signing(credentials) if origin else None
        if Path(path).suffix.lower() == ".gif":
            frames = (frame if (mark := mark_of(frame)) is None else with_mark(frame, mark) for frame in frames)
            _write_gif(Path(path), frames, ends, tags.get("comment", ""), signing)
            return
        with VideoWriter(path, self.fps, self.audio, tags, signing, tick=None if self.times is None else TICK) as writer:
            for frame, start, end in zip(frames, starts, ends):
                planes = to_planes(frame, mark_of(frame))
                if self.times is None:
                    writer.write_planes(planes)
                else:
                    start, end = (Fraction(float(moment)).limit_denominator(10**6) for moment in (start, end))
                    writer.write_planes(planes, start, end - start)

    def save_latents(self, path: str | PathLike) -> None:
        """Write the safetensors file that `TempoSyncPipeline.decode_to_file` and `temposync decode` turn into the video later."""
        if self.latent_video is None:
            raise InvalidInputError('There are no latents here; ask the pipeline for output_type "latent".')
        check_not_input(path, self.audio)
        self.latent_video.save(path)


@dataclass
class TempoSyncBatchOutput(BaseOutput):
    """What a call with lists returns: `frames` and `visemes` of each of its `videos`, as `TempoSyncPipelineOutput` describes them."""

    frames: list
    visemes: list[np.ndarray]
    fps: float
    videos: list[TempoSyncPipelineOutput]

    def save(self, paths: list[str | PathLike], provenance: bool | SigningKey = True) -> None:
        """`TempoSyncPipelineOutput.save`, each video to its own path; InvalidInputError for other numbers of paths, or one twice."""
        if isinstance(paths, (str, PathLike)) or len(paths) != len(self.videos):
            raise InvalidInputError(f"{len(self.videos)} videos need a list of {len(self.videos)} paths")
        places = [os.path.realpath(path) for path in paths]
        if doubled := [path for path, place in zip(paths, places) if places.count(place) > 1]:
            raise InvalidInputError(f"{called(doubled[0])}: two videos cannot be the same file")
        for video, path in zip(self.videos, paths):
            video.save(path, provenance)


def _no_mark(frame: np.ndarray) -> np.ndarray | None:
    """What nothing is known of bears none."""
    return None


def check_video_name(path: str | PathLike, suffixes: tuple[str, ...]) -> None:
    """Raises InvalidInputError where a name promises another format than is written; a name without an ending promises nothing."""
    suffix = Path(path).suffix.lower()
    if suffix and suffix not in suffixes:
        raise InvalidInputError(f"{called(path)}: videos are written as {' or '.join(suffixes)}, not as {suffix}")


def _write_gif(
    path: Path, frames: Iterator[np.ndarray], ends: Sequence[float], comment: str, complete: Callable[[Path], None] | None
) -> None:
    """An endless loop in the frames' own palettes; under a hidden name first, so that a file of this name is always whole."""
    logger.warning("%s: a GIF has no sound", path.name)
    pictures = [Image.fromarray(frame).quantize(256) for frame in frames]
    # A GIF counts hundredths of a second: rounding each frame's end, not its length, keeps the time.
    ends = [0, *(round(100 * end) for end in ends)]
    with whole_file(path, ".gif") as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], loop=0, comment=comment.encode(),
                         duration=[10 * (end - start) for start, end in zip(ends, ends[1:])])
        if complete:
            complete(temporary)


def _pictures(frames: Iterable[Image.Image | np.ndarray | torch.Tensor], name: str) -> Iterator[np.ndarray]:
    """Frames uint8 [H, W, 3]; raises InvalidInputError for one that is no picture, or of another size than the first."""
    first = None
    for number, frame in enumerate(frames):
        picture = _to_uint8(frame)
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
            raise InvalidInputError(f"{name}: frame {number} is no RGB picture of finite numbers: {picture.dtype} {list(picture.shape)}")
        first = first or picture.shape
        if picture.shape != first:
            raise InvalidInputError(f"{name}: frame {number} has {_size_of(picture.shape)} px, the first one {_size_of(first)}")
        yield picture


def _size_of(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _to_uint8(frame: Image.Image | np.ndarray | torch.Tensor) -> np.ndarray:
    """Of what is no picture something else."""
    if isinstance(frame, Image.Image):
        return np.asarray(frame if frame.mode == "RGB" else frame.convert("RGB"))
    if isinstance(frame, torch.Tensor):
        frame = frame.detach().cpu().float().moveaxis(0, -1).numpy()
    frame = np.asarray(frame)
    if not np.issubdtype(frame.dtype, np.floating) or not np.isfinite(frame).all():
        return frame
    return np.rint(255 * frame.clip(0, 1)).astype(np.uint8)


def convert_frames(frames: list | torch.Tensor, output_type: str) -> list[Image.Image] | np.ndarray | torch.Tensor:
    """Frames uint8 [H, W, 3], or latents [T, C, 16, 16], in the form that `TempoSyncPipelineOutput.frames` has for the output type."""
    if output_type == "latent":
        return frames
    if output_type == "pil":
        return [Image.fromarray(frame) for frame in frames]
    stacked = np.stack(frames).astype(np.float32) / 255
    return stacked if output_type == "np" else torch.from_numpy(stacked).permute(0, 3, 1, 2)
