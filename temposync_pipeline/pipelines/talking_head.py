"""What every talking-head method needs: inputs, listening, the portrait, frames into the photo, streams and files."""

import copy
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..errors import InvalidInputError
from ..face.crop import align_matrix
from ..face.landmarks import lip_opening
from ..face.life import LifeTracks, LivingPhoto
from ..face.mouth_box import Patch
from ..face.tone import known_crop
from ..files import check_not_input
from ..media.audio import SAMPLE_RATE, Audio, AudioSource, load_audio
from ..media.image import load_image
from ..media.planes import StillPlanes
from ..media.video import VideoWriter
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.devices import execution_device
from ..models.face_aligner import FaceAligner
from ..models.lip_motion import LipMotion
from ..models.viseme_classifier import Hearing, VisemeClassifier, warn_without_speech
from ..provenance.credentials import SigningKey, choose_credentials
from ..provenance.origin import Origin
from . import live
from .face_search import find_face
from .hub import HubPipeline
from .inputs import AudioInput, ImageInput, as_audio, as_batch, as_image
from .latent_video import LatentVideo, audio_bytes, autoencoder_hash
from .live import LiveSession, Mouth
from .pipeline_output import OUTPUT_TYPES, TempoSyncBatchOutput, TempoSyncPipelineOutput, check_video_name, convert_frames
from .portrait import MAX_SIZE, Portrait, check_max_size, fit_photo, share_to_close
from .rendering import LivingRenderer, Renderer, make_renderer, rendered_part
from .sampling import RunningCalls, Sampling, StepCallback
from .settings import PipelineSettings
from .speech import Speech

logger = logging.getLogger(__name__)
# Frames that are decoded at once: more take memory, and no less time.
DECODED_TOGETHER = 8


class TalkingHeadPipeline(RunningCalls, PipelineSettings, HubPipeline):
    """Base of the pipelines: a method adds its constructor, `__call__`, `prepare_latents`, `_latent_chunks` and `_to_speech`.

    Its constructor registers `vae`, `viseme_classifier`, `lip_motion`, `face_aligner` and `scheduler`, and its `SETTINGS`, `fps` and
    `mouth_amplitude` among them, and sets `use_bfloat16`.  `options` of the methods here are further arguments of its `__call__`.

    One pipeline may be called from several threads: what changes during a call belongs to the call (`sampling`).
    """

    vae: AutoencoderTempoSync
    viseme_classifier: VisemeClassifier
    lip_motion: LipMotion | None
    face_aligner: FaceAligner
    scheduler: Any
    use_bfloat16: bool
    # Of a call that does not say.
    default_steps: int
    default_composition = "mouth"
    _callback_tensor_inputs: list[str]

    def prepare_latents(self, steps: int, generator: torch.Generator | None = None, latents: torch.Tensor | None = None) -> Any:
        """The unit noise that `_latent_chunks` starts from; `latents`, in the shape that the method says, takes the place of the first."""
        raise NotImplementedError

    def _to_speech(self, hearing: Hearing) -> Speech:
        """What the method follows of what was heard."""
        raise NotImplementedError

    def _conditions(self, crop: np.ndarray, latents: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Fields of the `Portrait` that only this method needs, of its crop uint8 [256, 256, 3] and the crop's latents [1, C, 16, 16]."""
        return {}

    def _make_videos(
        self, image: ImageInput | list[ImageInput], audio: AudioInput | list[AudioInput], sampling: Sampling,
        generator: torch.Generator | list[torch.Generator] | None, latents: torch.Tensor | None, output_type: str, return_dict: bool,
        face_index: int, max_size: int,
    ) -> TempoSyncPipelineOutput | TempoSyncBatchOutput | tuple:
        """`__call__` from its second step on."""
        images, recordings, batched = as_batch(image, audio)
        count = max(len(images), len(recordings))
        with self._running(sampling), self._returning_models():
            # 2. Listen to the recordings, find and encode the faces
            speeches = [self._hear(load_audio(recording)) for recording in recordings] * (count // len(recordings))
            portraits = [self.prepare_portrait(image, face_index, max_size, sampling.composition) for image in images]
            portraits *= count // len(images)
            recordings *= count // len(recordings)
            # 3. Prepare latents
            noises = self._noises(count, sampling.num_inference_steps, generator, latents)
            videos = []
            with self._bar(sum(map(len, speeches))) as bar:
                generators = generator if isinstance(generator, list) else [generator] * count
                for portrait, speech, recording, noise, source in zip(portraits, speeches, recordings, noises, generators):
                    if output_type != "latent":
                        portrait = self._enliven(portrait, sampling, source, speech.voice)
                    # 4. Denoise chunk by chunk, 5. decode, and put the frames into the photo
                    chunks = self._latent_chunks(portrait, speech, noise, sampling)
                    frames = self._collect(portrait, chunks, len(speech), output_type, bar)
                    video = TempoSyncPipelineOutput(
                        convert_frames(frames, output_type), speech.visemes[:len(frames)], self.config.fps, audio=recording,
                        origin=self._origin(portrait.photo, portrait.matrix))
                    if output_type == "latent":
                        video.latent_video = self._latent_video(portrait, frames, video.visemes, recording, sampling.chunk_size)
                    videos.append(video)
                    if sampling.interrupted:
                        break
        output: TempoSyncPipelineOutput | TempoSyncBatchOutput = videos[0]
        if batched:
            output = TempoSyncBatchOutput([video.frames for video in videos], [video.visemes for video in videos], self.config.fps, videos)
        return output if return_dict else (output.frames, output.visemes)

    def _noises(
        self, count: int, steps: int, generator: torch.Generator | list[torch.Generator] | None, latents: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """`prepare_latents` of `count` videos, from one generator in turn or from one each."""
        if isinstance(generator, list) and len(generator) != count:
            raise InvalidInputError(f"{len(generator)} generators for {count} videos: give one, or one each")
        if latents is not None and len(latents) not in (1, count):
            raise InvalidInputError(f"latents of {len(latents)} videos for {count}: give those of one, or of each")
        generators = generator if isinstance(generator, list) else [generator] * count
        starts = [None] * count if latents is None else latents.expand(count, *latents.shape[1:]).split(1)
        return [self.prepare_latents(steps, *each) for each in zip(generators, starts)]

    def _latent_chunks(self, portrait: Portrait, speech: Speech, noise: Any, sampling: Sampling) -> Iterator[torch.Tensor]:
        """Generated latents on the crop's full grid, [n, C, 16, 16] a chunk of `chunk_size` frames."""
        raise NotImplementedError

    def _mouth(self, portrait: Portrait, noise: Any, sampling: Sampling) -> Mouth:
        """Latents of some frames at a time, for methods whose frames need no more of the speech than what is around them."""
        raise InvalidInputError(f"{type(self).__name__} listens to a whole recording before it speaks: it cannot speak live")

    def session(
        self, image: ImageInput, num_inference_steps: int = live.STEPS, generator: torch.Generator | None = None, face_index: int = 0,
        mouth_amplitude: float | None = None, chunk_size: int = live.CHUNK_SIZE, look_ahead: int = live.LOOK_AHEAD,
        max_size: int = MAX_SIZE, **options: Any,
    ) -> LiveSession:
        """Speech as it is spoken: `push` sound into the session as it comes, and it returns frames.

        A frame comes when the sound of its chunk of `chunk_size` frames and of `look_ahead` frames more has been pushed: with the default,
        and 25 frames a second, 240 to 320 ms after its beginning, and the time it takes to make it.

        ```python
        session = pipe.session("portrait.jpg")
        for samples in microphone:  # float32 [n]
            for frame in session.push(samples, 16_000):
                show(frame.picture, frame.time)
        ```

        Raises InvalidInputError as `__call__` does, and for a method that cannot speak live.
        """
        sampling = self._sampling(num_inference_steps, chunk_size, mouth_amplitude, **options)
        return self._session(image, sampling, generator, face_index, max_size, look_ahead)

    @torch.inference_mode()
    def _session(
        self, image: ImageInput, sampling: Sampling, generator: torch.Generator | None, face_index: int, max_size: int, look_ahead: int
    ) -> LiveSession:
        portrait = self.prepare_portrait(image, face_index, max_size, sampling.composition)
        mouth = self._mouth(portrait, self.prepare_latents(sampling.num_inference_steps, generator), sampling)
        voice: deque[tuple[float, float]] = deque()
        portrait = self._enliven(portrait, sampling, generator, iter(voice.popleft, None))
        return LiveSession(
            self, portrait, mouth, sampling.chunk_size, look_ahead, voice, self._origin(portrait.photo, portrait.matrix))

    def stream(
        self, image: ImageInput, audio: AudioInput, num_inference_steps: int | None = None, generator: torch.Generator | None = None,
        face_index: int = 0, mouth_amplitude: float | None = None, chunk_size: int = 16, max_size: int = MAX_SIZE,
        look_ahead: int | None = None, **options: Any,
    ) -> Iterator[np.ndarray]:
        """The same frames as `__call__`, yielded as uint8 [n, H, W, 3], n <= `chunk_size`, while they are made.

        With `look_ahead` they are, to the bit, those of a `session` of the same arguments that is pushed the recording: no frame knows of
        sound that comes more than so many frames after its chunk.
        """
        sampling = self._sampling(num_inference_steps, chunk_size, mouth_amplitude, **options)
        if look_ahead is None:
            return self._stream(image, audio, sampling, generator, face_index, max_size)
        return self._stream_live(image, audio, sampling, generator, face_index, max_size, look_ahead)

    @torch.inference_mode()
    def _stream_live(
        self, image: ImageInput, audio: AudioInput, sampling: Sampling, generator: torch.Generator | None, face_index: int, max_size: int,
        look_ahead: int,
    ) -> Iterator[np.ndarray]:
        """`stream` with a `look_ahead`."""
        with self._returning_models():
            samples = load_audio(as_audio(audio)).samples
            session = self._session(image, sampling, generator, face_index, max_size, look_ahead)
            for start in range(0, len(samples), SAMPLE_RATE):
                yield from live.stacked(session.push(samples[start:start + SAMPLE_RATE], SAMPLE_RATE), sampling.chunk_size)
            yield from live.stacked(session.flush(), sampling.chunk_size)

    @torch.inference_mode()
    def _stream(
        self, image: ImageInput, audio: AudioInput, sampling: Sampling, generator: torch.Generator | None, face_index: int, max_size: int
    ) -> Iterator[np.ndarray]:
        """`stream` of a recording that is heard as a whole."""
        with self._returning_models():
            speech = self._hear(load_audio(as_audio(audio)))
            portrait = self.prepare_portrait(image, face_index, max_size, sampling.composition)
            noise = self.prepare_latents(sampling.num_inference_steps, generator)
            portrait = self._enliven(portrait, sampling, generator, speech.voice)
            for latents in self._latent_chunks(portrait, speech, noise, sampling):
                yield np.stack(self._render(portrait, latents))

    def generate_to_file(
        self, image_path: ImageInput, audio_path: AudioInput, output_path: str | PathLike, num_inference_steps: int | None = None,
        generator: torch.Generator | None = None, progress: bool = True, **kwargs,
    ) -> dict[str, float | str]:
        """Stream the video straight into an mp4 with the original audio; returns {"output", "frames", "fps", "seconds"}.

        Further arguments are those of `stream_to_file`.
        """
        stages = self.stream_to_file(image_path, audio_path, output_path, num_inference_steps, generator, **kwargs)
        _, count, total = next(stage for stage in stages if stage[0] == "visemes")
        with self._bar(total, progress) as bar:
            for _, count, _ in stages:
                bar.update(count - bar.n)
        return {"output": str(Path(output_path)), "frames": count, "fps": self.config.fps, "seconds": count / self.config.fps}

    @torch.inference_mode()
    def stream_to_file(
        self, image: ImageInput, audio_path: AudioInput, output_path: str | PathLike, num_inference_steps: int | None = None,
        generator: torch.Generator | None = None, face_index: int = 0, mouth_amplitude: float | None = None, chunk_size: int = 16,
        max_size: int = MAX_SIZE, provenance: bool | SigningKey = True, **options: Any,
    ) -> Iterator[tuple[str, int, int]]:
        """`generate_to_file` at the caller's pace: yields (stage just done, frames written, frames in all).

        The stages are "listening" (after every few seconds of sound), "visemes", "portrait", "frames" (after every chunk) and "video",
        the finished file. Closing the generator before its end stops the work where it is and leaves no file.

        `provenance` marks the video as generated, see `TempoSyncPipelineOutput.save`.
        """
        sampling = self._sampling(num_inference_steps, chunk_size, mouth_amplitude, **options)
        check_video_name(output_path, (".mp4",))
        check_not_input(output_path, image, audio_path)
        credentials = choose_credentials(provenance)
        audio = as_audio(audio_path)
        with self._returning_models():
            for speech in self._listen(load_audio(audio)):
                if speech is None:
                    yield "listening", 0, 0
            yield "visemes", 0, len(speech)
            portrait = self.prepare_portrait(image, face_index, max_size, sampling.composition)
            yield "portrait", 0, len(speech)
            noise = self.prepare_latents(sampling.num_inference_steps, generator)
            portrait = self._enliven(portrait, sampling, generator, speech.voice)
            origin = self._origin(portrait.photo, portrait.matrix)
            planes = StillPlanes(portrait.photo, origin.watermark() if provenance else None)
            with VideoWriter(output_path, self.config.fps, audio, origin.tags(), origin.signing(credentials)) as writer:
                for latents in self._latent_chunks(portrait, speech, noise, sampling):
                    for patch in self._patches(portrait.renderer, rendered_part(latents, portrait.composition)):
                        writer.write_planes(planes.with_change(*patch))
                    yield "frames", writer.num_frames, len(speech)
        yield "video", len(speech), len(speech)

    @torch.inference_mode()
    def prepare_portrait(
        self, image: ImageInput, face_index: int = 0, max_size: int = MAX_SIZE, composition: str | None = None
    ) -> Portrait:
        """Find the face, align it, encode it; a photo whose longer side exceeds `max_size` px (0 = never) is shrunk to it.

        `composition` (`rendering.COMPOSITIONS`) says how frames come into the photo, None = as the method does it.
        Raises FaceError where there is no such face, or none whose mouth can be seen.
        """
        check_max_size(max_size)
        name = Path(image).name if isinstance(image, (str, PathLike)) else "the picture"
        photo, face = find_face(self.face_aligner, load_image(as_image(image)), name, face_index)
        photo, landmarks = fit_photo(photo, face.landmarks, max_size, name)
        matrix = align_matrix(landmarks)
        crop = known_crop(photo, matrix)
        latents, composition = self._encode(crop), composition or self.default_composition
        return Portrait(
            landmarks=landmarks, sureness=face.confidence, photo=photo, matrix=matrix, composition=composition,
            renderer=make_renderer(self.vae, photo, matrix, latents, self.use_bfloat16, composition), latents=latents,
            parted=share_to_close(float(lip_opening(landmarks))), **self._conditions(crop, latents))

    def _origin(self, photo: np.ndarray, matrix: np.ndarray) -> Origin:
        return Origin(self.model_name, self.model_revision, photo, matrix)

    def _enliven(
        self, portrait: Portrait, sampling: Sampling, generator: torch.Generator | None, voice: Iterable[tuple[float, float]]
    ) -> Portrait:
        """The portrait with lids, brows and a head that move; `voice` is that of each frame (`Speech`).  It is drawn last from the
        generator, so that the mouth is the same with and without."""
        if not sampling.blink_rate and not sampling.head_motion:
            return portrait
        device = generator.device if generator else "cpu"
        seed = int(torch.randint(2**62, (1,), generator=generator, device=device))
        tracks = LifeTracks(seed, self.config.fps, sampling.blink_rate, sampling.head_motion)
        photo = LivingPhoto(portrait.photo, portrait.matrix, portrait.landmarks, portrait.sureness)
        if sampling.blink_rate and not photo.can_blink:
            logger.warning("the eyes are behind glasses, or not open and certain enough to blink; they stay as they are")
        return replace(portrait, renderer=LivingRenderer(portrait.renderer, photo, tracks.frames(voice)))

    def _latent_video(
        self, portrait: Portrait, latents: torch.Tensor, visemes: np.ndarray, audio: AudioSource, chunk_size: int
    ) -> LatentVideo:
        return LatentVideo(
            latents=rendered_part(latents, portrait.composition), portrait_latents=portrait.latents.cpu(), matrix=portrait.matrix,
            visemes=visemes, photo=portrait.photo, audio=audio, fps=self.config.fps, chunk_size=chunk_size,
            model=Path(self.config.get("_name_or_path") or "").name, autoencoder=autoencoder_hash(self.vae),
            composition=portrait.composition)

    @torch.inference_mode()
    def decode_latents(self, video: LatentVideo) -> Iterator[np.ndarray]:
        """Frames uint8 [n, H, W, 3], n <= `video.chunk_size`: the second half of mode E2, bit-identical to `stream` on the same machine.

        Raises InvalidInputError where the latents come from another autoencoder.
        """
        for patches in self._decoded_chunks(video):
            yield np.stack([patch.onto(video.photo) for patch in patches])

    @torch.inference_mode()
    def _decoded_chunks(self, video: LatentVideo) -> Iterator[list[Patch]]:
        """What each frame changes in the photo, a list a chunk."""
        if video.autoencoder != autoencoder_hash(self.vae):
            raise InvalidInputError(f"the latents were made with another autoencoder, that of {video.model or 'an unnamed checkpoint'}")
        with self._returning_models():
            device, dtype = self._execution_device, self.vae.dtype
            portrait_latents = video.portrait_latents.to(device, dtype)
            renderer = make_renderer(self.vae, video.photo, video.matrix, portrait_latents, self.use_bfloat16, video.composition)
            for start in range(0, len(video.latents), video.chunk_size):
                yield list(self._patches(renderer, video.latents[start:start + video.chunk_size].to(device, dtype)))

    @torch.inference_mode()
    def latents_to_file(
        self, image_path: ImageInput, audio_path: AudioInput, output_path: str | PathLike, num_inference_steps: int | None = None,
        generator: torch.Generator | None = None, progress: bool = True, face_index: int = 0, mouth_amplitude: float | None = None,
        chunk_size: int = 16, max_size: int = MAX_SIZE, **options: Any,
    ) -> dict[str, float | str]:
        """`generate_to_file` without the decoder: writes what `decode_to_file` reads."""
        sampling = self._sampling(num_inference_steps, chunk_size, mouth_amplitude, **options)
        check_not_input(output_path, image_path, audio_path)
        if sampling.blink_rate or sampling.head_motion:
            raise InvalidInputError("latents hold the mouth alone: ask for blinks and the head's motion where the video is made at once")
        audio = as_audio(audio_path)
        with self._returning_models():
            speech = self._hear(load_audio(audio))
            portrait = self.prepare_portrait(image_path, face_index, max_size, sampling.composition)
            chunks = self._latent_chunks(portrait, speech, self.prepare_latents(sampling.num_inference_steps, generator), sampling)
            with self._bar(len(speech), progress) as bar:
                latents = self._collect(portrait, chunks, len(speech), "latent", bar)
        self._latent_video(portrait, latents, speech.visemes, audio, chunk_size).save(output_path)
        count = len(latents)
        return {"output": str(Path(output_path)), "frames": count, "fps": self.config.fps, "seconds": count / self.config.fps}

    def decode_to_file(
        self, latents_path: str | PathLike, output_path: str | PathLike, provenance: bool | SigningKey = True
    ) -> dict[str, float | str]:
        """A file of `TempoSyncPipelineOutput.save_latents` to an mp4 with the original audio; returns what `generate_to_file` returns.

        `provenance` marks the video as generated, see `TempoSyncPipelineOutput.save`.
        """
        check_video_name(output_path, (".mp4",))
        check_not_input(output_path, latents_path)
        credentials = choose_credentials(provenance)
        video = LatentVideo.load(latents_path)
        with TemporaryDirectory() as folder:
            audio_path = Path(folder) / "audio"
            audio_path.write_bytes(audio_bytes(video.audio))
            load_audio(audio_path)
            origin = self._origin(video.photo, video.matrix)
            planes = StillPlanes(video.photo, origin.watermark() if provenance else None)
            with VideoWriter(output_path, video.fps, audio_path, origin.tags(), origin.signing(credentials)) as writer:
                for chunk in self._decoded_chunks(video):
                    for patch in chunk:
                        writer.write_planes(planes.with_change(*patch))
        count = len(video.latents)
        return {"output": str(Path(output_path)), "frames": count, "fps": video.fps, "seconds": count / video.fps}

    def _collect(self, portrait: Portrait, chunks: Iterator[torch.Tensor], total: int, output_type: str, bar: tqdm) -> list | torch.Tensor:
        """All frames, uint8 [H, W, 3] each, or, for output_type "latent", all latents [T, C, 16, 16]; T < `total` if interrupted."""
        # Latents of a long recording fill much memory: they go straight to where they stay.
        frames = torch.empty(total, *portrait.latents.shape[1:], dtype=portrait.latents.dtype) if output_type == "latent" else []
        done = 0
        for latents in chunks:
            if output_type == "latent":
                frames[done:done + len(latents)] = latents
            else:
                frames += self._render(portrait, latents)
            done += len(latents)
            bar.update(len(latents))
        return frames[:done]

    def _render(self, portrait: Portrait, latents: torch.Tensor) -> list[np.ndarray]:
        """Frames uint8 [H, W, 3] of latents [n, C, 16, 16]."""
        return [patch.onto(portrait.photo) for patch in self._patches(portrait.renderer, rendered_part(latents, portrait.composition))]

    def _patches(self, renderer: Renderer, latents: torch.Tensor) -> Iterator[Patch]:
        """What each frame changes in the photo, of latents [n, C, h, w] of the part that is rendered."""
        for part in latents.split(DECODED_TOGETHER):
            yield from map(renderer.patch, renderer.decode(part, self.use_bfloat16))

    def _hear(self, recording: Audio) -> Speech:
        *_, speech = self._listen(recording)
        return speech

    def _listen(self, recording: Audio) -> Iterator[Speech | None]:
        """Yields None after every few seconds of sound, and last what the lips follow."""
        count = max(1, round(recording.duration * self.config.fps))
        for hearing in self.viseme_classifier.listen(recording.samples, count, self.config.fps):
            if hearing is not None:
                warn_without_speech(recording.name, hearing.visemes)
            yield None if hearing is None else self._to_speech(hearing)

    def _hear_samples(self, samples: np.ndarray, count: int) -> Speech:
        """What the lips follow in `count` frames of samples float32 [N] at 16 kHz."""
        *_, hearing = self.viseme_classifier.listen(samples, count, self.config.fps)
        return self._to_speech(hearing)

    def _encode(self, crop: np.ndarray) -> torch.Tensor:
        """Latents [1, C, 16, 16] of a crop uint8 [256, 256, 3], where the denoiser's inputs are made."""
        pixels = torch.from_numpy(crop).permute(2, 0, 1)[None].to(execution_device(self.vae), self.vae.dtype) / 127.5 - 1
        return self.vae.encode(pixels).latent.to(self._execution_device)

    def _bar(self, total: int, shown: bool = True) -> tqdm:
        """A bar as `set_progress_bar_config` wants it; not to show one concerns this call alone."""
        settings = getattr(self, "_progress_bar_config", {}) | ({} if shown else {"disable": True})
        return tqdm(total=total, **settings)

    @contextmanager
    def _returning_models(self) -> Iterator[None]:
        """At the end, also an early one, offloaded models go back to where they wait."""
        try:
            yield
        finally:
            self.maybe_free_model_hooks()

    def _sampling(
        self, steps: int | None, chunk_size: int, mouth_amplitude: float | None = None, output_type: str = "np",
        callback: StepCallback | None = None, tensor_inputs: Sequence[str] | None = None,
    ) -> Sampling:
        """How a call samples; raises ValueError for arguments outside their limits."""
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")
        steps = self.default_steps if steps is None else steps
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"num_inference_steps must be a whole number of at least 1, got {steps!r}.")
        if not isinstance(chunk_size, int) or chunk_size < 1:
            raise ValueError(f"chunk_size must be a whole number of at least 1, got {chunk_size!r}.")
        if mouth_amplitude is not None and not 0 <= mouth_amplitude <= 3:
            raise ValueError(f"mouth_amplitude must lie in [0, 3], got {mouth_amplitude!r}.")
        tensor_inputs = getattr(callback, "tensor_inputs", tensor_inputs)  # diffusers' own callbacks say what they want
        unknown = set(tensor_inputs or []) - set(self._callback_tensor_inputs)
        if unknown:
            known = ", ".join(self._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs can only hold {known}, got {sorted(unknown)}.")
        return Sampling(
            scheduler=copy.copy(self.scheduler), num_inference_steps=steps, mouth_amplitude=mouth_amplitude, chunk_size=chunk_size,
            composition=self.default_composition, callback=callback, tensor_inputs=("latents",) if tensor_inputs is None else tensor_inputs)
