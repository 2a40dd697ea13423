"""Moving mouths with their sound: what the sync stage learns from and is measured on.

One safetensors file a source (`training.sync_latents` writes them), with

    latents   float16 [N, C, 10, 12]  the mouth's block of every frame, clip after clip
    samples   int16   [M]             16 kHz mono, recording after recording
    clips     int64   [S, 5]          first frame, number of frames, first sample, number of samples, and the frame of the
                                      recording at which the pictures start
"""

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..models.viseme_classifier import normalize_loudness


@dataclass
class SyncClip:
    """Latents float16 [T, C, 10, 12] of consecutive frames and the recording, float32 [N] at 16 kHz, whose frame `start` is the first."""

    latents: torch.Tensor
    samples: np.ndarray
    start: int = 0


def save_corpus(clips: Iterable[SyncClip], path: str | PathLike) -> None:
    """Write clips; a recording that several of them share (the same array) is stored once."""
    latents, recordings, rows, places = [], [], [], {}
    frames = samples = 0
    for clip in clips:
        if id(clip.samples) not in places:
            places[id(clip.samples)] = samples
            recordings.append(clip.samples)
            samples += len(clip.samples)
        rows.append((frames, len(clip.latents), places[id(clip.samples)], len(clip.samples), clip.start))
        latents.append(clip.latents)
        frames += len(clip.latents)
    integers = np.rint(np.clip(np.concatenate(recordings), -1, 1) * 32767).astype(np.int16)
    save_file({"latents": torch.cat(latents), "samples": torch.from_numpy(integers), "clips": torch.tensor(rows)}, path)


def load_corpus(path: str | PathLike) -> list[SyncClip]:
    """The clips of a file, their recordings loudness-normalised."""
    tensors, recordings = load_file(path), {}
    clips = []
    for first, frames, place, length, start in tensors["clips"].tolist():
        if place not in recordings:
            recordings[place] = normalize_loudness(tensors["samples"][place:place + length].numpy() / np.float32(32768))
        clips.append(SyncClip(tensors["latents"][first:first + frames], recordings[place], start))
    return clips
