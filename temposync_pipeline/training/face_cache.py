"""Draws clips of whole faces from the files of `training.face_latents`."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from ..errors import InvalidInputError
from ..face.lip_shape import NUM_LIP_SHAPE
from ..models.autoencoder_temporal import FRAMES
from .face_latents import UNITS


class FaceClips(NamedTuple):
    """frames [B, C, T, 16, 16] and the reference [B, C, 16, 16] in normalised ÷16 latents; what is heard, [B, T, F]; the
    true shapes of the lips, [B, T, 6], NaN where they are not known."""

    frames: torch.Tensor
    reference: torch.Tensor
    heard: torch.Tensor
    lips: torch.Tensor


class FaceCache:
    """All sequences of a split, on one device; random numbers are torch's, on that device.

    Raises:
        InvalidInputError: the file is not there.
    """

    def __init__(self, folder: str | Path, split: str, device: str | torch.device = "cpu", talkers: float = 0.5):
        path = Path(folder) / f"faces_{split}.safetensors"
        if not path.is_file():
            raise InvalidInputError(f"{path}: no such file; python -m temposync_pipeline.training.face_latents writes it")
        self.tensors = {name: value.to(device) for name, value in load_file(path).items()}
        self.device, self.talkers = torch.device(device), talkers
        self.first, self.count, self.row = self.tensors["sequences"].unbind(1)

    @property
    def features(self) -> int:
        return self.tensors["heard"].shape[1]

    def draw(self, batch_size: int, frames: int) -> FaceClips:
        """Random windows of `frames` frames; a share `talkers` of them from sequences that are much longer than a portrait's."""
        spare = (self.count - frames + 1).clamp(min=0).float()
        if not (spare > 0).any():
            raise InvalidInputError(f"no sequence of {frames} frames")
        long = (self.count >= 6 * FRAMES).float()
        parts = [spare * kind for kind in (long, 1 - long)]
        shares = (self.talkers, 1 - self.talkers)
        weight = sum(share * part / part.sum() for share, part in zip(shares, parts) if part.sum() > 0)
        chosen = torch.multinomial(weight, batch_size, replacement=True)
        start = (torch.rand(batch_size, device=self.device) * spare[chosen]).long()
        return self.window(chosen, start, frames)

    def window(self, sequences: torch.Tensor, start: torch.Tensor, frames: int) -> FaceClips:
        """The windows of these sequences [B] that start at these frames [B] of theirs."""
        steps = torch.arange(frames, device=self.device)
        rows = (self.first[sequences] + start)[:, None] + steps
        heard = (self.row[sequences] + start)[:, None] + steps
        lips = self.tensors["lips"][heard].float() if "lips" in self.tensors else torch.full(
            (*heard.shape, NUM_LIP_SHAPE), torch.nan, device=self.device)
        return FaceClips(self.tensors["latents"][rows].float().div_(UNITS).transpose(1, 2),
                         self.tensors["references"][sequences].float().div_(UNITS), self.tensors["heard"][heard].float(), lips)

    def held_out(self, count: int, frames: int) -> FaceClips:
        """The same windows at every call, from sequences spread over the file."""
        usable = torch.nonzero(self.count >= frames).flatten()
        chosen = usable[torch.linspace(0, len(usable) - 1, min(count, len(usable)), device=self.device).long()]
        return self.window(chosen, (self.count[chosen] - frames) // 2, frames)
