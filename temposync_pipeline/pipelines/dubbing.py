"""Dubbing: the person in a video speaks another recording, and everything else of the video stays as it is.

The film's own frames in which the mouth is at rest are the portraits that speak (`mouth_plate`), the nearest in pose each; their lips, in
the tone of the frame, come over the frame's own lips, whose chin and cheeks are moved to where the new mouth wants them.  Beside that was
tried to let every frame be the denoiser's reference: on talkers of other films than it learnt from, half of what the old lips did was left.
Lips are made at the pipeline's own rate, as for a portrait, and read between its frames at the film's moments.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..bases.packed import PackedWeights
from ..errors import FaceError, InvalidInputError
from ..face.crop import CROP_SIZE, LATENT_STRIDE, LATENT_WINDOW, align_matrix, invert, transform_points
from ..face.drawn_teeth import SHUT
from ..face.film_teeth import film_teeth
from ..face.landmarks import LOWER_INNER_LIP, UPPER_INNER_LIP, lip_opening
from ..face.lip_shape import NUM_LIP_SHAPE
from ..face.mouth_box import Patch, Rectangle
from ..face.own_teeth import UpperTeeth
from ..face.tone import known_crop
from ..face.warp import FLOW_STRIDE, PhotoWarp
from ..files import called
from ..media.audio import load_audio
from ..media.footage import ENDS, Footage, FootageFrame
from ..media.planes import arrays_of
from ..media.video import VideoWriter
from ..models.conditioning import encode_crops, gaussian_kernel, latent_window
from ..models.devices import execution_device
from ..models.identity_encoder import IdentityEncoder
from ..models.precision import inference_autocast
from ..models.visemes import NUM_VISEMES, VISEME_INDEX
from ..provenance.credentials import SigningKey, choose_credentials
from ..provenance.origin import FilmOrigin
from .ahead import ahead
from .inputs import AudioInput, as_audio
from .live import Mouth
from .mouth_plate import USUAL_REACH, Plate, Plates, lay_plate
from .person import Person
from .pipeline_output import TempoSyncPipelineOutput, check_video_name, convert_frames
from .portrait import Portrait, share_to_close
from .rendering import FLOW_GAIN, make_renderer
from .sampling import Sampling
from .speech import Speech
from .talking_head import TalkingHeadPipeline

logger = logging.getLogger(__name__)

NOTHING = np.zeros(0)
NO_FACE = ("keep", "error")
# Frames that are made together: fewer than elsewhere, as the film's pictures wait with them.
_CHUNK_SIZE = 16
# Standard deviation, in seconds, of the Gaussian that alignments are smoothed with, against the jitter of landmarks.
ALIGNMENT_SMOOTHING = 0.06
# A crop's surroundings that are kept of a picture, as a share of the crop's side.
SURROUNDINGS = 0.15
LIP = 3  # crop pixels from where lips meet to where they are looked at
# How far ahead a mouth at rest is looked for, in seconds and in frames; and frames over which one plate gives way to another.
AHEAD_SECONDS, MOST_AHEAD, FADE_FRAMES = 2.0, 64, 6

Item = TypeVar("Item")


@dataclass
class Take:
    """A frame, and if the person is to speak in it, the number of its run and where the face is.

    `close` is the picture around the face, uint8 [h, w, 3], whose first pixel lies at `corner` (x, y) of the frame; `matrix` leads from it
    to the crop, `points` are the landmarks [131, 2] in it.
    """

    frame: FootageFrame
    run: int | None = None
    close: np.ndarray = field(default_factory=lambda: NOTHING)
    corner: np.ndarray = field(default_factory=lambda: NOTHING)
    matrix: np.ndarray = field(default_factory=lambda: NOTHING)
    points: np.ndarray = field(default_factory=lambda: NOTHING)

    @property
    def landmarks(self) -> np.ndarray:
        """[131, 2] in the crop."""
        return transform_points(self.matrix, self.points)

    @property
    def opening(self) -> float:
        """Lip opening in interocular distances."""
        return float(lip_opening(self.points))


class DubbingPipeline(TalkingHeadPipeline):
    """Adds `dub` and its kin to a pipeline that moves the mouth alone and has an identity encoder."""

    identity_encoder: IdentityEncoder

    @torch.inference_mode()
    def dub(
        self, video: str | PathLike, audio: AudioInput, num_inference_steps: int | None = None, generator: torch.Generator | None = None,
        output_type: str = "pil", return_dict: bool = True, face_index: int = 0, mouth_amplitude: float | None = None, end: str = "loop",
        no_face: str = "keep", chunk_size: int = _CHUNK_SIZE,
    ) -> TempoSyncPipelineOutput | tuple:
        """The person in a video speaks a recording; all frames at once, for short videos (`dub_to_file` for any length).

        The output's `times` say when each frame appears. It ends with the recording.

        Args:
            video: a video file. audio: as for `__call__`.
            num_inference_steps, generator, mouth_amplitude: as for `__call__`. chunk_size: frames that are made together.
            output_type: "pil", "np" or "pt".
            face_index: who speaks, 0 = the largest face of the first frame that shows more than `face_index`; that person is followed
                through cuts and absences, whoever else comes in.
            end: what follows where the recording is longer than the video: "loop" = it goes on backwards, and forwards again; "freeze" =
                its last frame stays, and speaks; "cut" = the recording ends with it.
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
            frames, times, faces = [], [], []
            with self._bar(_expected(footage, sound.duration, end)) as bar:
                for take, patch in self._dubbed(footage, speech, sound.duration, noise, sampling, face_index, end, no_face):
                    picture = footage.picture(take.frame.planes)
                    frames.append(picture if patch is None else patch.onto(picture))
                    times.append(float(take.frame.appears))
                    faces.append(None if patch is None or take.run is None else (_moved_origin(take.matrix, -take.corner), take.run))
                    bar.update()
        visemes = speech.at(np.asarray(times) * self.config.fps).visemes
        output = TempoSyncPipelineOutput(
            convert_frames(frames, output_type), visemes, float(footage.rate), audio=recording, times=np.asarray(times),
            origin=FilmOrigin(self.model_name, self.model_revision, NOTHING, NOTHING, footage.path, faces))
        return output if return_dict else (output.frames, output.visemes)

    def dub_to_file(
        self, video_path: str | PathLike, audio_path: AudioInput, output_path: str | PathLike, num_inference_steps: int | None = None,
        generator: torch.Generator | None = None, progress: bool = True, **options: Any,
    ) -> dict[str, float | str]:
        """`dub` straight into an mp4 with the new sound, of the video's size, times and colours; further arguments are those of `dub`,
        and `provenance`.

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
        no_face: str = "keep", chunk_size: int = _CHUNK_SIZE, provenance: bool | SigningKey = True,
        figures: dict[str, float | str] | None = None,
    ) -> Iterator[tuple[str, int, int]]:
        """`dub_to_file` at the caller's pace: yields (stage just done, frames written, frames in all) as `stream_to_file` does; how many
        there are in all is an estimate.  What `dub_to_file` returns comes into `figures`.

        Metadata say that the video is AI-generated; `provenance` signs that, naming the film it was made from, and
        lays the watermark around the face that speaks (see `TempoSyncPipelineOutput.save`).
        """
        sampling = self._dub_sampling(num_inference_steps, chunk_size, mouth_amplitude, "np", end, no_face)
        check_video_name(output_path, (".mp4",))
        if Path(output_path).exists() and Path(output_path).samefile(video_path):
            raise InvalidInputError(f"{called(output_path)}: the output would replace the video")
        credentials = choose_credentials(provenance)
        audio, footage = as_audio(audio_path), Footage(video_path)
        sound = load_audio(audio)
        total = _expected(footage, sound.duration, end)
        with self._returning_models():
            speech = self._begin_to_hear(sound)
            for _ in speech.begin():
                yield "listening", 0, 0
            yield "visemes", 0, total
            noise = self.prepare_latents(sampling.num_inference_steps, generator)
            yield "portrait", 0, total
            dubbed = 0
            origin = FilmOrigin(self.model_name, self.model_revision, NOTHING, NOTHING, footage.path)
            mark = origin.moving_mark() if provenance else None
            made = self._dubbed(footage, speech, sound.duration, noise, sampling, face_index, end, no_face)
            writing = VideoWriter(output_path, footage.rate, audio, origin.tags(), origin.signing(credentials), footage.look,
                                  footage.tick)
            with writing as writer, closing(ahead(made, _half_chunk(sampling)) if self._can_overlap() else made) as frames:
                for take, patch in frames:
                    frame = take.frame
                    if patch is not None:
                        footage.paint(frame.planes, footage.picture(frame.planes), *patch)
                        dubbed += 1
                        if mark is not None:
                            mark.lay(arrays_of(frame.planes)[0], _moved_origin(take.matrix, -take.corner), take.run)
                    writer.write_planes(frame.planes, frame.appears, frame.stays)
                    if writer.num_frames % sampling.chunk_size == 0:
                        yield "frames", writer.num_frames, max(total, writer.num_frames)
            speech.end()
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
    ) -> Generator[tuple[Take, Patch | None], None, None]:
        """Frames in their order, each with what changes in its picture, None = nothing."""
        person, kept, count = Person(self.face_aligner, self._look_at, face_index), 0, 0
        found = self._found(footage, footage.frames(seconds, end), person, no_face)
        with closing(ahead(found, _half_chunk(sampling)) if self._can_overlap() else found) as all_takes:
            for run, takes in groupby(all_takes, key=lambda take: take.run):
                made: Iterator[tuple[Take, Patch | None]]
                if run is None:
                    made = ((take, None) for take in takes)
                else:
                    made = self._speak(takes, speech, noise, sampling, float(footage.rate))
                for pair in made:
                    count, kept = count + 1, kept + (run is None)
                    yield pair
        if not person.is_known:
            if not person.most_faces:
                part = f"the first {seconds:.1f} s of " if footage.seconds and seconds < footage.seconds - 1 / footage.rate else ""
                raise FaceError(f"No face found in {part}{footage.name}; a frontal one at least 48 pixels tall is needed.")
            most = person.most_faces
            raise FaceError(f"face_index {face_index} asked for, but no frame of {footage.name} shows more than {most} face(s).")
        if kept:
            logger.warning("%s: in %d of %d frames the mouth of who is to speak is not to be seen; they stay as they are", footage.name,
                           kept, count)

    def _found(self, footage: Footage, frames: Iterable[FootageFrame], person: Person, no_face: str) -> Generator[Take, None, None]:
        for frame in frames:
            picture = footage.picture(frame.planes)
            face = person.find(picture)
            if face is not None:
                matrix = align_matrix(face.landmarks)
                area = _surroundings(matrix, picture.shape[:2])
                corner = np.array([area.x0, area.y0], np.float32)
                yield Take(frame, person.run, area.of(picture).copy(), corner, _moved_origin(matrix, corner), face.landmarks - corner)
            elif no_face == "error":
                raise FaceError(f"{footage.name}: no face, or not that of the one who is to speak, at {float(frame.appears):.2f} s.")
            else:
                yield Take(frame)

    def _look_at(self, crop: np.ndarray) -> torch.Tensor:
        """Embedding [D] of who is in a crop uint8 [256, 256, 3]."""
        return self.identity_encoder(self._encode(crop))[0].float()

    def _speak(
        self, takes: Iterator[Take], speech: Speech, noise: torch.Tensor, sampling: Sampling, rate: float
    ) -> Iterator[tuple[Take, Patch]]:
        """What changes in each frame of a run in which one face can be followed."""
        plates = Plates(lambda take, near: self._speaking_plate(take, near, noise, sampling))
        ahead = min(MOST_AHEAD, round(AHEAD_SECONDS * rate))
        steady = _steady(takes, ALIGNMENT_SMOOTHING * rate)
        for _, own, after in _with_neighbours(steady, sampling.chunk_size, 0, ahead):
            before, plate = plates.choose(own, after)
            drawn = list(self._drawn(own, plate, speech, sampling.packed))
            if before is not None:
                drawn = _crossfaded(self._drawn(own[:FADE_FRAMES], before, speech, sampling.packed), drawn)
            yield from zip(own, drawn)

    def _speaking_plate(self, take: Take, near: Sequence[Take], noise: torch.Tensor, sampling: Sampling) -> Plate:
        """A frame of the film as a portrait, with the teeth that frames near it show."""
        crop = known_crop(take.close, take.matrix)
        latents = self._encode(crop)
        portrait = Portrait(
            photo=take.close, matrix=take.matrix, composition="mouth", latents=latents, parted=share_to_close(take.opening),
            renderer=make_renderer(self.vae, take.close, take.matrix, latents, self.use_bfloat16, landmarks=take.landmarks,
                                   teeth=_teeth_near(take, near)), **self._conditions(crop, latents))
        mouth = self._mouth(portrait, noise, sampling)
        return Plate(portrait, take.landmarks, take.opening, mouth, self._closing(portrait, take.landmarks, mouth))

    def _closing(self, portrait: Portrait, landmarks: np.ndarray, mouth: Mouth) -> float:
        """By how much the lips come nearer to each other in silence than the portrait shows them, crop pixels."""
        if not self.vae.knows_motion or portrait.parted == 0:
            return 0.0
        silence = Speech(np.eye(NUM_VISEMES, dtype=np.float32)[[VISEME_INDEX["sil"]]], np.zeros((1, NUM_LIP_SHAPE), np.float32))
        device = execution_device(self.vae)
        latents = latent_window(torch.cat([mouth(silence, range(1)), portrait.latents]))
        with inference_autocast(latents, self.use_bfloat16):
            flow, _ = self.vae.motion(latents[:1].to(device), latents[1:].to(device))
        down = FLOW_GAIN * flow[0, 1].float().cpu().numpy()
        lips = landmarks[[UPPER_INNER_LIP, LOWER_INNER_LIP]] + [[0, -LIP], [0, LIP]] - LATENT_STRIDE * np.array(LATENT_WINDOW[1::-1])
        columns, rows = np.clip((lips / FLOW_STRIDE).astype(int), 0, np.array(down.shape[::-1]) - 1).T
        upper, lower = down[rows, columns]
        return float(lower - upper)

    def _drawn(self, takes: list[Take], plate: Plate, speech: Speech, packed: PackedWeights) -> Iterator[Patch]:
        """What changes in frames when they speak with a plate's mouth."""
        moments = np.array([take.frame.middle for take in takes]) * self.config.fps - 0.5
        latents = latent_window(_read_between(lambda frames: plate.mouth(speech, frames), moments))
        renderer = plate.portrait.renderer
        with packed.in_use():
            skin, mouths = self._moved_skin(takes, latents), renderer.decode(latents, self.use_bfloat16)
        for take, picture, decoded in zip(takes, skin, mouths):
            mouth = renderer.patch(decoded).onto(plate.portrait.photo)
            reach = float(np.abs(decoded[0][..., 1]).max()) if self.vae.knows_motion else USUAL_REACH
            top, left, pixels = lay_plate(picture, take.matrix, take.landmarks, plate, mouth, reach)
            x, y = take.corner.astype(int).tolist()
            yield Patch(top + y, left + x, pixels)

    def _moved_skin(self, takes: list[Take], latents: torch.Tensor) -> list[np.ndarray]:
        """The frames' own pixels, moved to where the mouths of `latents` [n, C, h, w] want them."""
        if not self.vae.knows_motion:
            return [take.close for take in takes]
        own = latent_window(encode_crops(self.vae, np.stack([known_crop(take.close, take.matrix) for take in takes]), len(takes)))
        device = execution_device(self.vae)
        with inference_autocast(latents, self.use_bfloat16):
            flow, visibility = self.vae.motion(latents.to(device), own.to(device, latents.dtype))
        flow, visibility = (FLOW_GAIN * flow).permute(0, 2, 3, 1).cpu().numpy(), visibility[:, 0].cpu().numpy()
        # What the film's frame hides lies under the plate.
        return [PhotoWarp(take.close, take.matrix).patch(moved, seen, None).onto(take.close)
                for take, moved, seen in zip(takes, flow, visibility)]


def _teeth_near(take: Take, near: Sequence[Take]) -> UpperTeeth | None:
    """For a frame of shut lips, the upper teeth of the frame near it that shows most of them."""
    if take.opening > SHUT:
        return None
    shown = (film_teeth(other.close, other.matrix, other.landmarks, take.landmarks) for other in near if other.opening > SHUT)
    return max((teeth for teeth in shown if teeth is not None), key=lambda teeth: float(teeth.share.sum()), default=None)


def _expected(footage: Footage, seconds: float, end: str) -> int:
    """About how many frames there will be."""
    if end == "cut" and footage.seconds:
        seconds = min(seconds, footage.seconds)
    return max(1, round(seconds * float(footage.rate)))


def _half_chunk(sampling: Sampling) -> int:
    """How many frames are ahead between two stages: memory of a few more pictures."""
    return max(1, sampling.chunk_size // 2)


def _surroundings(matrix: np.ndarray, shape: tuple[int, int]) -> Rectangle:
    """The part of a picture of `shape` (height, width) that a crop, and a little more, is taken from."""
    least, most = -SURROUNDINGS * CROP_SIZE, (1 + SURROUNDINGS) * CROP_SIZE
    corners = transform_points(invert(matrix), np.array([[least, least], [most, least], [most, most], [least, most]], np.float32))
    (x0, y0), (x1, y1) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    return Rectangle(int(y0), int(y1), int(x0), int(x1)).within(Rectangle(0, shape[0], 0, shape[1]))


def _moved_origin(matrix: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """An affine [2, 3] from a picture, as one from its part that begins at `corner` (x, y)."""
    return np.column_stack([matrix[:, :2], transform_points(matrix, corner)]).astype(np.float32)


def _steady(takes: Iterator[Take], sigma: float) -> Iterator[Take]:
    """The same, their alignments smoothed over time by a Gaussian of `sigma` frames."""
    kernel = gaussian_kernel(sigma)
    for before, (own,), after in _with_neighbours(takes, 1, len(kernel) // 2, len(kernel) // 2):
        near = [_moved_origin(each.matrix, own.corner - each.corner) for each in (*before, own, *after)]
        yield replace(own, matrix=np.tensordot(kernel, np.stack(near), 1).astype(np.float32))


def _read_between(latents_of: Callable[[range], torch.Tensor], moments: np.ndarray) -> torch.Tensor:
    """Latents [n, C, h, w] at `moments` [n], counted in frames, between those of whole frames."""
    first = int(np.floor(moments.min() + 1e-6))
    whole = latents_of(range(first, int(np.ceil(moments.max() - 1e-6)) + 1))
    places = torch.from_numpy(np.clip(moments - first, 0, len(whole) - 1)).to(whole)
    before = places.floor().long()
    return torch.lerp(whole[before], whole[(before + 1).clamp(max=len(whole) - 1)], (places - before)[:, None, None, None])


def _crossfaded(before: Iterable[Patch], patches: list[Patch]) -> list[Patch]:
    """The first patches come gradually out of those before, which cover the same pixels."""
    faded = list(patches)
    earlier = list(before)
    for index, (old, new) in enumerate(zip(earlier, patches)):
        share = (index + 1) / (len(earlier) + 1)
        faded[index] = Patch(new.top, new.left, np.rint((1 - share) * old.pixels + share * new.pixels).astype(np.uint8))
    return faded


def _with_neighbours(
    items: Iterator[Item], size: int, before: int, after: int
) -> Iterator[tuple[list[Item], list[Item], list[Item]]]:
    """Chunks of `size` items with so many `before` and `after` them; beyond the ends the first and the last are repeated."""
    passed: deque[Item] = deque(maxlen=before)
    waiting: list[Item] = []
    while True:
        waiting += islice(items, size + after - len(waiting))
        if not waiting:
            return
        if not passed:
            passed.extend(before * [waiting[0]])
        own, waiting = waiting[:size], waiting[size:]
        following = waiting[:after]
        yield list(passed), own, following + (after - len(following)) * [(following or own)[-1]]
        passed.extend(own)
