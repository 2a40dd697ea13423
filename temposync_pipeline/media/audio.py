"""Any audio file, or an array, to 16 kHz mono."""

import logging
from collections.abc import Generator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import av
import numpy as np
import soxr

from ..errors import InvalidAudioError
from .container import decode_frames, open_container

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
MIN_SECONDS, MAX_SECONDS = 0.1, 900.0
# A header may claim 1 Hz, which resampling would blow up 16,000-fold, or 65,535 channels.
MIN_RATE, MAX_RATE = 4_000, 768_000
MAX_CHANNELS = 64
# Formats whose header states no length; FFmpeg guesses it from the bit rate.
_LENGTH_GUESSED = {"mp3", "aac", "amr", "mpeg", "mpegts"}

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


def load_audio(source: AudioSource, *, max_seconds: float = MAX_SECONDS) -> Audio:
    """Decode, downmix (mean of the channels) and resample.

    `source` is a path (wav, mp3, flac, m4a, aac, ogg, opus, a video's sound track, ...; any rate, any channels) or a pair
    `(samples, rate)` with samples [N], [N, channels] or [channels, N], floating point in [-1, 1] or integer.
    Samples that are not finite become silence. A truncated or damaged file yields what can be decoded and logs a warning.

    Raises `InvalidAudioError` for a file that is not audio, is shorter than 0.1 s or longer than `max_seconds`, and OSError for
    one that cannot be read.
    """
    name = _name(source)
    resampler, mono = None, []
    length, rate, channels, not_finite = 0, 0, 0, 0
    for chunk, rate in decode_audio(source):
        channels, length = max(channels, len(chunk)), length + chunk.shape[1]
        if length > max_seconds * rate:
            raise InvalidAudioError(f"{name}: longer than the limit of {max_seconds:g} s")
        finite = np.isfinite(chunk)
        if not finite.all():
            not_finite += int(np.count_nonzero(~finite.all(0)))
            chunk = np.where(finite, chunk, 0)
        mixed = np.clip(chunk, -1, 1).mean(0, dtype=np.float32)
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
    # The resampler's filter may overshoot full scale.
    samples = np.clip(np.concatenate(mono), -1, 1)
    path = None if isinstance(source, tuple) else Path(source)
    return Audio(samples, length / rate, path, rate, channels)


def decode_audio(source: AudioSource) -> Generator[tuple[np.ndarray, int], None, None]:
    """Chunks (float32 [channels, n], sampling rate in Hz) at the source's own rate, the same rate in every chunk.

    Samples are as decoded: they may exceed 1 and may not be finite.
    """
    if isinstance(source, tuple):
        yield _check_array(*source)
        return
    path = Path(source)
    with open_container(path, InvalidAudioError) as container:
        # A stream of an unknown codec has no codec context.
        stream = next((s for s in container.streams.audio if s.codec_context is not None), None)
        if stream is None:
            raise InvalidAudioError(f"{path.name}: no audio in this file")
        _check_format(path.name, stream.codec_context.sample_rate or MIN_RATE, stream.codec_context.channels or 1)
        length, first_rate = 0, None
        for frame in decode_frames(container, stream, path.name):
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            _check_format(path.name, rate, channels)
            first_rate = first_rate or rate
            if rate != first_rate:
                raise InvalidAudioError(f"{path.name}: the sampling rate changes from {first_rate} to {rate} Hz")
            chunk = frame.to_ndarray()
            if not frame.format.is_planar:
                chunk = chunk.reshape(-1, channels).T
            length += chunk.shape[1]
            yield _to_float(chunk), rate
        if first_rate:
            _warn_if_cut(path, container.format.name, stream, length / first_rate)


def _warn_if_cut(path: Path, format_name: str, stream: av.AudioStream, seconds: float) -> None:
    """Log what is missing, where the header tells."""
    if format_name == "wav":
        # FFmpeg trims the length of a cut WAV to what is there; the header says how large the file was. 0 and 2³²-1 stand for unknown.
        with open(path, "rb") as file:
            announced = int.from_bytes(file.read(8)[4:], "little") + 8
        if path.stat().st_size < announced < 2**32 - 1:
            logger.warning("%s: truncated; %d of %d bytes are there, %.2f s", path.name, path.stat().st_size, announced, seconds)
    elif stream.duration and not _LENGTH_GUESSED & set(format_name.split(",")):
        promised = float(stream.duration * stream.time_base)
        if seconds < promised - 0.1:
            logger.warning("%s: truncated; %.2f s of the announced %.2f s could be decoded", path.name, seconds, promised)


def _check_format(name: str, rate: int, channels: int) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise InvalidAudioError(f"{name}: sampling rate {rate} Hz, outside the limits of {MIN_RATE} to {MAX_RATE} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidAudioError(f"{name}: {channels} channels, outside the limits of 1 to {MAX_CHANNELS}")


def _check_array(samples: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise InvalidAudioError(f"audio array: {samples.dtype} {samples.shape}, expected numbers [N], [N, channels] or [channels, N]")
    samples = np.atleast_2d(samples)
    if samples.shape[0] > samples.shape[1]:
        samples = samples.T
    _check_format("audio array", int(rate), len(samples))
    return _to_float(samples), int(rate)


def _to_float(samples: np.ndarray) -> np.ndarray:
    """Integer samples to [-1, 1]; unsigned ones are centred at half of their range."""
    if samples.dtype.kind == "f":
        # Doubles beyond the range of float32 become infinite and are handled as such.
        with np.errstate(over="ignore"):
            return samples.astype(np.float32)
    half = float(2 ** (8 * samples.dtype.itemsize - 1))
    centre = half if samples.dtype.kind == "u" else 0.0
    return ((samples - centre) / half).astype(np.float32)


def _name(source: AudioSource) -> str:
    return "audio array" if isinstance(source, tuple) else Path(source).name
