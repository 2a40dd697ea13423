"""What users of diffusers, datasets and Gradio hand over, as `media` understands it: a path or an array."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image

from ..errors import InvalidAudioError, InvalidImageError, InvalidInputError
from ..limits import MAX_SECONDS
from ..media.audio import AudioSource, decode_audio
from ..media.image import load_image

ImageInput: TypeAlias = str | PathLike | Image.Image | np.ndarray | torch.Tensor | bytes | BinaryIO | Mapping[str, Any]
# How dictionaries of datasets, transformers and others call samples and their rate.
_SAMPLES, _RATES = ("array", "audio", "waveform", "raw"), ("sampling_rate", "sample_rate")
AudioInput: TypeAlias = str | PathLike | tuple[np.ndarray | torch.Tensor, int] | bytes | BinaryIO | Mapping[str, Any]


def as_batch(image: ImageInput | list[ImageInput], audio: AudioInput | list[AudioInput]) -> tuple[list, list[AudioSource], bool]:
    """(portraits, recordings, whether a batch was asked for); one list or both ask for one, and so does an array [B, …] of pictures.

    Raises InvalidInputError for what is no portrait or recording, and for lists of different lengths, of which none is 1.
    """
    if isinstance(image, (np.ndarray, torch.Tensor)) and image.ndim == 4:
        image = list(image)
    batched = isinstance(image, list) or isinstance(audio, list)
    images: list[Any] = image if isinstance(image, list) else [image]
    recordings: list[Any] = audio if isinstance(audio, list) else [audio]
    if not images or not recordings or (len(images) != len(recordings) and 1 not in (len(images), len(recordings))):
        raise InvalidInputError(f"{len(images)} portraits and {len(recordings)} recordings: give as many of both, or just one of either")
    return [as_image(each) for each in images], [as_audio(each) for each in recordings], batched


def as_image(source: ImageInput) -> str | PathLike | Image.Image | np.ndarray:
    """A portrait for `load_image`.

    Beside its own kinds: a tensor [C, H, W] in [0, 1] or of uint8, a file's bytes, an open file, and an undecoded 🤗 `Image`
    ({"bytes", "path"}).
    """
    if isinstance(source, (str, PathLike, Image.Image, np.ndarray)):
        return source
    if isinstance(source, torch.Tensor):
        if source.ndim != 3 or source.shape[0] not in (1, 3, 4):
            raise InvalidImageError(f"picture tensor: shape {list(source.shape)}, expected [3, H, W]")
        return _as_array(source.movedim(0, -1))
    if isinstance(source, Mapping) and isinstance(path_or_bytes := source.get("bytes") or source.get("path"), (str, bytes)):
        return as_image(path_or_bytes)
    with _as_file(source, "picture") as path:
        if path is not None:
            return load_image(path)
    raise InvalidImageError(
        f"a portrait cannot be of type {type(source).__name__}: give a file, a PIL picture, an array or a tensor [3, H, W]")


def as_audio(source: AudioInput) -> AudioSource:
    """A recording for `load_audio`.

    Beside its own kinds: (samples, rate) with a tensor, Gradio's order (rate, samples), 🤗 `Audio` decoded ({"array", "sampling_rate"} or
    an object with `get_all_samples`) and undecoded ({"bytes", "path"}), what speech synthesis of transformers gives ({"audio",
    "sampling_rate"}), a file's bytes and an open file.
    """
    if isinstance(source, (str, PathLike)):
        return source
    if isinstance(source, Mapping):
        for names in product(_SAMPLES, _RATES):
            if all(name in source for name in names):
                return as_audio((source[names[0]], source[names[1]]))
        if isinstance(path_or_bytes := source.get("bytes") or source.get("path"), (str, bytes)):
            return as_audio(path_or_bytes)
    if callable(decode := getattr(source, "get_all_samples", None)):  # torchcodec's AudioDecoder
        decoded = decode()
        return as_audio((decoded.data, decoded.sample_rate))
    if isinstance(source, tuple) and len(source) == 2:
        samples, rate = source[::-1] if _is_rate(source[0]) else source
        if _is_rate(rate) and isinstance(samples, (np.ndarray, torch.Tensor, list)):
            return (_as_array(samples) if isinstance(samples, torch.Tensor) else np.asarray(samples)), int(rate)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        raise InvalidAudioError("samples without their sampling rate: give (samples, rate)")
    with _as_file(source, "recording") as path:
        if path is not None:
            return decode_whole(path)
    raise InvalidAudioError(f"a recording cannot be of type {type(source).__name__}: give a file, (samples, rate) or a dict of them")


def decode_whole(path: str | PathLike) -> tuple[np.ndarray, int]:
    """Samples [channels, N] and their rate; of what is too long, enough for `load_audio` to say so."""
    chunks, length, rate = [], 0, 0
    for chunk, rate in decode_audio(path):
        chunks.append(chunk)
        length += chunk.shape[1]
        if length > MAX_SECONDS * rate:
            break
    if not length:
        raise InvalidAudioError(f"{Path(path).name}: no sound could be decoded")
    return np.concatenate(chunks, axis=1), rate


def _is_rate(value: Any) -> bool:
    whole = isinstance(value, (int, np.integer)) or (isinstance(value, (float, np.floating)) and float(value).is_integer())
    return whole and not isinstance(value, bool)


def _as_array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


@contextmanager
def _as_file(source: Any, name: str) -> Iterator[Path | None]:
    """A file of that name with the bytes of `source`, for the time being; None where it is neither bytes nor an open file."""
    if isinstance(source, io.IOBase) or hasattr(source, "read"):
        source = source.read()
    if not isinstance(source, (bytes, bytearray, memoryview)):
        yield None
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(source)
        yield path
