"""TempoSync's mouth: what the denoiser makes of speech, as latents of the portrait's crop (algorithm 3 of arXiv 2603.06057)."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ..face.lip_shape import NUM_LIP_SHAPE
from ..models.conditioning import (
    latent_window,
    quiet_faint_motion,
    silent_windows,
    smooth_latents,
    smoothing_reach,
    smoothing_stride,
    viseme_windows,
)
from ..models.precision import inference_autocast
from .portrait import Portrait
from .sampling import Sampling, Tensors
from .speech import Speech

if TYPE_CHECKING:
    from .pipeline_temposync import TempoSyncPipeline


class _Early(NamedTuple):
    """What all steps but the last made of some frames of a speech: latents [n, C, h, w] for the last one, and the estimates in them."""

    speech: Speech
    frames: range
    latents: torch.Tensor
    estimates: torch.Tensor


class SpeakingMouth:
    """Makes latents [n, C, 16, 16] of a portrait's crop, of n frames of a speech at a time.

    Motion counts from the mouth's shape in silence.  That of a closed mouth is the photo's own, to the pixel; only lips that the photo
    shows parted are closed by the denoiser first.

    Where latents are smoothed over time, steps before the last do not need every frame; and of three or more the first, whose noise of
    σ_max drowns what it is told, is taken once, in silence.

    Args:
        pipeline: whose networks and settings these are. portrait: who speaks.
        noise: unit noise of every step, [steps, 1, C, h, w]. sampling: of the call.
    """

    def __init__(self, pipeline: "TempoSyncPipeline", portrait: Portrait, noise: torch.Tensor, sampling: Sampling):
        self._pipeline, self._portrait, self._noise, self._sampling = pipeline, portrait, noise, sampling
        self._sigma, self._radius = pipeline.config.latent_smoothing, _smoothing_radius(pipeline, len(noise))
        self._early: _Early | None = None
        self._first: tuple[torch.Tensor, torch.Tensor] | None = None
        config = pipeline.denoiser.config
        self._neighbours = config.viseme_window // 2
        wanted = pipeline.config.mouth_amplitude if sampling.mouth_amplitude is None else sampling.mouth_amplitude
        self._amplitude = config.motion_scale * wanted
        silence = silent_windows(1, config.viseme_window)
        at_rest = None if pipeline.lip_motion is None else np.zeros((1, NUM_LIP_SHAPE), np.float32)
        given, quiet = self._given(silence, at_rest), replace(sampling, callback=None)
        # In silence frames are all the same: a smoothed estimate is any one's.
        latents, estimates, _ = self._take_steps(range(1), self._noisy(given), given, quiet)
        if self._radius and len(noise) > 2:
            self._first = latents, estimates
        self._in_silence = self._take_steps(range(1, len(noise)), latents, given, quiet)[0]

    def __call__(self, speech: Speech, frames: range) -> torch.Tensor:
        motion = self._residual(speech, frames) - self._in_silence
        # Whole: it does not change over time, and without its faint parts lips stay ajar.
        closing = self._portrait.parted * self._in_silence
        moved = closing + self._amplitude * quiet_faint_motion(motion, self._pipeline.config.motion_floor)
        latents = self._portrait.latents.repeat(len(moved), 1, 1, 1)
        latent_window(latents).add_(self._pipeline.denoiser.config.residual_scale * moved)
        return latents

    def _given(self, windows: np.ndarray, lips: np.ndarray | None) -> Tensors:
        """What the denoiser is given of n frames, with viseme windows [n, k, 15] and lips [n, 6], None = not known."""
        portrait, count = self._portrait, len(windows)
        if lips is None:
            lips = np.full((count, NUM_LIP_SHAPE), np.nan, np.float32)
        reference, context, identity, visemes, told = (part.to(self._noise) for part in (
            latent_window(portrait.latents), portrait.context, portrait.identity, torch.from_numpy(windows.copy()), torch.from_numpy(lips)))
        return {"reference": reference.expand(count, -1, -1, -1), "context": context.expand(count, -1, -1, -1), "visemes": visemes,
                "lips": told, "identity": identity.expand(count, -1)}

    def _residual(self, speech: Speech, frames: range) -> torch.Tensor:
        """Clean residual in units of its standard deviation, [n, C, h, w]."""
        near = speech.around(frames, self._radius + self._neighbours)
        own = slice(self._neighbours, len(near) - self._neighbours)
        windows = viseme_windows(near.visemes, self._pipeline.denoiser.config.viseme_window)[own]
        given = self._given(windows, None if near.lips is None else near.lips[own])
        return self._denoise_together(speech, frames, given) if self._radius else self._denoise(given)

    def _denoise(self, given: Tensors) -> torch.Tensor:
        """All steps, of frames that know nothing of each other."""
        latents, estimates, _ = self._take_steps(range(len(self._noise)), self._noisy(given), given, self._sampling)
        return estimates if self._sampling.interrupted else latents

    def _denoise_together(self, speech: Speech, frames: range, given: Tensors) -> torch.Tensor:
        """All steps, the last of which begins with the mean of a frame's estimate and its neighbours', of which `given` is, too.

        Until then some frames are enough: the same ones, whatever the chunks.
        """
        stride, first = smoothing_stride(self._sigma), frames.start - self._radius
        wanted = range(first + -first % stride, frames.stop + self._radius, stride)
        taken = {name: value[wanted.start - first::stride] for name, value in given.items()}
        early, changed = self._take_early_steps(speech, wanted, taken)
        if self._sampling.interrupted:
            return smooth_latents(early.estimates, wanted, frames, self._sigma)
        # The scheduler gave all frames the same noise: this averages the estimates and leaves the noise as it is.
        latents = smooth_latents(early.latents, wanted, frames, self._sigma)
        before = [(frame - wanted.start) // stride for frame in frames]  # what a callback changed goes on for the frames between, too
        given = {name: changed[name][before] if name in changed else value[self._radius:-self._radius] for name, value in given.items()}
        last = len(self._noise) - 1
        latents, estimates, _ = self._take_steps(range(last, last + 1), latents, given, self._sampling)
        return estimates if self._sampling.interrupted else latents

    def _take_early_steps(self, speech: Speech, frames: range, given: Tensors) -> tuple[_Early, Tensors]:
        """All steps but the last, of those frames for which the call before has not taken them; and what of `given` a callback changed."""
        known = self._known(speech, frames)
        given = {name: value[known:] for name, value in given.items()}
        latents = estimates = self._noisy(given)
        after = {}
        if known < len(frames):
            own = {name: value.clone() for name, value in given.items()}  # a callback may write into them
            latents, estimates, after = self._take_steps(range(len(self._noise) - 1), latents, own, self._sampling)
        if known:
            latents, estimates = torch.cat([self._early.latents[-known:], latents]), torch.cat([self._early.estimates[-known:], estimates])
        self._early = _Early(speech, frames, latents, estimates)
        return self._early, {name: value for name, value in after.items() if not _same(value, given[name])}

    def _known(self, speech: Speech, frames: range) -> int:
        """How many of the first `frames` the last call knows. A callback is to see them all."""
        early = self._early
        if self._sampling.callback is not None or early is None or early.speech is not speech or frames.start not in early.frames:
            return 0
        shared = len(early.frames) - early.frames.index(frames.start)
        return shared if shared <= len(frames) else 0

    def _noisy(self, given: Tensors) -> torch.Tensor:
        """What the first step begins with, the same noise for all of n frames, [n, C, h, w]."""
        return (self._noise[0] * self._sampling.scheduler.init_noise_sigma).expand_as(given["reference"])

    def _take_steps(
        self, steps: range, latents: torch.Tensor, given: Tensors, sampling: Sampling
    ) -> tuple[torch.Tensor, torch.Tensor, Tensors]:
        """Latents after some of the steps, the clean estimates in them, and `given` as a callback has left it."""
        scheduler, noise, estimates = sampling.scheduler, self._noise, latents
        scheduler.set_timesteps(len(noise), device=noise.device)
        for index in steps:
            timestep = scheduler.timesteps[index]
            if index == 0 and self._first is not None:
                latents, estimates = (shared.expand_as(latents) for shared in self._first)
            else:
                with sampling.packed.in_use(), inference_autocast(latents, self._pipeline.use_bfloat16):
                    raw = self._pipeline.denoiser(scheduler.scale_model_input(latents, timestep), timestep, **given).sample
                # After the last step comes level 0, where noise counts for nothing.
                latents, estimates = scheduler.step(
                    raw.to(latents.dtype), timestep, latents, noise=noise[(index + 1) % len(noise)], return_dict=False)
            given = sampling.report(self._pipeline, index, timestep, given | {"latents": latents})
            latents = given.pop("latents")
            if sampling.interrupted:
                break
        return latents, estimates, given


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether they hold the same numbers; lips of which nothing is known are NaN."""
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _smoothing_radius(pipeline: "TempoSyncPipeline", steps: int) -> int:
    """Neighbours on either side that `latent_smoothing` asks for.

    A single step has no estimate to smooth; the teacher's many steps end so near to clean latents that it would smooth the motion.
    """
    few = steps > 1 and pipeline.scheduler.config.prediction == "consistency"
    return smoothing_reach(pipeline.config.latent_smoothing) if few else 0
