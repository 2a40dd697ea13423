"""Latents of every training frame, encoded once: what the denoiser stages draw their batches from.

One safetensors file a source (talkers, portraits), with

    latents        float16 [N, C, 16, 16]  aligned crops, sequence after sequence
    context        float16 [M, C, 16, 16]  the same with the mouth painted out
    context_index  int64   [N]             which context belongs to a frame (a retargeted portrait has one for all frames)
    visemes        float16 [N, 11, 15]     probabilities of the frame and its neighbours
    lips           float32 [N, 6]          shape of the lips (`face.lip_shape`, in units of TYPICAL_MOTION) that the frame was filmed or
                                           drawn with, NaN where it is not known
    mel            float16 [N, 4, 80]      what is heard during the frame (`frame_mel`); only where every frame is kept
    opening        float32 [N]             lip opening in interocular distances, NaN where it is not known
    sequences      int64   [S, 4]          first target frame, number of targets, first reference frame, number of references, in the
                                           order of the frames; a sequence that stands there twice is drawn twice as often
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ..data.sync_sampler import cut_speech
from ..face.crop import mask_mouth, mouth_mask
from ..face.landmarks import CLOSED_OPENING
from ..face.lip_shape import NUM_LIP_SHAPE
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.conditioning import encode_crops, latent_window
from ..models.precision import has_fast_bfloat16
from ..models.sync_expert import log_mel
from ..models.viseme_classifier import normalize_loudness
from ..models.visemes import VISEME_INDEX

# Crop rows and columns within which the lips move, a whole number of latent cells.
LIPS = (slice(144, 208), slice(80, 176))


def latent_mouth_weight(floor: float = 0.2, lips: float = 3.0) -> torch.Tensor:
    """Loss weight per latent cell of the window, [1, 1, h, w]: `lips` where lips, teeth and tongue appear, 1 in the rest of the
    generated region, `floor` elsewhere (the paper's mouth-region constraint; it gives no weights)."""
    cells = F.avg_pool2d(torch.from_numpy((mouth_mask() > 0).astype(np.float32))[None, None], 16)
    weight = floor + (1 - floor) * (cells > 0.1).float()
    rows, columns = (slice(s.start // 16, s.stop // 16) for s in LIPS)
    weight[:, :, rows, columns] = lips
    return latent_window(weight)


def load_encoder(folder: Path, device: str, subfolder: str | None = None) -> AutoencoderTempoSync:
    """A frozen autoencoder, in bfloat16 where that saves time; the caches are float16."""
    dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    vae = AutoencoderTempoSync.from_pretrained(folder, subfolder=subfolder, torch_dtype=dtype)
    return vae.to(device, memory_format=torch.channels_last).eval()


def frame_mel(samples: np.ndarray, num_frames: int) -> torch.Tensor:
    """Log mel columns of each video frame, [num_frames, 4, 80], as the sync expert hears them; samples [N] at 16 kHz from frame 0 on."""
    return log_mel(torch.from_numpy(cut_speech(normalize_loudness(samples), 0, num_frames))[None])[0].unflatten(0, (num_frames, -1))


class LatentCacheWriter:
    """Collects sequences of one source and writes its file."""

    def __init__(self, vae: AutoencoderTempoSync):
        self.vae = vae
        self.latents, self.context, self.context_index, self.visemes, self.mel = [], [], [], [], []
        self.opening, self.lips, self.sequences = [], [], []
        self.frames = self.contexts = 0

    def add(self, crops: np.ndarray, windows: np.ndarray, references: np.ndarray | None = None, mel: torch.Tensor | None = None,
            opening: np.ndarray | None = None, lips: np.ndarray | None = None, repeats: int = 1) -> None:
        """One sequence: crops uint8 [T, 256, 256, 3] with viseme windows [T, 11, 15] and, in all sequences or none, mel [T, 4, 80].

        A talker's own frames serve as references and contexts; a retargeted portrait brings its
        photo as `references` [R, 256, 256, 3], whose first picture gives the context of every frame.
        `opening` [T] is the lip opening of the crops, `lips` [T, 6] the shape they speak with; `repeats` says how often the sequence counts
        when batches are drawn.
        """
        count = len(crops)
        unknown = torch.full((count, 1 + NUM_LIP_SHAPE), float("nan"))
        not_drawn = torch.full((0 if references is None else len(references), 1 + NUM_LIP_SHAPE), float("nan"))
        self.opening += [unknown[:, 0] if opening is None else torch.as_tensor(opening).float(), not_drawn[:, 0]]
        self.lips += [unknown[:, 1:] if lips is None else torch.as_tensor(lips).float(), not_drawn[:, 1:]]
        self.latents.append(encode_crops(self.vae, crops).half())
        if mel is not None:
            self.mel.append(mel.half())
        if references is None:
            self.context.append(encode_crops(self.vae, mask_mouth(crops)).half())
            self.context_index.append(torch.arange(self.contexts, self.contexts + count))
            self.visemes.append(torch.tensor(windows, dtype=torch.float16))
            self.sequences += repeats * [(self.frames, count, self.frames, count)]
            self.frames += count
        else:
            extra = len(references)
            self.latents.append(encode_crops(self.vae, references).half())
            self.context.append(encode_crops(self.vae, mask_mouth(references[:1])).half())
            self.context_index.append(torch.full((count + extra,), self.contexts))
            # A reference is never a target: its windows are not read.
            self.visemes.append(F.pad(torch.tensor(windows, dtype=torch.float16), (0, 0, 0, 0, 0, extra)))
            self.sequences += repeats * [(self.frames, count, self.frames + count, extra)]
            self.frames += count + extra
        self.contexts += len(self.context[-1])

    def write(self, path: Path) -> None:
        names = ("latents", "context", "context_index", "visemes", "opening", "lips", *(["mel"] if self.mel else []))
        tensors = {name: torch.cat(getattr(self, name)).contiguous() for name in names}
        save_cache(tensors | {"sequences": torch.tensor(self.sequences)}, path)


def save_cache(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """A file that is complete if it exists."""
    staged = path.with_name(f".{path.name}.staged")
    save_file(tensors, staged)
    staged.replace(path)


def join_caches(paths: list[Path], output: Path) -> None:
    """One latent cache out of several."""
    parts = [load_file(path) for path in paths]
    frames = contexts = 0
    for part in parts:
        part["context_index"] += contexts
        part["sequences"] += torch.tensor([frames, 0, frames, 0])
        frames, contexts = frames + len(part["latents"]), contexts + len(part["context"])
    save_cache({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, output)


@dataclass
class DenoiserBatch:
    """Windows of latents [B, C, h, w], reference on the full grid for the identity encoder, viseme windows [B, 11, 15], shapes of the lips
    [B, 6], NaN where they are not known."""

    target: torch.Tensor
    reference: torch.Tensor
    reference_full: torch.Tensor
    context: torch.Tensor
    visemes: torch.Tensor
    lips: torch.Tensor

    @property
    def residual(self) -> torch.Tensor:
        return self.target - self.reference


class LatentCache:
    """Draws denoiser batches from cached sources.

    A portrait keeps its own context while it speaks, so with probability `still_context` a talker, too, gets the context of its
    REFERENCE frame: otherwise the jaw's outline in the target's context would tell the network what the lips do, and it would not
    learn it from the visemes.  With probability `zero_silence` the visemes of a silent frame are zeroed: no speech known means a
    closed, calm mouth (equation 1).  With probability `rest` a closed mouth is its own reference, and what is heard is silence: a photo
    with a closed mouth stays as it is until its person speaks.  With probability `closing` a closed mouth of any frame is what silence
    looks like, whatever the reference shows: lips that a photo caught barely parted are closed, too.
    With probability `unknown_lips` the visemes alone say what the lips do.
    """

    def __init__(self, folder: Path, weights: dict[str, float], device: str | torch.device = "cpu", seed: int = 0,
                 still_context: float = 0.7, zero_silence: float = 0.2, rest: float = 0.1, closing: float = 0.15,
                 unknown_lips: float = 0.15):
        self.sources = {name: {key: value.to(device) for key, value in load_file(Path(folder) / f"{name}.safetensors").items()}
                        for name in weights}
        self.weights = np.array(list(weights.values())) / sum(weights.values())
        self.rng = np.random.default_rng(seed)
        self.still_context, self.zero_silence, self.rest, self.closing = still_context, zero_silence, rest, closing
        self.unknown_lips = unknown_lips
        self.closed = {name: np.flatnonzero(source["opening"].cpu().numpy() < CLOSED_OPENING) for name, source in self.sources.items()
                       if "opening" in source}

    def draw(self, batch_size: int) -> DenoiserBatch:
        counts = self.rng.multinomial(batch_size, self.weights)
        parts = [self._draw(name, count) for name, count in zip(self.sources, counts) if count]
        return DenoiserBatch(*(torch.cat(tensors) for tensors in zip(*parts)))

    def _draw(self, name: str, count: int) -> tuple[torch.Tensor, ...]:
        source, closed = self.sources[name], self.closed.get(name, ())
        sequences = source["sequences"].cpu().numpy()
        chosen = sequences[self.rng.choice(len(sequences), count, p=sequences[:, 1] / sequences[:, 1].sum())]
        target = chosen[:, 0] + (self.rng.random(count) * chosen[:, 1]).astype(int)
        kind = self.rng.random(count) if len(closed) else np.ones(count)
        at_rest, silenced = kind < self.rest, kind < self.rest + self.closing
        if silenced.any():
            target[silenced] = self.rng.choice(closed, silenced.sum())
            chosen[silenced] = sequences[np.searchsorted(sequences[:, 0], target[silenced], side="right") - 1]
        # A portrait's first reference, its photograph, is drawn half of the time. A talker's references are all frames alike: how the head
        # has moved since one and the same frame would be learnt by heart.
        photograph = (self.rng.random(count) < 0.5) & (chosen[:, 2] != chosen[:, 0])
        reference = chosen[:, 2] + (self.rng.random(count) * chosen[:, 3] * ~photograph).astype(int)
        reference[at_rest] = target[at_rest]
        context_of = np.where(self.rng.random(count) < self.still_context, reference, target)
        visemes = source["visemes"][target].float()
        visemes[torch.from_numpy(silenced)] = F.one_hot(torch.tensor(VISEME_INDEX["sil"]), visemes.shape[-1]).to(visemes)
        silent = (visemes[:, :, 0].mean(1) > 0.8).cpu().numpy() & (self.rng.random(count) < self.zero_silence)
        visemes[torch.from_numpy(silent)] = 0
        lips = cached_lips(source)[target]
        lips[torch.from_numpy(silenced)] = 0
        lips[torch.from_numpy(self.rng.random(count) < self.unknown_lips)] = float("nan")
        full = source["latents"][reference].float()
        return (latent_window(source["latents"][target]).float(), latent_window(full), full,
                latent_window(source["context"][source["context_index"][context_of]]).float(), visemes, lips)


def cached_lips(source: dict[str, torch.Tensor]) -> torch.Tensor:
    """`lips` of a cache, [N, 6]; not known where the cache was written without them."""
    if "lips" in source:
        return source["lips"]
    return torch.full((len(source["latents"]), NUM_LIP_SHAPE), float("nan"), device=source["latents"].device)
