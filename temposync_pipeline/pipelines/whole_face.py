"""What the methods have in common that make the whole face move: they follow features of the speech, and their latents are residuals."""

from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import numpy as np
import torch

from ..errors import InvalidInputError
from ..models.autoencoder_temporal import AutoencoderTemporal
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.face_aligner import FaceAligner
from ..models.lip_motion import LipMotion
from ..models.precision import has_fast_bfloat16, inference_autocast
from ..models.speech_autoencoder import SpeechAutoencoder, speech_features
from ..models.transformer_talking_head import TalkingHeadTransformer
from ..models.viseme_classifier import Hearing, VisemeClassifier
from .portrait import Portrait
from .sampling import Sampling, unit_noise
from .settings import Setting
from .speech import Speech
from .talking_head import TalkingHeadPipeline

# Unit noise, [1, c, frames, h, w]: the next piece at every call.
NoiseSource = Callable[[], torch.Tensor]
Item = TypeVar("Item")


class WholeFacePipeline(TalkingHeadPipeline):
    """Base of the pipelines with a temporal autoencoder: a method adds its constructor's signature, from which diffusers knows what to
    load, its `SETTINGS` beside those here, `__call__`, `_frames`, `latent_frames_together` and `joints`.

    Args:
        vae: picture autoencoder. temporal_vae: codes its latents over time. speech_autoencoder, transformer, viseme_classifier,
            lip_motion, face_aligner, scheduler: see their classes. settings: values of `SETTINGS`.
    """

    temporal_vae: AutoencoderTemporal
    speech_autoencoder: SpeechAutoencoder
    transformer: TalkingHeadTransformer
    SETTINGS = {"fps": Setting(25, least=25, most=25), "mouth_amplitude": Setting(1.0, most=3)}
    model_cpu_offload_seq = "face_aligner->viseme_classifier->lip_motion->speech_autoencoder->transformer->temporal_vae->vae"
    backbone = "transformer"
    default_composition = "face"
    _callback_tensor_inputs = ["latents"]
    # Whether several clips are denoised at the same time, and whether a chunk begins with the one before, decoded and encoded again.
    denoises_together = recodes_kernels = False

    def __init__(
        self, vae: AutoencoderTempoSync, temporal_vae: AutoencoderTemporal, speech_autoencoder: SpeechAutoencoder,
        transformer: TalkingHeadTransformer, viseme_classifier: VisemeClassifier, lip_motion: LipMotion, face_aligner: FaceAligner,
        scheduler: Any, **settings: float | None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae, temporal_vae=temporal_vae, speech_autoencoder=speech_autoencoder, transformer=transformer,
            viseme_classifier=viseme_classifier, lip_motion=lip_motion, face_aligner=face_aligner, scheduler=scheduler)
        self.register_settings(**settings)
        self.use_bfloat16 = has_fast_bfloat16()

    def _frames(self, reference: torch.Tensor, speech: Speech, noise: Any, sampling: Sampling) -> Iterator[torch.Tensor]:
        """Latents of consecutive frames, [n, C, 16, 16]; more of them than the speech is long do no harm."""
        raise NotImplementedError

    def _sampling(self, *arguments: Any, blink_rate: float = 0.0, head_motion: float = 0.0, **options: Any) -> Sampling:
        if blink_rate or head_motion:
            raise InvalidInputError("this model moves lids and head by itself: it has no blink_rate and no head_motion")
        return super()._sampling(*arguments, **options)

    @property
    def latent_frames_together(self) -> int:
        """Latent frames that the transformer is given at once."""
        raise NotImplementedError

    def joints(self, frames: int) -> np.ndarray:
        """Of so many video frames, those with which what is made together begins, but for the first of all."""
        raise NotImplementedError

    def _to_speech(self, hearing: Hearing) -> Speech:
        lips = self.lip_motion.predict(hearing)
        return Speech(hearing.visemes, lips, speech_features(hearing, lips))

    def _noise_source(self, frames: int, generator: torch.Generator | None, latents: torch.Tensor | None) -> NoiseSource:
        """Draws unit noise of `frames` latent frames; `latents`, of that shape, is all there is.

        Raises InvalidInputError where it has another shape.
        """
        config = self.transformer.config
        shape = (1, config.latent_channels, frames, config.sample_size, config.sample_size)
        if latents is not None and tuple(latents.shape) != shape:
            raise InvalidInputError(f"latents: {list(latents.shape)}, expected {list(shape)}, or one of them a video")

        def draw() -> torch.Tensor:
            if latents is not None:
                return latents.to(self._execution_device, torch.float32, copy=True)
            noise = unit_noise(shape, generator)
            return noise.to(self._execution_device)

        return draw

    def _computed(self, items: Iterator[Item], like: torch.Tensor) -> Iterator[Item]:
        """The items; the number format holds while one is computed, and no longer."""
        while True:
            with inference_autocast(like, self.use_bfloat16):
                item = next(items, None)
            if item is None:
                return
            yield item

    def _report(self, sampling: Sampling, step: int, levels: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """Tell the callback of a step: the latents to go on with, and whether to."""
        return sampling.report(self, step, levels, {"latents": latents})["latents"], not sampling.interrupted

    def _latent_chunks(
        self, portrait: Portrait, speech: Speech, noise: Any, sampling: Sampling
    ) -> Generator[torch.Tensor, None, None]:
        """Generated latents on the crop's full grid, [n, C, 16, 16] a chunk."""
        amplitude = self.config.mouth_amplitude if sampling.mouth_amplitude is None else sampling.mouth_amplitude
        waiting, made = portrait.latents[:0], self._frames(portrait.latents, speech, noise, sampling)
        for size in map(len, sampling.chunks(len(speech))):
            while len(waiting) < size and (frames := next(made, None)) is not None:
                moved = portrait.latents + amplitude * (frames - portrait.latents)
                waiting = torch.cat([waiting, moved.to(portrait.latents.dtype)])
            if not len(waiting):  # interrupted
                return
            yield waiting[:size]
            waiting = waiting[size:]
