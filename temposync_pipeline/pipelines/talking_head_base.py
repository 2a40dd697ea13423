"""What every part of a talking-head pipeline needs: inputs, listening, the portrait, and frames put into the photo."""

import copy
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import startup
from ..bases import rest_weights
from ..bases.packed import PackedWeights
from ..errors import InvalidInputError
from ..face.crop import align_matrix, crop_face
from ..face.landmarks import lip_opening
from ..face.life import LifeTracks, LivingPhoto
from ..face.mouth_box import Patch
from ..face.pose import POSE_IN_CROP
from ..face.tone import known_crop
from ..media.audio import Audio
from ..media.image import load_image
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.devices import execution_device
from ..models.face_aligner import FaceAligner
from ..models.lip_motion import LipMotion
from ..models.precision import inference_autocast
from ..models.viseme_classifier import Hearing, VisemeClassifier, joined, warn_without_speech
from ..provenance.origin import Origin
from .ahead import Item, ahead, beside, threads_to_share
from .face_search import find_face
from .hub import HubPipeline
from .inputs import ImageInput, as_image
from .loading import component_classes
from .pipeline_output import OUTPUT_TYPES
from .portrait import MAX_SIZE, Portrait, check_max_size, fit_photo, share_to_close
from .rendering import LivingRenderer, Renderer, make_renderer, rendered_part
from .sampling import DECODED_TOGETHER, RunningCalls, Sampling, StepCallback
from .settings import PipelineSettings
from .speech import Speech, SpeechBeingHeard

logger = logging.getLogger(__name__)
# What makes latents [n, C, 16, 16], a chunk at a time, of what is said.
LatentsOfSpeech = Callable[[Speech], Generator[torch.Tensor, None, None]]
_MANY_FRAMES = 500  # long work: 20 seconds of a video


class TalkingHeadBase(RunningCalls, PipelineSettings, HubPipeline):
    """What a method brings, and the steps that all ways to call a pipeline share; see `TalkingHeadPipeline`."""

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

    @property
    def speech_reach(self) -> int | None:
        """How many frames on either side decide what the lips follow in one, given what was heard; None = all there are."""
        return None

    def _conditions(self, crop: np.ndarray, latents: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Fields of the `Portrait` that only this method needs, of its crop uint8 [256, 256, 3] and the crop's latents [1, C, 16, 16]."""
        return {}

    def _latent_chunks(
        self, portrait: Portrait, speech: Speech, noise: Any, sampling: Sampling
    ) -> Generator[torch.Tensor, None, None]:
        """Generated latents on the crop's full grid, [n, C, 16, 16] a chunk of `chunk_size` frames."""
        raise NotImplementedError

    @torch.inference_mode()
    def prepare_portrait(
        self, image: ImageInput, face_index: int = 0, max_size: int = MAX_SIZE, composition: str | None = None
    ) -> Portrait:
        """Find the face, align it, encode it; a photo whose longer side exceeds `max_size` px (0 = never) is shrunk to it.

        `composition` (`rendering.COMPOSITIONS`) says how frames come into the photo, None = as the method does it.
        Raises FaceError where there is no such face, or none whose mouth can be seen.
        """
        with self._beside(lambda: self._prepare_portrait(image, face_index, max_size, composition)) as prepared:
            return prepared()

    def _prepare_portrait(self, image: ImageInput, face_index: int, max_size: int, composition: str | None) -> Portrait:
        """`prepare_portrait` with the threads that this one has."""
        check_max_size(max_size)
        name = Path(image).name if isinstance(image, (str, PathLike)) else "the picture"
        photo, face = find_face(self.face_aligner, load_image(as_image(image)), name, face_index)
        photo, landmarks = fit_photo(photo, face.landmarks, max_size, name)
        matrix = align_matrix(landmarks)
        crop = known_crop(photo, matrix)
        latents, composition = self._encode(crop), composition or self.default_composition
        return Portrait(
            landmarks=landmarks, sureness=face.confidence, photo=photo, matrix=matrix, composition=composition,
            renderer=self._renderer(photo, matrix, latents, composition), latents=latents,
            parted=share_to_close(float(lip_opening(landmarks))), **self._conditions(crop, latents))

    def _renderer(self, photo: np.ndarray, matrix: np.ndarray, latents: torch.Tensor, composition: str) -> Renderer:
        """What makes frames of a photo; its landmarks are read in the crop, so that they are the same wherever the photo comes from."""
        landmarks = None
        if composition == "mouth" and self.vae.knows_inner_mouth:
            face = self.face_aligner.read_again(crop_face(photo, matrix), POSE_IN_CROP)
            landmarks = None if face is None else face.landmarks
        return make_renderer(self.vae, photo, matrix, latents, self.use_bfloat16, composition, landmarks)

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

    def _collect_latents(self, portrait: Portrait, speech: Speech, noise: Any, sampling: Sampling, bar: tqdm) -> torch.Tensor:
        """All latents, [T, C, 16, 16]; fewer than the speech has frames if interrupted."""
        # Latents of a long recording fill much memory: they go straight to where they stay.
        collected, done = torch.empty(len(speech), *portrait.latents.shape[1:], dtype=portrait.latents.dtype), 0
        for latents in self._latent_chunks(portrait, speech, noise, sampling):
            collected[done:done + len(latents)] = latents
            done += len(latents)
            bar.update(len(latents))
        return collected[:done]

    def _collect_frames(self, portrait: Portrait, speech: Speech, noise: Any, sampling: Sampling, bar: tqdm) -> list[np.ndarray]:
        """All frames, uint8 [H, W, 3] each; fewer than the speech has if interrupted."""
        frames = []
        chunks = self._latent_chunks(portrait, speech, noise, sampling)
        with closing(self._video_patches(portrait, chunks, sampling)) as patches:
            for patch in patches:
                frames.append(patch.onto(portrait.photo))
                bar.update()
        return frames

    def _video_patches(
        self, portrait: Portrait, latents: Generator[torch.Tensor, None, None], sampling: Sampling
    ) -> Generator[Patch, None, None]:
        """What each frame changes in the photo; meanwhile the next frames are decoded, and those after them denoised."""
        chunks = (rendered_part(chunk, portrait.composition) for chunk in latents)
        if sampling.callback is not None or not self._can_overlap():  # a callback is called by the thread that called the pipeline
            with closing(self._decoded(portrait.renderer, chunks, sampling.packed)) as parts:
                for part in parts:
                    yield from map(portrait.renderer.patch, part)
            return
        with threads_to_share(2) as (one, other):
            decoded = self._decoded(portrait.renderer, ahead(chunks, worker=one, alone=True), sampling.packed)
            with closing(ahead(decoded, worker=other)) as parts:
                try:
                    for part in parts:
                        yield from map(portrait.renderer.patch, part)
                except BaseException:
                    sampling.interrupted = True  # nobody waits for what is being denoised
                    raise

    def _begin_latents(self, portrait: Portrait, noise: Any, sampling: Sampling) -> LatentsOfSpeech:
        """`_latent_chunks` of a speech to come; what does not depend on it is computed at once."""
        return lambda speech: self._latent_chunks(portrait, speech, noise, sampling)

    def _prepared_beside(
        self, image: ImageInput, face_index: int, max_size: int, sampling: Sampling, generator: torch.Generator | None
    ) -> AbstractContextManager[Callable[[], tuple[Portrait, LatentsOfSpeech]]]:
        """Gives what returns the portrait and what makes its latents: prepared beside what is done in the block, where that can be."""

        def prepare() -> tuple[Portrait, LatentsOfSpeech]:
            portrait = self._prepare_portrait(image, face_index, max_size, sampling.composition)
            return portrait, self._begin_latents(portrait, self.prepare_latents(sampling.num_inference_steps, generator), sampling)

        return self._beside(prepare)

    def _beside(self, make: Callable[[], Item]) -> AbstractContextManager[Callable[[], Item]]:
        """`ahead.beside` where networks may compute at the same time, else what makes the item when it is asked.

        What of a photo decides every frame is made so wherever it is made: with another number of threads, networks round otherwise.
        """
        return beside(make) if self._can_overlap() else nullcontext(make)

    def _can_overlap(self) -> bool:
        """Whether networks may compute at the same time: where all stay on the CPU, and none is still to be compiled (`export.runtimes`),
        which does not bear another at work."""
        networks = [part for part in self.components.values() if isinstance(part, torch.nn.Module)]
        for module in (module for network in networks for module in network.modules()):
            own = vars(module)
            if "_hf_hook" in own or not getattr(own.get("forward"), "is_ready", lambda: True)():
                return False
        return all(execution_device(network).type == "cpu" for network in networks)

    def _decoded(
        self, renderer: Renderer, chunks: Generator[torch.Tensor, None, None], packed: PackedWeights
    ) -> Generator[Any, None, None]:
        """What `renderer.patch` takes of some frames at a time, of chunks of latents [n, C, h, w] of the part that is rendered."""
        with closing(chunks):
            for latents in chunks:
                for part in latents.split(DECODED_TOGETHER):
                    with packed.in_use():
                        decoded = renderer.decode(part, self.use_bfloat16)
                    yield decoded

    def _patches(self, renderer: Renderer, latents: torch.Tensor, packed: PackedWeights) -> Iterator[Patch]:
        """What each frame changes in the photo, of such latents; nothing is done ahead."""
        for part in latents.split(DECODED_TOGETHER):
            with packed.in_use():
                decoded = renderer.decode(part, self.use_bfloat16)
            yield from map(renderer.patch, decoded)

    def _hear(self, recording: Audio) -> Speech:
        """All of what the lips follow."""
        speech = self._hear_samples(recording.samples, self._count_frames(recording))
        warn_without_speech(recording.name, speech.visemes)
        return speech

    def _begin_to_hear(self, recording: Audio) -> SpeechBeingHeard:
        """What the lips follow, heard as far as it is needed."""
        count = self._count_frames(recording)
        return SpeechBeingHeard(recording.name, self._listen(recording, count), count)

    def _listen(self, recording: Audio, count: int) -> Iterator[Speech | None]:
        """What the lips follow, in pieces, as soon as the frames around are known (`speech_reach`); None where none are new."""
        heard, begin, done = None, 0, 0  # from the frame `begin` on; what it says is told up to the frame `done`
        for piece in self.viseme_classifier.listen(recording.samples, count, self.config.fps):
            heard = piece if heard is None else joined([heard, piece])
            known = begin + len(heard.visemes)
            end = known if known == count else 0 if self.speech_reach is None else known - self.speech_reach
            if end <= done:
                yield None
                continue
            yield self._to_speech(heard)[done - begin:end - begin]
            done, first = end, max(begin, end - (self.speech_reach or 0))
            heard, begin = heard[first - begin:], first

    def _count_frames(self, recording: Audio) -> int:
        return max(1, round(recording.duration * self.config.fps))

    def _hear_samples(self, samples: np.ndarray, count: int) -> Speech:
        """What the lips follow in `count` frames of samples float32 [N] at 16 kHz."""
        return self._to_speech(self.viseme_classifier.hear(samples, count, self.config.fps))

    def _encode(self, crop: np.ndarray) -> torch.Tensor:
        """Latents [1, C, 16, 16] of a crop uint8 [256, 256, 3], where the denoiser's inputs are made."""
        pixels = torch.from_numpy(crop).permute(2, 0, 1)[None].to(execution_device(self.vae), self.vae.dtype) / 127.5 - 1
        with inference_autocast(pixels, self.use_bfloat16):
            latents = self.vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latent
        return latents.to(self._execution_device, self.vae.dtype)

    def _bar(self, total: int, shown: bool = True) -> tqdm:
        """A bar as `set_progress_bar_config` wants it; not to show one concerns this call alone."""
        settings = getattr(self, "_progress_bar_config", {}) | ({} if shown else {"disable": True})
        return tqdm(total=total, **settings)

    def _make_room(self, frames: int = 0) -> None:
        """In a process that only makes videos, networks that have done their part make room; what is used again comes back by itself.

        So many `frames` are to be made now.
        """
        if startup.lean and self.runtime == "torch":  # another one may still have to compile them
            rest_weights(self.components.values())
            startup.give_back()
        if startup.lean and frames > _MANY_FRAMES:
            startup.expect_long_work()

    def _check_parts(self) -> None:
        """Raises InvalidInputError where a component is missing, or not of its kind."""
        for name, kind in component_classes(type(self)).items():
            part = getattr(self, name)
            part = getattr(part, "_orig_mod", part)  # of what torch.compile wraps
            if not (isinstance(part, kind) or part is None and name in self._optional_components):
                found = "missing" if part is None else f"a {type(part).__name__}, expected a {kind.__name__}"
                raise InvalidInputError(f"{name}: {found}")

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
        """How a call samples; raises InvalidInputError for arguments outside their limits, and for a pipeline that cannot sample."""
        self._check_parts()
        if output_type not in OUTPUT_TYPES:
            raise InvalidInputError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")
        steps = self.default_steps if steps is None else steps
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise InvalidInputError(f"num_inference_steps must be a whole number of at least 1, got {steps!r}.")
        if not isinstance(chunk_size, int) or chunk_size < 1:
            raise InvalidInputError(f"chunk_size must be a whole number of at least 1, got {chunk_size!r}.")
        if mouth_amplitude is not None and not (isinstance(mouth_amplitude, Real) and 0 <= mouth_amplitude <= 3):
            raise InvalidInputError(f"mouth_amplitude must lie in [0, 3], got {mouth_amplitude!r}.")
        tensor_inputs = getattr(callback, "tensor_inputs", tensor_inputs)  # diffusers' own callbacks say what they want
        unknown = set(tensor_inputs or []) - set(self._callback_tensor_inputs)
        if unknown:
            known = ", ".join(self._callback_tensor_inputs)
            raise InvalidInputError(f"callback_on_step_end_tensor_inputs can only hold {known}, got {sorted(unknown)}.")
        return Sampling(
            scheduler=copy.copy(self.scheduler), num_inference_steps=steps, mouth_amplitude=mouth_amplitude, chunk_size=chunk_size,
            composition=self.default_composition, callback=callback, tensor_inputs=("latents",) if tensor_inputs is None else tensor_inputs)
