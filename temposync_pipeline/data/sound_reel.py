"""Recordings laid end to end on one device, from which batches of stretches are cut at any playing speed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.visemes import NUM_VISEMES
from .batched_augmentation import Chance, playing_speeds
from .viseme_labels import SAMPLE_RATE, Segment

# Samples that share a label: 5 ms.
_GRAIN = 80
_LOOKS = 8  # at a frame's labels
_MARGIN = 0.3  # seconds by which a stretch may overlap the ends of a recording


class Cuts(NamedTuple):
    """Which recordings [B], from which second [B, 1], played at which speed [B, 1]."""

    index: Tensor
    start: Tensor
    speed: Tensor


class Track:
    """Curves [T, D] that belong to recordings: value i of each stands for the time (i + offset) / rate."""

    def __init__(self, curves: Sequence[np.ndarray], rate: float, offset: float, device: torch.device):
        self.values = torch.from_numpy(np.concatenate(curves)).to(device)
        self.rate, self.offset = rate, offset
        self.counts = torch.tensor([len(item) for item in curves], device=device)
        self.firsts = self.counts.cumsum(0) - self.counts

    def at(self, index: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Curves of recordings `index` [B] at times [B, frames]: float32 [B, frames, D], and which of them lie inside [B, frames]."""
        position = seconds * self.rate - self.offset
        left, last = position.floor().long(), self.counts[index, None] - 1
        place = self.firsts[index, None] + left.clamp(min=0).minimum(last - 1)
        share = (position - left)[..., None].float()
        return (1 - share) * self.values[place] + share * self.values[place + 1], (left >= 0) & (left < last)


class SoundReel:
    """Recordings (int16 [N] at 16 kHz each) and what belongs to them; drawn in proportion to `weights`.

    segments: their visemes, or None.  tracks: curves of each, by name.
    """

    def __init__(self, recordings: Sequence[np.ndarray], weights: list[float], device: torch.device,
                 segments: list[list[Segment]] | None = None, tracks: dict[str, Track] | None = None):
        self.lengths = torch.tensor([len(item) for item in recordings], device=device)
        grains = [-(-len(item) // _GRAIN) for item in recordings]
        self.starts = torch.tensor(np.concatenate([[0], np.cumsum(grains)[:-1]]) * _GRAIN, device=device)
        padded = [np.pad(item, (0, count * _GRAIN - len(item))) for item, count in zip(recordings, grains)]
        self.samples = torch.from_numpy(np.concatenate(padded)).to(device)
        self.weights = torch.tensor(weights, dtype=torch.float64, device=device)
        if segments is not None:
            self.visemes = torch.from_numpy(np.concatenate([_grain_visemes(*item) for item in zip(segments, grains)])).to(device)
        self.tracks = tracks or {}

    def draw(self, count: int, seconds: float, chance: Chance) -> Cuts:
        """Stretches that sound for `seconds`."""
        index = torch.multinomial(self.weights, count, replacement=True)
        speed = playing_speeds(count, chance)
        room = self.lengths[index, None] / SAMPLE_RATE - seconds * speed
        earliest, latest = room.clamp(max=-_MARGIN), (room + _MARGIN).clamp(min=_MARGIN)
        return Cuts(index, earliest + (latest - earliest) * chance.uniform(0, 1, count, 1), speed)

    def sounds(self, cuts: Cuts, length: int) -> Tensor:
        """float32 [B, length] in [-1, 1]; 0 outside the recordings."""
        position = cuts.start.double() * SAMPLE_RATE + torch.arange(length, device=self.samples.device) * cuts.speed.double()
        left, last = position.floor().long(), self.lengths[cuts.index, None] - 1
        inside = (left >= 0) & (left < last)
        place = self.starts[cuts.index, None] + left.clamp(min=0).minimum(last - 1)
        share = (position - left).float()
        return ((1 - share) * self.samples[place] + share * self.samples[place + 1]) * inside / 32768

    def labels(self, cuts: Cuts, num_frames: int, offset: float, frame_seconds: float) -> Tensor:
        """Share of each viseme in each frame, [B, num_frames, 15]; silence outside the recordings."""
        looks = (torch.arange(num_frames * _LOOKS, device=self.samples.device) + 0.5) / _LOOKS * frame_seconds
        place = ((cuts.start + (offset + looks) * cuts.speed) * SAMPLE_RATE).floor().long()
        inside = (place >= 0) & (place < self.lengths[cuts.index, None])
        visemes = self.visemes[(self.starts[cuts.index, None] + place.clamp(min=0)).clamp(max=len(self.samples) - 1) // _GRAIN]
        shares = F.one_hot(torch.where(inside, visemes.long(), 0), NUM_VISEMES).float()
        return shares.reshape(len(place), num_frames, _LOOKS, NUM_VISEMES).mean(2)

    def track(self, name: str, cuts: Cuts, num_frames: int, offset: float, frame_seconds: float) -> tuple[Tensor, Tensor]:
        """A track at each frame's middle [B, num_frames, D], and which of the frames have any [B, num_frames]."""
        middles = offset + (torch.arange(num_frames, device=self.samples.device) + 0.5) * frame_seconds
        return self.tracks[name].at(cuts.index, cuts.start + middles * cuts.speed)


def _grain_visemes(segments: list[Segment], count: int) -> np.ndarray:
    """The viseme in the middle of every 5 ms, uint8 [count]; silence where there is none."""
    visemes = np.zeros(count, np.uint8)
    middles = (np.arange(count) + 0.5) * _GRAIN / SAMPLE_RATE
    for start, end, viseme in segments:
        visemes[slice(*np.searchsorted(middles, (start, end)))] = viseme
    return visemes
