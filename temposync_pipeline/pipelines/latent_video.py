"""Mode E2, hybrid: what leaves the device are latents, to be decoded later or elsewhere.

The file is safetensors, so it holds numbers and strings only and is safe to open wherever it comes from.  Version 1:

| tensor | | |
|---|---|---|
| `latents` | float32 [T, C, h, w] | generated latents of the mouth's block (`face.crop.LATENT_WINDOW`) or of the crop, one a video frame |
| `portrait_latents` | float32 [1, C, 16, 16] | the portrait's crop, encoded |
| `matrix` | float32 [2, 3] | affine from photo to crop pixels |
| `visemes` | float32 [T, 15] | the probabilities the lips followed |
| `photo` | uint8 [n] | the photo, upright RGB, as the bytes of a PNG file |
| `audio` | uint8 [n] | the recording: the bytes of a WAV (or any sound file); tags of the file it came from are left behind |

Metadata: `format` = "temposync-latents", `version` = "1", `fps`, `chunk_size` (frames decoded together: the same number rounds the
same way, so that frames are bit-identical to those decoded at once), `composition` (`rendering.COMPOSITIONS`; "mouth", that of the
mouth's block, where it is missing), `model` (the checkpoint's name), `autoencoder` (SHA-256 of its weights).
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..checkpoints.schema import check_header
from ..errors import InvalidInputError
from ..face.crop import CROP_SIZE, LATENT_WINDOW, invert
from ..files import check_is_file, plain_write_errors, whole_file
from ..limits import MAX_CHUNK_FRAMES, MAX_FPS, MAX_FRAMES, MAX_STRETCH, MAX_WEIGHT, MIN_FPS, MIN_STRETCH
from ..media.audio import AudioSource
from ..media.image import load_image
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.visemes import NUM_VISEMES
from ..terminal import shown
from .inputs import decode_whole
from .rendering import COMPOSITIONS

FORMAT, VERSION = "temposync-latents", "1"
GRID = 16
_NUMBERS = {"latents": 4, "portrait_latents": 4, "matrix": 2, "visemes": 2}
_BYTES = ("photo", "audio")


def autoencoder_hash(vae: AutoencoderTempoSync) -> str:
    """SHA-256 of an autoencoder's weights and normalisation, the same for float16 and float32 copies of the same checkpoint."""
    digest = hashlib.sha256(repr((vae.config.latents_mean, vae.config.latents_std)).encode())
    weights = vae.state_dict()
    if any(weight.is_meta for weight in weights.values()):  # offloaded
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        weights = get_state_dict_offloaded_model(vae)
    for name, weight in sorted(weights.items()):
        digest.update(name.encode() + weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass
class LatentVideo:
    """A generated video before the decoder: the tensors and metadata of the file above.

    `audio` is a path, a pair (samples, rate), or the bytes of a sound file.
    """

    latents: torch.Tensor
    portrait_latents: torch.Tensor
    matrix: np.ndarray
    visemes: np.ndarray
    photo: np.ndarray
    audio: AudioSource | bytes
    fps: float
    chunk_size: int
    model: str
    autoencoder: str
    composition: str = "mouth"

    def save(self, path: str | PathLike) -> None:
        """Write the file; under a hidden name first, so that a file of this name is always whole."""
        path = Path(path)
        picture = io.BytesIO()
        Image.fromarray(self.photo).save(picture, format="PNG")
        tensors = {
            "latents": self.latents.float().cpu().contiguous(), "portrait_latents": self.portrait_latents.float().cpu().contiguous(),
            "matrix": torch.from_numpy(np.array(self.matrix, np.float32)), "visemes": torch.from_numpy(np.array(self.visemes, np.float32)),
            "photo": _tensor_of(picture.getvalue()), "audio": _tensor_of(audio_bytes(self.audio))}
        metadata = {"format": FORMAT, "version": VERSION, "fps": str(self.fps), "chunk_size": str(self.chunk_size), "model": self.model,
                    "autoencoder": self.autoencoder, "composition": self.composition}
        with whole_file(path, ".safetensors") as temporary:
            open(temporary, "xb").close()
            permissions = temporary.stat().st_mode  # as the umask has them; safetensors would let nobody else read the file
            with plain_write_errors(path):
                save_file(tensors, temporary, metadata)
            temporary.chmod(permissions)

    @classmethod
    def load(cls, path: str | PathLike) -> "LatentVideo":
        """Read and check a file; raises InvalidInputError for anything but a whole file of this format, OSError where it cannot be read."""
        path = Path(path)
        check_is_file(path)
        check_header(path)  # a missing or unreadable file says so in the usual words
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise InvalidInputError(f"{path.name}: holds no latents of a video (no {FORMAT!r} in its metadata)")
                if metadata.get("version") != VERSION:
                    version = " ".join(str(metadata.get("version")).split())
                    raise InvalidInputError(f"{path.name}: version {version} of the format, this program reads {VERSION}")
                tensors = {name: file.get_tensor(name) for name in (*_NUMBERS, *_BYTES)}
            fps, chunk_size = _number(metadata, "fps", float), _number(metadata, "chunk_size", int)
            fps = int(fps) if fps.is_integer() else fps
            composition = metadata.get("composition", "mouth")
            _check(tensors, fps, chunk_size, composition)
        except SafetensorError as error:
            raise InvalidInputError(f"{path.name}: not a safetensors file with a video's latents, or a damaged one") from error
        except ValueError as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(f"{path.name}: damaged: {error}") from error
        photo, matrix = _read_photo(path.name, tensors["photo"]), tensors["matrix"].numpy()
        _check_place(path.name, photo, matrix)
        return cls(
            latents=tensors["latents"], portrait_latents=tensors["portrait_latents"], matrix=matrix,
            visemes=tensors["visemes"].numpy(), photo=photo, audio=tensors["audio"].numpy().tobytes(),
            fps=fps, chunk_size=chunk_size, model=metadata.get("model", ""), autoencoder=metadata.get("autoencoder", ""),
            composition=composition)


def _number(metadata: dict[str, str], name: str, kind: type) -> Any:
    """A number of the metadata; raises ValueError, in a user's words, where there is none."""
    if name not in metadata:
        raise ValueError(f"no {name} in its metadata")
    try:
        return kind(metadata[name])
    except ValueError as error:  # also of more digits than Python reads
        raise ValueError(f"the {name} {shown(metadata[name])} in its metadata is no number of use") from error


def _check(tensors: dict[str, torch.Tensor], fps: float, chunk_size: int, composition: str) -> None:
    """Raises ValueError where tensors do not fit together."""
    for name, dimensions in _NUMBERS.items():
        tensor = tensors[name]
        if tensor.dtype != torch.float32 or tensor.ndim != dimensions or not tensor.isfinite().all():
            raise ValueError(f"{name} should be finite float32 of {dimensions} dimensions")
    for name in _BYTES:
        if tensors[name].dtype != torch.uint8 or tensors[name].ndim != 1:
            raise ValueError(f"{name} should be bytes")
    frames, channels = tensors["latents"].shape[:2]
    if composition not in COMPOSITIONS:
        raise ValueError(f"a composition {composition!r} that is not known here")
    grid = LATENT_WINDOW[2:] if composition == "mouth" else (GRID, GRID)
    expected = {"latents": (max(frames, 1), channels, *grid), "portrait_latents": (1, channels, GRID, GRID), "matrix": (2, 3),
                "visemes": (frames, NUM_VISEMES)}
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} should be {list(shape)}, found {list(tensors[name].shape)}")
    for name in ("latents", "portrait_latents"):
        if (largest := float(tensors[name].abs().max())) > MAX_WEIGHT:  # a decoder would go on to infinity, which pixels do not show
            raise ValueError(f"{name} reach {largest:.3g}, above the limit of {MAX_WEIGHT:g}")
    if frames > MAX_FRAMES:
        raise ValueError(f"{frames} frames, above the limit of {MAX_FRAMES}")
    if not MIN_FPS <= fps <= MAX_FPS or not 1 <= chunk_size <= MAX_CHUNK_FRAMES:
        raise ValueError(f"{fps:g} frames a second in chunks of {chunk_size}")
    stretch = np.linalg.svd(tensors["matrix"][:, :2].double().numpy(), compute_uv=False)
    if not MIN_STRETCH <= stretch[1] <= stretch[0] <= MAX_STRETCH:
        raise ValueError(f"the alignment is degenerate: it stretches by {stretch[1]:.3g} and {stretch[0]:.3g}, "
                         f"outside the limits of {MIN_STRETCH:g} to {MAX_STRETCH:g}")


def _check_place(name: str, photo: np.ndarray, matrix: np.ndarray) -> None:
    """Raises InvalidInputError where the crop's middle lies outside the photo."""
    x, y = invert(matrix.astype(np.float64)) @ (CROP_SIZE / 2, CROP_SIZE / 2, 1)
    if not (0 <= x < photo.shape[1] and 0 <= y < photo.shape[0]):
        raise InvalidInputError(f"{name}: damaged: the alignment looks at ({x:.3g}, {y:.3g}), outside the photo")


def _tensor_of(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def audio_bytes(audio: AudioSource | bytes) -> bytes:
    """A WAV of the samples: what else a file holds, such as where it was recorded, stays behind. Bytes are as they are."""
    if isinstance(audio, bytes):
        return audio
    samples, rate = audio if isinstance(audio, tuple) else decode_whole(audio)
    samples = np.asarray(samples)
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.dtype.kind == "f":
        samples = samples.astype(np.float32)
        integers = np.rint(np.nan_to_num(32_768 * samples).clip(-32_768, 32_767)).astype(np.int16)
        if np.array_equal(integers / np.float32(32_768), samples):  # half the size, and the same
            samples = integers
    from scipy.io import wavfile

    file = io.BytesIO()
    wavfile.write(file, int(rate), samples)
    return file.getvalue()


def _read_photo(name: str, data: torch.Tensor) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and damaged tags, as in `load_image`
            with Image.open(io.BytesIO(data.numpy().tobytes()), formats=("PNG",)) as picture:
                return load_image(picture)
    except Exception as error:  # Damaged bytes make Pillow raise nearly anything.
        raise InvalidInputError(f"{name}: damaged: the photo in it cannot be read") from error
