"""Dubbing: the person in a video speaks another recording, and everything else of the video stays as it is.

Every frame's own crop is reference and context: pose, light and expression are the film's.  So the mouth that the film shows has to go
away as well as the new one to come; the denoiser was trained for that, from any frame of a talker to any other.  Averaged over time are
the new mouths, not their difference from the old ones, which would bring those back.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..errors import FaceError, InvalidInputError
from ..face.crop import CROP_SIZE, align_matrix, invert, mask_mouth, transform_points
from ..face.landmarks import lip_opening
from ..face.mouth_box import Patch, Rectangle
from ..face.tone import known_crop
from ..media.audio import load_audio
from ..media.footage import ENDS, Footage, FootageFrame
from ..media.video import VideoWriter
from ..models.conditioning import encode_crops, gaussian_kernel, latent_window, silent_windows
from .inputs import AudioInput, as_audio
from .person import Person
from .pipeline_output import TempoSyncPipelineOutput, check_video_name, convert_frames
from .portrait import share_to_close
from .rendering import make_renderer
from .sampling import Sampling
from .speech import Speech

NO_FACE = ("keep", "error")
# Standard deviation, in seconds, of the Gaussian that alignments are smoothed with, against the jitter of landmarks.
ALIGNMENT_SMOOTHING = 0.06
# A crop's surroundings that are kept of a picture, as a share of the crop's side.
SURROUNDINGS = 0.15

Item = TypeVar("Item")


@dataclass
class Take:
    """A frame in which the person is to speak.

    `close` is the picture around the face, uint8 [h, w, 3], whose first pixel lies at `corner` (x, y) of the frame; `matrix` leads from it
    to the crop; `parted` is what it is of a `Portrait`; the rest, of the crop, comes when it is encoded.
    """

    frame: FootageFrame
    close: np.ndarray
    corner: tuple[int, int]
    matrix: np.ndarray
    parted: float
    latents: torch.Tensor | None = None
    context: torch.Tensor | None = None
    identity: torch.Tensor | None = None


class DubbingMixin:
    """`dub` and its kin, for the pipeline of `pipeline_temposync`."""

    @torch.inference_mode()
    def dub(
        self, video: str | PathLike, audio: AudioInput, num_inference_steps: int | None = None, generator: torch.Generator | None = None,
        output_type: str = "pil", return_dict: bool = True, face_index: int = 0, mouth_amplitude: float | None = None, end: str = "loop",
        no_face: str = "keep", chunk_size: int = 16,
    ) -> TempoSyncPipelineOutput | tuple:
        """The person in a video speaks a recording; all frames at once, for short videos (`dub_to_file` for any length).

        The output's `times` say when each frame appears. It ends with the recording.

        Args:
            video: a video file. audio: as for `__call__`.
            num_inference_steps, generator, mouth_amplitude, chunk_size: as for `__call__`.
            output_type: "pil", "np" or "pt".
            face_index: who speaks, 0 = the largest face of the first frame that shows more than `face_index`; that person is followed through
                cuts and absences, whoever else comes in.
            end: what follows where the recording is longer than the video: "loop" = it goes on backwards, and forwards again; "freeze" = its
                last frame stays, and speaks; "cut" = the recording ends with it.
            no_face: frames in which the person's mouth is not to be seen are kept as they are ("keep") or refused ("error").

        Raises:
            InvalidInputError: a file that cannot be used, FaceError among them where the person is nowhere, or more steps than the student
                takes.
        """
        sampling = self._dub_sampling(num_inference_steps, chunk_size, mouth_amplitude, output_type, end, no_face)
        with self._running(sampling), self._returning_models():
            footage, recording = Footage(video), as_audio(audio)
            sound = load_audio(recording)
            speech = self._hear(sound)
            noise = self.prepare_latents(sampling.num_inference_steps, generator)
            frames, times = [], []
            with self._bar(_expected(footage, sound.duration, end)) as bar:
                for frame, picture, patch in self._dubbed(footage, speech, sound.duration, noise, sampling, face_index, end, no_face):
                    frames.append(picture if patch is None else patch.onto(picture))
                    times.append(float(frame.appears))
                    bar.update()
        visemes = speech.at(np.asarray(times) * self.config.fps).visemes
        output = TempoSyncPipelineOutput(
            convert_frames(frames, output_type), visemes, float(footage.rate), audio=recording, times=np.asarray(times))
        return output if return_dict else (output.frames, output.visemes)

    def dub_to_file(
        self, video_path: str | PathLike, audio_path: AudioInput, output_path: str | PathLike, num_inference_steps: int | None = None,
        generator: torch.Generator | None = None, progress: bool = True, **options: Any,
    ) -> dict[str, float | str]:
        """`dub` straight into an mp4 with the new sound, of the video's size, times and colours; further arguments are those of `dub`.

        Returns {"output", "frames", "dubbed" (frames in which the person speaks), "fps", "seconds"}.
        """
        figures: dict[str, float | str] = {}
        stages = self.stream_dub_to_file(video_path, audio_path, output_path, num_inference_steps, generator, figures=figures, **options)
        _, count, total = next(stage for stage in stages if stage[0] == "portrait")
        with self._bar(total, progress) as bar:
            for _, count, _ in stages:
                bar.update(count - bar.n)
        return {"output": str(Path(output_path)), **figures}

    @torch.inference_mode()
    def stream_dub_to_file(
        self, video_path: str | PathLike, audio_path: AudioInput, output_path: str | PathLike, num_inference_steps: int | None = None,
        generator: torch.Generator | None = None, face_index: int = 0, mouth_amplitude: float | None = None, end: str = "loop",
        no_face: str = "keep", chunk_size: int = 16, figures: dict[str, float | str] | None = None,
    ) -> Iterator[tuple[str, int, int]]:
        """`dub_to_file` at the caller's pace: yields (stage just done, frames written, frames in all) as `stream_to_file` does; the number of
        all frames is an estimate.  What `dub_to_file` returns comes into `figures`."""
        sampling = self._dub_sampling(num_inference_steps, chunk_size, mouth_amplitude, "np", end, no_face)
        check_video_name(output_path, (".mp4",))
        if Path(output_path).exists() and Path(output_path).samefile(video_path):
            raise InvalidInputError(f"{Path(output_path).name}: the output would replace the video")
        audio, footage = as_audio(audio_path), Footage(video_path)
        sound = load_audio(audio)
        total = _expected(footage, sound.duration, end)
        with self._returning_models():
            for speech in self._listen(sound):
                if speech is None:
                    yield "listening", 0, 0
            yield "visemes", 0, total
            noise = self.prepare_latents(sampling.num_inference_steps, generator)
            yield "portrait", 0, total
            dubbed = 0
            with VideoWriter(output_path, footage.rate, audio, footage.look, footage.tick) as writer:
                for frame, picture, patch in self._dubbed(footage, speech, sound.duration, noise, sampling, face_index, end, no_face):
                    if patch is not None:
                        footage.paint(frame.planes, picture, *patch)
                        dubbed += 1
                    writer.write_planes(frame.planes, frame.appears, frame.stays)
                    if writer.num_frames % sampling.chunk_size == 0:
                        yield "frames", writer.num_frames, max(total, writer.num_frames)
            seconds = float(frame.appears + frame.stays)
            if figures is not None:
                figures |= {"frames": writer.num_frames, "dubbed": dubbed, "fps": float(footage.rate), "seconds": seconds}
        yield "video", writer.num_frames, writer.num_frames

    def _dub_sampling(
        self, steps: int | None, chunk_size: int, mouth_amplitude: float | None, output_type: str, end: str, no_face: str
    ) -> Sampling:
        for name, value, allowed in (("end", end, ENDS), ("no_face", no_face, NO_FACE), ("output_type", output_type, ("pil", "np", "pt"))):
            if value not in allowed:
                raise InvalidInputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        return self._sampling(steps, chunk_size, mouth_amplitude, output_type)

    def _dubbed(
        self, footage: Footage, speech: Speech, seconds: float, noise: torch.Tensor, sampling: Sampling, face_index: int, end: str,
        no_face: str,
    ) -> Iterator[tuple[FootageFrame, np.ndarray, Patch | None]]:
        """Frames in their order, each with its picture uint8 [H, W, 3] and what changes in it, None = nothing."""
        person = Person(self.face_aligner, self._look_at, face_index)
        for take, frames in groupby(self._found(footage, footage.frames(seconds, end), person, no_face), key=lambda each: each[0]):
            if take is None:
                yield from ((frame, footage.picture(frame.planes), None) for _, frame in frames)
                continue
            for each, patch in self._speak(footage, (each for _, each in frames), speech, noise, sampling):
                yield each.frame, footage.picture(each.frame.planes), patch
        if not person.is_known:
            raise FaceError(f"No face found in {footage.name}; a frontal one at least 48 pixels tall is needed." if not person.most_faces else
                            f"face_index {face_index} asked for, but no frame of {footage.name} shows more than {person.most_faces} face(s).")

    def _found(
        self, footage: Footage, frames: Iterable[FootageFrame], person: Person, no_face: str
    ) -> Iterator[tuple[int | None, FootageFrame | Take]]:
        """(number of the take, `Take`) of a frame that shows the person, (None, frame) of others."""
        for frame in frames:
            picture = footage.picture(frame.planes)
            face = person.find(picture)
            if face is None:
                if no_face == "error":
                    raise FaceError(f"{footage.name}: no face, or not that of the one who is to speak, at {float(frame.appears):.2f} s.")
                yield None, frame
                continue
            matrix = align_matrix(face.landmarks)
            area = _surroundings(matrix, picture.shape[:2])
            corner = area.x0, area.y0
            yield person.take, Take(frame, area.of(picture).copy(), corner, _moved_origin(matrix, corner),
                                    share_to_close(float(lip_opening(face.landmarks))))

    def _look_at(self, crop: np.ndarray) -> torch.Tensor:
        """Embedding [D] of who is in a crop uint8 [256, 256, 3]."""
        return self.identity_encoder(self._encode(crop))[0].float()

    def _speak(
        self, footage: Footage, takes: Iterator[Take], speech: Speech, noise: torch.Tensor, sampling: Sampling
    ) -> Iterator[tuple[Take, Patch]]:
        """What changes in each frame of a run in which one face can be followed."""
        per_frame = float(footage.rate) / self.config.fps
        smoothing = self.config.latent_smoothing * per_frame
        radius = self._smoothing_radius(len(noise), smoothing)
        encoded = (each for chunk in _chunks(_steady(takes, ALIGNMENT_SMOOTHING * float(footage.rate)), sampling.chunk_size)
                   for each in self._encoded(chunk))
        for before, own, after in _with_neighbours(encoded, sampling.chunk_size, radius):
            latents = self._dubbed_latents([*before, *own, *after], len(own), speech, noise, sampling, smoothing)
            yield from zip(own, self._dubbed_patches(own, latents))

    def _encoded(self, takes: list[Take]) -> list[Take]:
        crops = np.stack([known_crop(each.close, each.matrix) for each in takes])
        device = self._execution_device
        latents = encode_crops(self.vae, crops, len(crops)).to(device)
        context = latent_window(encode_crops(self.vae, mask_mouth(crops), len(crops)).to(device))
        identity = self.identity_encoder(latents)
        return [replace(each, latents=latents[i:i + 1], context=context[i:i + 1], identity=identity[i:i + 1])
                for i, each in enumerate(takes)]

    def _dubbed_latents(
        self, takes: list[Take], count: int, speech: Speech, noise: torch.Tensor, sampling: Sampling, smoothing: float
    ) -> torch.Tensor:
        """Latents of the mouth's block [count, C, h, w] of those takes that have all their neighbours among them."""
        config, fps = self.denoiser.config, self.config.fps
        frames = np.array([each.frame.middle for each in takes]) * fps - 0.5
        reach = np.arange(config.viseme_window) - config.viseme_window // 2
        visemes = speech.at((frames[:, None] + reach).ravel()).visemes.reshape(len(takes), config.viseme_window, -1)
        lips = speech.at(frames).lips
        lips = torch.full((len(takes), config.lip_shape_values), float("nan")) if lips is None else torch.from_numpy(lips)
        given = {"reference": latent_window(torch.cat([each.latents for each in takes])),
                 "context": torch.cat([each.context for each in takes]), "identity": torch.cat([each.identity for each in takes])}

        def residual(visemes: np.ndarray, lips: torch.Tensor, sampling: Sampling) -> torch.Tensor:
            said = {"visemes": torch.from_numpy(visemes).to(noise), "lips": lips.to(noise)}
            return self._denoise(noise, given | said, sampling, smoothing)

        in_silence = residual(silent_windows(len(takes), config.viseme_window), 0 * lips, replace(sampling, callback=None))
        motion = residual(visemes.astype(np.float32), lips.float(), sampling) - in_silence
        margin = (len(takes) - count) // 2
        own = takes[margin:margin + count]
        parted = torch.tensor([each.parted for each in own]).to(noise)[:, None, None, None]
        moved = parted * in_silence + self._motion(motion, sampling)
        return latent_window(torch.cat([each.latents for each in own])) + config.residual_scale * moved

    def _dubbed_patches(self, takes: list[Take], latents: torch.Tensor) -> Iterator[Patch]:
        for each, block in zip(takes, latents):
            renderer = make_renderer(self.vae, each.close, each.matrix, each.latents, self.use_bfloat16)
            top, left, pixels = renderer.patch(renderer.decode(block[None], self.use_bfloat16)[0])
            yield Patch(top + each.corner[1], left + each.corner[0], pixels)


def _expected(footage: Footage, seconds: float, end: str) -> int:
    """About how many frames there will be."""
    if end == "cut" and footage.seconds:
        seconds = min(seconds, footage.seconds)
    return max(1, round(seconds * float(footage.rate)))


def _surroundings(matrix: np.ndarray, shape: tuple[int, int]) -> Rectangle:
    """The part of a picture of `shape` (height, width) that a crop, and a little more, is taken from."""
    least, most = -SURROUNDINGS * CROP_SIZE, (1 + SURROUNDINGS) * CROP_SIZE
    corners = transform_points(invert(matrix), np.array([[least, least], [most, least], [most, most], [least, most]], np.float32))
    (x0, y0), (x1, y1) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    return Rectangle(int(y0), int(y1), int(x0), int(x1)).within(Rectangle(0, shape[0], 0, shape[1]))


def _moved_origin(matrix: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """An affine [2, 3] from a picture, as one from its part that begins at `corner` (x, y)."""
    return np.column_stack([matrix[:, :2], transform_points(matrix, np.float32(corner))]).astype(np.float32)


def _steady(takes: Iterator[Take], sigma: float) -> Iterator[Take]:
    """The same, their alignments smoothed over time by a Gaussian of `sigma` frames."""
    kernel = gaussian_kernel(sigma)
    for before, (own,), after in _with_neighbours(takes, 1, len(kernel) // 2):
        near = [_moved_origin(each.matrix, (own.corner[0] - each.corner[0], own.corner[1] - each.corner[1]))
                for each in (*before, own, *after)]
        yield replace(own, matrix=np.tensordot(kernel, np.stack(near), 1).astype(np.float32))


def _chunks(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _with_neighbours(items: Iterator[Item], size: int, radius: int) -> Iterator[tuple[list[Item], list[Item], list[Item]]]:
    """Chunks of `size` items with the `radius` items before and after them; beyond the ends the first and the last are repeated."""
    before: deque[Item] = deque(maxlen=radius)
    ahead: list[Item] = []
    ended = False
    while True:
        while not ended and len(ahead) < size + radius:
            item = next(items, None)
            if item is None:
                ended = True
            else:
                ahead.append(item)
        if not ahead:
            return
        if not before:
            before.extend([ahead[0]] * radius)
        own, rest = ahead[:size], ahead[size:]
        after = rest[:radius]
        yield list(before), own, after + [(rest or own)[-1]] * (radius - len(after))
        before.extend(own)
        ahead = rest
