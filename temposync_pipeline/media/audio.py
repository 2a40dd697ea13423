"""Any audio file, or an array, to 16 kHz mono."""

import logging
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soxr

from ..errors import InvalidAudioError
from ..interrupts import interrupts_held
from ..limits import MAX_CHANNELS, MAX_RATE, MAX_SECONDS, MIN_RATE, MIN_SECONDS
from .channels import channel_weights
from .container import decode_frames, open_file, open_stream, promised_seconds
from .joined import sound_files

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
_MOST_PLANES = 8
# A time stamp later than this, in seconds, means that sound is missing; what is less is rounding.
_GAP_SECONDS = 0.01
# Floating-point samples: up to here (+40 dB) they were recorded too loud, above they are integers in disguise.
_LOUDEST_FLOAT, _INT16_RANGE = 100.0, 32_768.0
# Nothing that was ever a sound: such a sample must not set the scale of all the others.
_ABSURD = 2.0**32
# Lossy codecs overshoot full scale a little; not worth a word.
_OVERSHOOT = 1.1

_ARRAY_NAME = "audio array"

AudioSource = str | PathLike | tuple[np.ndarray, int]


@dataclass(frozen=True)
class Audio:
    """Speech as the models hear it.

    `samples` is float32 [N] in [-1, 1], 16 kHz mono; `duration` is the length of the source in seconds;
    `path` is None for an array.
    """

    samples: np.ndarray
    duration: float
    path: Path | None
    source_rate: int
    source_channels: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path.name if self.path else _ARRAY_NAME


def load_audio(source: AudioSource, *, max_seconds: float = MAX_SECONDS, start: Fraction | None = None) -> Audio:
    """Decode, downmix (the channels that carry voice: `channels.channel_weights`) and resample.

    `source` is a path (wav, mp3, flac, m4a, aac, ogg, opus, wma, a video's sound track, ...; any rate, any channels) or a pair
    `(samples, rate)` with samples [N], [N, channels] or [channels, N], floating point in [-1, 1] or integer.
    Samples that are not finite become silence, and so does what the time stamps show to be missing. Floating-point samples above 1 are
    scaled (`full_scale`). A truncated or damaged file yields what can be decoded. All of that is logged as a warning. The result begins
    with the first sample, or at `start` (`decode_audio`).

    Raises `InvalidAudioError` for a file that is not audio, is shorter than 0.1 s or longer than `max_seconds`, and OSError for
    one that cannot be read.
    """
    name = _name(source)
    resampler, mono, weights = None, [], np.ones(1, np.float32)
    length, rate, channels, not_finite, peak = 0, 0, 0, 0, 0.0
    for chunk, rate in decode_audio(source, start, report=True):
        if not channels and len(chunk) > 1:
            weights = channel_weights(_first_seconds(decode_audio(source, start), max_seconds))
        channels, length = max(channels, len(chunk)), length + chunk.shape[1]
        if length > max_seconds * rate:
            raise InvalidAudioError(f"{name}: longer than the limit of {max_seconds:g} s")
        not_finite += int(np.count_nonzero(~np.isfinite(chunk).all(0)))
        chunk = silence_impossible(chunk)
        peak = max(peak, float(np.abs(chunk).max(initial=0)))
        mixed = weights @ chunk if len(chunk) == len(weights) else chunk.mean(0, dtype=np.float32)
        if rate != SAMPLE_RATE:
            resampler = resampler or soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
            mixed = resampler.resample_chunk(mixed)
        mono.append(mixed)
    if not length:
        raise InvalidAudioError(f"{name}: no sound could be decoded")
    if length < MIN_SECONDS * rate:
        raise InvalidAudioError(f"{name}: {length / rate:.3f} s long, shorter than the limit of {MIN_SECONDS:g} s")
    if not_finite == length:
        raise InvalidAudioError(f"{name}: no finite sample among {length}")
    if not_finite:
        logger.warning("%s: %d samples are not finite and were silenced", name, not_finite)
    if resampler:
        mono.append(resampler.resample_chunk(np.empty(0, np.float32), last=True))
    scale = _scale_of(peak)
    if scale > _OVERSHOOT:
        logger.warning("%s: samples up to %.4g, where 1 is full scale; they were divided by %.4g", name, peak, scale)
    # The resampler's filter may overshoot full scale.
    samples = np.clip(np.concatenate(mono) / np.float32(scale), -1, 1)
    path = None if isinstance(source, tuple) else Path(source)
    return Audio(samples, length / rate, path, rate, channels)


def decode_audio(
    source: AudioSource, start: Fraction | None = None, *, report: bool = False
) -> Generator[tuple[np.ndarray, int], None, None]:
    """Chunks (float32 [channels, n], sampling rate in Hz) at the source's own rate, the same rate in every chunk.

    Samples are as decoded: they may exceed 1 and may not be finite. Gaps in the time stamps become silence. What is damaged, cut or
    missing is logged if `report` says so. `start` is a moment on the file's own clock, in seconds: sound before it is left out, and
    where the first sample comes later, silence stands before it.
    """
    if isinstance(source, tuple):
        yield _check_array(*source)
        return
    path, first_rate = Path(source), None
    with open_file(path, InvalidAudioError) as file:
        # What is asked for by the clock is a video's sound: of several in one file, pictures are read of the first one only.
        for part in [file] if start is not None else sound_files(file, path.name, report):
            for chunk in _at_rate(_decode_file(part, path.name, start, report), first_rate, path.name):
                first_rate = chunk[1]
                yield chunk


def _at_rate(chunks: Iterator[tuple[np.ndarray, int]], rate: int | None, name: str) -> Iterator[tuple[np.ndarray, int]]:
    """One file's chunks at `rate`, None = its own: that of the file that it was joined to."""
    own, resampler = None, None
    for chunk, chunk_rate in chunks:
        own = own or chunk_rate
        if chunk_rate != own:
            raise InvalidAudioError(f"{name}: the sampling rate changes from {own} to {chunk_rate} Hz")
        if rate in (None, own):
            yield chunk, own
            continue
        resampler = resampler or soxr.ResampleStream(own, rate, len(chunk), dtype="float32")
        yield resampler.resample_chunk(chunk.T).T, rate
    if resampler:
        yield resampler.resample_chunk(np.empty((0, len(chunk)), np.float32), last=True).T, rate


def _first_seconds(chunks: Iterable[tuple[np.ndarray, int]], seconds: float) -> Iterator[tuple[np.ndarray, int]]:
    """As many chunks as the limit of the length lets through, without impossible samples."""
    length = 0
    for chunk, rate in chunks:
        yield silence_impossible(chunk), rate
        length += chunk.shape[1]
        if length > seconds * rate:
            return


def full_scale(source: AudioSource) -> float:
    """What to divide the samples of `decode_audio` by: 1, or what brings floating-point samples above full scale down to it.

    That is their peak, or 32,768 where they must be 16-bit integers that were stored as floating-point numbers.
    """
    return _scale_of(max((float(np.abs(silence_impossible(chunk)).max(initial=0)) for chunk, _ in decode_audio(source)), default=0.0))


def _scale_of(peak: float) -> float:
    return _INT16_RANGE if _LOUDEST_FLOAT < peak <= _INT16_RANGE else max(1.0, peak)


def silence_impossible(chunk: np.ndarray) -> np.ndarray:
    """Zeros where a sample is not finite or absurdly large."""
    possible = np.abs(chunk) < _ABSURD
    return chunk if possible.all() else np.where(possible, chunk, np.float32(0))


def _decode_file(file: BinaryIO, name: str, start: Fraction | None, report: bool) -> Iterator[tuple[np.ndarray, int]]:
    with open_stream(file, name, InvalidAudioError) as container:
        # A stream of an unknown codec has no codec context.
        stream = next((s for s in container.streams.audio if s.codec_context is not None), None)
        if stream is None:
            raise InvalidAudioError(f"{name}: no audio in this file")
        check_format(name, stream.codec_context.sample_rate or MIN_RATE, stream.codec_context.channels or 1)
        length, rate, missing, late = 0, 0, 0, Fraction(0)
        frames = decode_frames(container, stream, name if report else "")
        head = list(islice(frames, 2))
        if start is not None and head and head[0].pts is not None:
            late = _beginning(head) - start
        if late > MAX_SECONDS:
            raise InvalidAudioError(f"{name}: the sound begins {float(late):.0f} s late, the limit is {MAX_SECONDS:g} s")
        for chunk, rate, is_gap in _begin_at(late, _by_time_stamps(chain(head, frames))):
            check_format(name, rate, len(chunk))
            length += chunk.shape[1]
            missing += is_gap * chunk.shape[1]
            yield chunk, rate
        if missing and report:
            logger.warning("%s: %.2f s of sound are missing here and there and were left silent", name, missing / rate)
        if rate and report:
            _warn_if_cut(name, container, stream, length / rate - float(late))


def _by_time_stamps(frames: Iterable[av.AudioFrame]) -> Iterator[tuple[np.ndarray, int, bool]]:
    """Samples (float32 [channels, n]), their rate, and whether they are silence that stands for lost sound.

    Counts from the first frame, whatever its time stamp: that of an mp3 does not mean silence.
    """
    place = None
    for frame in frames:
        rate, chunk = frame.sample_rate, _samples_of(frame)
        channels = len(chunk)
        if frame.pts is not None:
            stamp = round(frame.pts * frame.time_base * rate)
            if place is None or not -rate < stamp - place < MAX_SECONDS * rate:
                place = stamp  # The clock was set anew: the next file in a chain, the next hour of a broadcast.
            # Stamps that waver are no gaps: a packet at least must be missing.
            while stamp - place > max(_GAP_SECONDS * rate, frame.samples / 2):
                silence = np.zeros((channels, min(stamp - place, rate)), np.float32)
                place += silence.shape[1]
                yield silence, rate, True
            place += frame.samples
        yield to_float(chunk), rate, False


def _beginning(head: list[av.AudioFrame]) -> Fraction:
    """When the first one or two frames begin, in seconds.

    Fragmented mp4 may date the first one back to the file's beginning: the second one tells, unless a whole one is missing between them.
    """
    stamp = head[0].pts * head[0].time_base
    if len(head) == 2 and head[1].pts is not None:
        length = Fraction(head[0].samples, head[0].sample_rate)
        told = head[1].pts * head[1].time_base - length
        return told if abs(told - stamp) < length / 2 else stamp
    return stamp


def _samples_of(frame: av.AudioFrame) -> np.ndarray:
    """[channels, n].  PyAV takes the wrong number of planes of a frame that has more than 8, and reads what is none: it is packed first."""
    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels > _MOST_PLANES:
        with interrupts_held():
            frame, = av.AudioResampler(frame.format.packed.name, frame.layout, frame.sample_rate).resample(frame)
    samples = frame.to_ndarray()
    return samples if frame.format.is_planar else samples.reshape(-1, channels).T


def _begin_at(late: Fraction, chunks: Iterable[tuple[np.ndarray, int, bool]]) -> Iterator[tuple[np.ndarray, int, bool]]:
    """The chunks after `late` seconds of silence; without their first seconds where that is negative."""
    left_out = None
    for chunk, rate, is_gap in chunks:
        if left_out is None:
            left_out = round(-late * rate)
            if left_out < 0:
                yield np.zeros((len(chunk), -left_out), np.float32), rate, False
        now = min(max(left_out, 0), chunk.shape[1])
        left_out -= now
        if now < chunk.shape[1]:
            yield chunk[:, now:], rate, is_gap


def _warn_if_cut(name: str, container: av.container.InputContainer, stream: av.AudioStream, seconds: float) -> None:
    """Log what is missing, where the header tells (that of a WAV: `media.wav`)."""
    promised = promised_seconds(container, stream)
    if seconds < promised - 0.1:
        logger.warning("%s: truncated; %.2f s of the announced %.2f s could be decoded", name, seconds, promised)


def check_format(name: str, rate: int, channels: int) -> None:
    """Raises InvalidAudioError for a sampling rate in Hz or a number of channels that no sound has."""
    if not isinstance(rate, Real):
        raise InvalidAudioError(f"{name}: a sampling rate of type {type(rate).__name__}, expected a number")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise InvalidAudioError(f"{name}: sampling rate {rate} Hz, outside the limits of {MIN_RATE} to {MAX_RATE} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidAudioError(f"{name}: {channels} channels, outside the limits of 1 to {MAX_CHANNELS}")


def _check_array(samples: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    samples = np.asarray(samples)
    if samples.ndim == 3 and len(samples) == 1:  # a batch of one
        samples = samples[0]
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise InvalidAudioError(f"{_ARRAY_NAME}: {samples.dtype} {samples.shape}, expected numbers [N], [N, channels] or [channels, N]")
    samples = np.atleast_2d(samples)
    if samples.shape[0] > samples.shape[1]:
        samples = samples.T
    check_format(_ARRAY_NAME, int(rate), len(samples))
    return to_float(samples), int(rate)


def to_float(samples: np.ndarray) -> np.ndarray:
    """Integer samples to [-1, 1]; unsigned ones are centred at half of their range.

    Those of 64 bits stay as they are, as floating-point numbers: no sound has so many, they are what Python makes of a list (`full_scale`).
    """
    if samples.dtype.kind == "f" or samples.dtype.itemsize == 8:
        # Doubles beyond the range of float32 become infinite and are handled as such.
        with np.errstate(over="ignore"):
            return samples.astype(np.float32)
    exact = np.float32 if samples.dtype.itemsize <= 2 else np.float64
    half = exact(2 ** (8 * samples.dtype.itemsize - 1))
    centre = half if samples.dtype.kind == "u" else exact(0)
    return ((samples.astype(exact) - centre) / half).astype(np.float32, copy=False)


def _name(source: AudioSource) -> str:
    return _ARRAY_NAME if isinstance(source, tuple) else Path(source).name
