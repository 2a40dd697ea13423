"""What a denoiser makes of true frames: what decoders are given in the product."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..face.crop import mask_mouth
from ..media.video import load_soundtrack
from ..models.conditioning import encode_crops, latent_window, viseme_windows
from ..models.precision import inference_autocast
from .manifest import Clip

if TYPE_CHECKING:
    from ..pipelines.pipeline_temposync import TempoSyncPipeline

# How a frame's latents came about; the last knows nothing of the frame but its voice, and its lips' shape where that is told.
NUM_WAYS = 4
ENCODED, MUCH_NOISE, MORE_NOISE, VOICE_ALONE = range(NUM_WAYS)
LATENT_LEVELS = 24  # of int8 a unit of normalised latents
# Int8 of a reference crop, [C, 10, 12], and of each frame in every way, [T, 4, C, 10, 12].
Latents = tuple[np.ndarray, np.ndarray]


class Voice:
    """What a pipeline hears in a driver's clip, and what its denoiser makes of frames with that voice."""

    def __init__(self, pipe: "TempoSyncPipeline", clip: Clip):
        self.pipe, self.speech = pipe, pipe._hear(load_soundtrack(clip.video))

    @torch.inference_mode()
    def latents(
        self, reference: np.ndarray, crops: np.ndarray, frames: np.ndarray, rng: np.random.Generator, lips: np.ndarray | None = None
    ) -> Latents:
        """Of a reference crop [256, 256, 3] and of crops [T, 256, 256, 3] that speak like these frames [T] of the clip.

        `lips` are the frames' true shapes, [T, 6] in units of `face.lip_shape.TYPICAL_MOTION`; without them the denoiser is told those
        that are heard.
        """
        pipe, count = self.pipe, len(crops)
        encoded = encode_crops(pipe.vae, np.concatenate([reference[None], crops, mask_mouth(reference)[None]])).float()
        context, identity = latent_window(encoded[-1:]), pipe.identity_encoder(encoded[:1].to(pipe.identity_encoder.dtype))
        window = latent_window(encoded[:-1])
        still = window[:1].expand(count, -1, -1, -1)
        config, scheduler = pipe.denoiser.config, pipe.scheduler
        frames = np.clip(frames, 0, len(self.speech) - 1)
        given = {
            "reference": still, "context": context.expand(count, -1, -1, -1), "identity": identity.float().expand(count, -1),
            "visemes": torch.from_numpy(viseme_windows(self.speech.visemes, config.viseme_window)[frames].copy()),
            "lips": torch.from_numpy((self.speech.lips[frames] if lips is None else lips).astype(np.float32))}
        residual = (window[1:] - still) / config.residual_scale
        scheduler.set_timesteps(4)
        sigmas = scheduler.sigmas.tolist()

        # Those that start with less noise join in at later steps.
        samples = torch.zeros_like(residual)
        for index, joining in enumerate((False, False, True, True)):
            samples = torch.cat([samples, residual]) if joining else samples
            noise = torch.from_numpy(rng.standard_normal((1, *samples.shape[1:]), np.float32))
            sigma, repeats = torch.tensor(sigmas[index]), len(samples) // count
            noisy = samples + sigmas[index] * noise
            with inference_autocast(noisy, pipe.use_bfloat16):
                raw = pipe.denoiser(noisy * scheduler.boundary_coefficients(sigma)[2], scheduler.timestep(sigma),
                                    **{name: torch.cat([value] * repeats) for name, value in given.items()}).sample
            samples = scheduler.pred_original(raw.float(), noisy, sigma)
        alone, more, much = samples.split(count)
        ways = [residual, much, more, alone]
        return as_int8(window[0]), as_int8(torch.stack([still + config.residual_scale * way for way in ways], 1))


def as_int8(latents: torch.Tensor) -> np.ndarray:
    return (latents.float() * LATENT_LEVELS).round().clamp(-127, 127).to(torch.int8).numpy()
