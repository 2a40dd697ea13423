"""Random stretches of mouths with more speech than they need, altered so that neither a face nor a microphone can be learnt by heart."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import InvalidInputError
from ..models.sync_expert import NUM_MELS, SAMPLES_PER_FRAME, log_mel
from .speech_augmentation import coloured_noise
from .sync_corpus import SyncClip


@dataclass
class SyncBatch:
    """Latents [B, T, C, 10, 12]; the log mel spectrum [B, 4·(T + 2R), 80] from R frames before the first to R frames after the last;
    which of those frames [B, T + 2R] lie within the recording."""

    latents: torch.Tensor
    mel: torch.Tensor
    valid: torch.Tensor

    def to(self, device: torch.device) -> "SyncBatch":
        return SyncBatch(*(tensor.to(device) for tensor in vars(self).values()))


def cut_speech(samples: np.ndarray, first_frame: int, num_frames: int) -> np.ndarray:
    """Samples [640·num_frames] from video frame `first_frame` on; zeros beyond the recording's ends."""
    start, stop = first_frame * SAMPLES_PER_FRAME, (first_frame + num_frames) * SAMPLES_PER_FRAME
    inside = samples[max(start, 0):max(stop, 0)]
    before = min(max(-start, 0), stop - start)
    return np.pad(inside, (before, stop - start - before - len(inside)))


class SyncSampler:
    """Draws altered batches of `num_frames` frames from named sets of clips, each set with its weight.

    All chance comes from torch's global generator, whose state a checkpoint keeps.  Raises InvalidInputError for a set without any clip
    of that length.
    """

    def __init__(self, clips: dict[str, list[SyncClip]], weights: dict[str, float], num_frames: int, max_offset: int):
        self.clips = {name: [clip for clip in members if len(clip.latents) >= num_frames] for name, members in clips.items()}
        for name, members in self.clips.items():
            if not members:
                raise InvalidInputError(f"{name}: no clip of at least {num_frames} frames")
        self.weights, self.num_frames, self.max_offset = weights, num_frames, max_offset

    def draw(self, batch_size: int) -> SyncBatch:
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        shares = np.array(list(self.weights.values())) / sum(self.weights.values())
        names = generator.choice(list(self.weights), batch_size, p=shares)
        latents, speech, valid = zip(*(self._draw(self.clips[name], generator) for name in names))
        mel = log_mel(torch.from_numpy(np.stack(speech)))
        return SyncBatch(alter_latents(torch.stack(latents)), alter_mel(mel), torch.from_numpy(np.stack(valid)))

    def _draw(self, clips: list[SyncClip], generator: np.random.Generator) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        clip = clips[generator.integers(len(clips))]
        first = int(generator.integers(len(clip.latents) - self.num_frames + 1))
        begin, length = clip.start + first - self.max_offset, self.num_frames + 2 * self.max_offset
        frames = np.arange(begin, begin + length)
        valid = (frames >= 0) & (frames < len(clip.samples) // SAMPLES_PER_FRAME)
        speech = add_noise(cut_speech(clip.samples, begin, length), generator)
        return clip.latents[first:first + self.num_frames].float(), speech, valid


def add_noise(speech: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Two times of three with noise of some colour, 5 to 45 dB below unit variance, the loudness of a recording."""
    if generator.random() < 1 / 3:
        return speech
    noise = coloured_noise(len(speech), generator.uniform(0, 2), generator)
    return speech + noise * np.float32(10 ** (-generator.uniform(5, 45) / 20))


def alter_latents(latents: torch.Tensor, gain: float = 0.2, noise: float = 0.4, hidden: float = 0.3) -> torch.Tensor:
    """Latents [B, T, C, h, w] with, for each clip, channels scaled by 1 ± `gain`, noise of deviation up to `noise` and up to the share
    `hidden` of its cells set to zero throughout."""
    batch, _, channels, height, width = latents.shape
    latents = latents * (1 + gain * torch.randn(batch, 1, channels, 1, 1))
    # Uniform noise: normal numbers would take as long as a training step.
    latents = latents + noise * 12**0.5 * torch.rand(batch, 1, 1, 1, 1) * (torch.rand_like(latents) - 0.5)
    return latents * (torch.rand(batch, 1, 1, height, width) >= hidden * torch.rand(batch, 1, 1, 1, 1))


def alter_mel(mel: torch.Tensor) -> torch.Tensor:
    """Log mel spectra [B, N, 80] of another throat and microphone: formants moved by up to five bands (vocal tract length perturbation,
    Jaitly and Hinton 2013), a level, a tilt and ripples; up to 15 bands are lost."""
    batch, bands = len(mel), torch.arange(NUM_MELS)
    source = (bands + 10 * torch.rand(batch, 1) - 5).round().long().clamp(0, NUM_MELS - 1)
    mel = mel.gather(2, source[:, None].expand(mel.shape))
    response = 0.5 * torch.randn(batch, 1, 1) + torch.randn(batch, 1, 1) * torch.linspace(-1, 1, NUM_MELS)
    response = response + F.interpolate(0.4 * torch.randn(batch, 1, 6), NUM_MELS, mode="linear")
    first, lost = torch.randint(0, NUM_MELS, (batch, 1)), torch.randint(0, 16, (batch, 1))
    return (mel + response).masked_fill(((bands >= first) & (bands < first + lost))[:, None], -4.0)
