"""`speech_augmentation` and `media.loudness` for whole batches of crops, in torch: on a GPU noise and rooms cost less than the network.

Sounds are float32 [B, N] at 16 kHz on the generator's device.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..media.loudness import high_pass
from .speech_augmentation import SAMPLE_RATE, music_reel

NUM_TUNES = 8


class Chance:
    """Random numbers on one device, from torch's own generator, whose state a run's checkpoint keeps."""

    def __init__(self, device: torch.device):
        self.device = device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device)

    def happens(self, probability: float, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device) < probability

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, device=self.device)


def deviation(sounds: Tensor) -> Tensor:
    """Standard deviation of each, [B, 1]; never 0."""
    return sounds.std(1, keepdim=True).clamp(min=1e-4)


def coloured_noise(count: int, length: int, exponents: Tensor, chance: Chance) -> Tensor:
    """[count, length] of unit variance, power spectrum 1 / f^exponent above 20 Hz; exponents [count, 1]."""
    bins = length // 2 + 1
    frequency = torch.arange(bins, device=chance.device).clamp(min=1 + 20 * length // SAMPLE_RATE)
    spectrum = torch.complex(chance.normal(count, bins), chance.normal(count, bins)) * frequency ** (-exponents / 2)
    noise = torch.fft.irfft(spectrum, length)
    return noise / deviation(noise)


def music_reels(device: torch.device) -> Tensor:
    """The tunes of `speech_augmentation.music`, [8, 20 s]."""
    return torch.from_numpy(np.stack([music_reel(number) for number in range(NUM_TUNES)])).to(device)


def stretches(reels: Tensor, count: int, length: int, chance: Chance) -> Tensor:
    """`count` pieces of `length` samples from anywhere in the reels [R, M]."""
    start = chance.integers(reels.shape[1] - length, count, 1) + reels.shape[1] * chance.integers(len(reels), count, 1)
    return reels.reshape(-1)[start + torch.arange(length, device=reels.device)]


def channel_responses(count: int, bins: int, chance: Chance) -> Tensor:
    """Magnitude responses to 8 kHz, [count, bins]: tilt, ripples, band limits, and missing bands (as in SpecAugment, Park 2019)."""
    frequency = torch.linspace(0, SAMPLE_RATE / 2, bins, device=chance.device)
    octave = torch.log2(frequency.clamp(min=50) / 1000)

    def draw(low: float, high: float) -> Tensor:
        return chance.uniform(low, high, count, 1)

    ripple = torch.sin(draw(0.5, 2) * octave + draw(0, 6.3))
    decibel = draw(-4, 4) * octave + draw(0, 5) * ripple
    for _ in range(2):
        near = torch.exp(-0.5 * ((octave - draw(-3, 3)) / draw(0.08, 0.35)).square())
        decibel = decibel - chance.happens(0.35, count, 1) * draw(5, 30) * near
    kind = chance.uniform(0, 1, count, 1)
    telephone = (frequency > draw(200, 350)) & (frequency < draw(3000, 3800))
    low_rate = frequency < draw(3500, 7500)
    passes = torch.where(kind < 0.15, telephone, torch.where(kind < 0.35, low_rate, True))
    return torch.where(chance.happens(0.75, count, 1), 10 ** (decibel / 20) * passes, 1.0)


def rooms(count: int, length: int, chance: Chance) -> Tensor:
    """`speech_augmentation.impulse_response` of as many rooms, [count, length]; three of five are no room at all."""
    time = torch.arange(length, device=chance.device) / SAMPLE_RATE
    reverberation = chance.uniform(0.08, 0.6, count, 1)
    tail = chance.normal(count, length) * 10 ** (-3 * time / reverberation) * (time < reverberation) * (time > 0.002)
    tail = tail / tail.norm(dim=1, keepdim=True).clamp(min=1e-9) * chance.happens(0.4, count, 1)
    tail[:, :1] = chance.uniform(0.8, 4, count, 1)
    return tail / tail.norm(dim=1, keepdim=True)


def whispered(sounds: Tensor, chance: Chance) -> Tensor:
    """`speech_augmentation.whispered`."""
    size, hop, quefrency = 512, 128, 36
    window = torch.hann_window(size, device=sounds.device)

    def spectra(values: Tensor) -> Tensor:
        return torch.stft(values, size, hop, window=window, return_complex=True, pad_mode="constant")

    cepstrum = torch.fft.irfft(torch.log(spectra(sounds).abs() + 1e-4), dim=1)
    cepstrum[:, quefrency:size - quefrency + 1] = 0
    breath = (torch.arange(size // 2 + 1, device=sounds.device) * SAMPLE_RATE / size / 900).clamp(max=1)[:, None]
    shaped = spectra(chance.normal(*sounds.shape)) * torch.exp(torch.fft.rfft(cepstrum, dim=1).real) * breath
    result = torch.istft(shaped, size, hop, window=window, length=sounds.shape[1])
    return result * deviation(sounds) / deviation(result)


def augment(sounds: Tensor, babble: Tensor, tunes: Tensor, chance: Chance, whispering: float = 0.05) -> Tensor:
    """Crops as other rooms, lines and backgrounds would give them; babble [B, N] is other people's speech, tunes `music_reels`."""
    count, length = sounds.shape
    quiet = round(whispering * count)
    if quiet:
        sounds = torch.cat([whispered(sounds[:quiet], chance), sounds[quiet:]])
    response = channel_responses(count, length + 1, chance) * torch.fft.rfft(rooms(count, length, chance), 2 * length)
    sounds = torch.fft.irfft(torch.fft.rfft(sounds, 2 * length) * response, 2 * length)[:, :length]
    level = deviation(sounds)

    def background(noise: Tensor, share: float, loudest: float, faintest: float) -> Tensor:
        gain = 10 ** (-chance.uniform(loudest, faintest, count, 1) / 20)
        return noise / deviation(noise) * level * gain * chance.happens(share, count, 1)

    noise = coloured_noise(count, length, chance.uniform(0, 2, count, 1), chance)
    return (sounds + background(noise, 0.8, 5, 45) + background(babble, 0.2, 5, 25)
            + background(stretches(tunes, count, length, chance), 0.12, 0, 25))


def normalize(sounds: Tensor) -> Tensor:
    """What `media.loudness.normalize_loudness` comes to in a crop: no rumble, all that is within 20 dB of the loudest 20 ms at -0.5 dB."""
    length = sounds.shape[1]
    impulse = np.zeros(4097, np.float32)
    impulse[2048] = 1
    kernel = torch.from_numpy(high_pass(impulse)).to(sounds.device)
    size = length + len(kernel) - 1
    clean = torch.fft.irfft(torch.fft.rfft(sounds, size) * torch.fft.rfft(kernel, size), size)[:, 2048:2048 + length]
    frames = clean[:, :length // 320 * 320].reshape(len(clean), -1, 320)
    levels = 10 * torch.log10(frames.square().mean(-1) + 1e-12)
    counted = (levels > levels.amax(1, keepdim=True) - 20).float()
    loudness = (levels * counted).sum(1, keepdim=True) / counted.sum(1, keepdim=True)
    return clean * 10 ** ((-0.5 - loudness.clamp(min=-60)) / 20)


def band_levels(sounds: Tensor, filters: Tensor, middles: Tensor, window: int) -> Tensor:
    """`viseme_crops.band_levels` around samples `middles` [frames], [B, frames, bands]; filters [257, bands]."""
    padded = F.pad(sounds, (window // 2 + 1, window // 2 + 1))
    shape = torch.hann_window(window, periodic=False, device=sounds.device)
    frames = padded[:, middles[:, None] + torch.arange(window, device=sounds.device)] * shape
    power = torch.fft.rfft(frames, 512).abs().square() @ filters
    return torch.log10(power / power.mean((1, 2), keepdim=True).clamp(min=1e-9) + 1e-4)


def playing_speeds(count: int, chance: Chance) -> Tensor:
    """[count, 1]: faster is higher, as of a shorter vocal tract; one in five as it was."""
    return torch.where(chance.happens(0.8, count, 1), torch.exp(chance.uniform(-0.22, 0.32, count, 1)), 1.0).clamp(max=math.exp(0.32))
