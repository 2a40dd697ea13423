"""Which channels of a recording carry the voice."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from .loudness import high_pass
from .voice_activity import FRAME, SAMPLE_RATE, voiced_frames

_BLOCK_SECONDS = 30
# Channels so much alike differ in level and sign alone: asking for the voice in each would only cost time.
_ALIKE = 0.95
# A channel counts if it has voice for this share of the time that the best one has.
_ENOUGH = 0.5
# Channels cancel one another if they do so in seconds that hold this share of their power.
_CANCELLED = 0.1


def channel_weights(chunks: Iterable[tuple[np.ndarray, int]]) -> np.ndarray:
    """By what to multiply the channels before they are added, float32 [channels], of (finite samples [channels, n], rate in Hz).

    The mean of all channels in which a voice is heard, whatever their loudness: hiss, music and an empty channel are left out.  If those
    cancel one another (the right channel is the left one's inverse, if only for a while), it is the strongest of them alone.
    """
    heard, covariances = np.zeros(1), []
    for block in _blocks(chunks):
        if not block.size:
            heard = np.zeros(len(block))
            continue
        clean = np.stack([high_pass(channel) for channel in block])
        voiced = _voiced(clean)
        heard = heard + voiced.sum(1)
        spoken = np.repeat(voiced.any(0), FRAME)[:clean.shape[1]]
        for start in range(0, len(spoken), SAMPLE_RATE):
            second = clean[:, start:start + SAMPLE_RATE]
            said = second[:, spoken[start:start + SAMPLE_RATE]]
            # A trace of all the rest decides where nobody speaks.
            covariances.append(said @ said.T + 1e-6 * (second @ second.T))
    kept = heard >= _ENOUGH * heard.max()
    weights = kept / kept.sum()
    if not covariances:
        return weights.astype(np.float32)
    power = np.where(kept, np.diagonal(covariances, axis1=1, axis2=2), 0)
    # The mean of n unrelated channels has a power of 1/n of theirs.
    cancelled = weights @ covariances @ weights < 0.5 * power.sum(1) / kept.sum() ** 2
    if power[cancelled].sum() > _CANCELLED * power.sum():
        weights = np.arange(len(kept)) == power.sum(0).argmax()
    return weights.astype(np.float32)


def _voiced(clean: np.ndarray) -> np.ndarray:
    """Whether somebody speaks on each channel, bool [channels, ceil(N / 320)]."""
    level = np.sqrt(np.einsum("cn,cn->c", clean, clean)) + 1e-9
    if np.abs(clean @ clean.T / np.outer(level, level)).min() > _ALIKE:
        return np.ones((len(clean), -(-clean.shape[1] // FRAME)), bool)
    return np.stack([voiced_frames(channel) for channel in clean])


def _blocks(chunks: Iterable[tuple[np.ndarray, int]]) -> Iterator[np.ndarray]:
    """The recording in pieces of half a minute at 16 kHz, float32 [channels, n]; chunks with other channels are left out.

    One piece at least, be it one of no samples: some at 96 kHz are not yet one at 16.
    """
    resampler, parts, channels, short = None, [], 0, True
    for chunk, rate in chunks:
        channels = channels or len(chunk)
        if len(chunk) != channels:
            continue
        resampler = resampler or soxr.ResampleStream(rate, SAMPLE_RATE, channels, dtype="float32")
        parts.append(resampler.resample_chunk(np.ascontiguousarray(chunk.T)).T)
        if sum(part.shape[1] for part in parts) > _BLOCK_SECONDS * SAMPLE_RATE:
            yield np.concatenate(parts, 1)
            parts, short = [], False
    rest = [*parts, resampler.resample_chunk(np.empty((0, channels), np.float32), last=True).T]
    if short or any(part.shape[1] for part in rest):
        yield np.concatenate(rest, 1)
