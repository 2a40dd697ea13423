"""Stage `sync`: SyncExpert by contrast, speech in sync against the same speech at other offsets and against other clips' speech.

    temposync train sync --config examples/train/sync.yaml --data SYNC --output runs/sync

SYNC: python -m temposync_pipeline.training.sync_latents.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.sync_corpus import load_corpus
from ..data.sync_sampler import SyncSampler
from ..metrics.sync import MAX_OFFSET, WINDOW, sync_figures, window_accuracy
from ..models.sync_expert import SyncExpert, frame_distances, offset_distances
from .checkpointing import save_weights
from .loop import LoopConfig, Losses, make_accelerator, train_loop


@dataclass
class Config(LoopConfig):
    """Settings; `data` is a folder of corpora (`data.sync_corpus`)."""

    output: str = "runs/sync"
    sources: dict[str, float] = field(default_factory=lambda: {"talkers_train": 1.0})
    validation_source: str = "talkers_val"
    batch_size: int = 16
    num_frames: int = 40
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    ema_decay: float = 0.995
    max_steps: int = 900
    mixed_precision: str = "no"
    # Inverse temperature of the softmax over distances in [0, 2].
    sharpness: float = 20.0
    # Frames: recordings themselves are in sync to about half a frame, so the neighbours of offset 0 share its weight.
    tolerance: float = 0.6
    other_clips_weight: float = 0.5
    hidden_channels: int = 128
    num_blocks: int = 3
    embedding_channels: int = 64
    dropout: float = 0.2


def offset_loss(distances: Tensor, valid: Tensor, sharpness: float, tolerance: float) -> Tensor:
    """Cross entropy of softmax_o(-sharpness · mean over a one-second window of d[o]) with a Gaussian of width `tolerance` about o = 0.

    distances [B, O, T] (`offset_distances`), valid bool [B, O, T]; windows begin every five frames, and an offset counts in a window if
    all of its frames do.
    """
    windows = F.avg_pool1d(distances, WINDOW, 5).transpose(1, 2)
    usable = F.avg_pool1d(valid.float(), WINDOW, 5).transpose(1, 2) > 1 - 0.5 / WINDOW
    offsets = torch.arange(distances.shape[1], device=distances.device) - distances.shape[1] // 2
    target = torch.exp(-0.5 * (offsets / tolerance).square()) * usable
    target = target / target.sum(-1, keepdim=True).clamp_min(1e-6)
    log_share = (-sharpness * windows).masked_fill(~usable, -1e4).log_softmax(-1)
    return -(target * log_share).sum(-1).mean()


def other_clips_loss(mouth: Tensor, speech: Tensor, sharpness: float) -> Tensor:
    """InfoNCE over the batch, both ways: each clip's mouth [B, T, D] and speech [B, T, D] at the same times against all others'."""
    distances = frame_distances(mouth[:, None], speech[None]).unfold(-1, WINDOW, 5).mean(-1)
    logits = (-sharpness * distances).permute(2, 0, 1)
    target = torch.arange(len(mouth), device=mouth.device).expand(len(logits), -1)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.transpose(1, 2), target))


def train(config: Config) -> dict[str, float]:
    """Figures of the last validation; the averaged weights go to `output`/sync_expert."""
    accelerator = make_accelerator(config)
    folder = Path(config.data)
    corpora = {name: load_corpus(folder / f"{name}.safetensors") for name in config.sources}
    validation = load_corpus(folder / f"{config.validation_source}.safetensors")
    sampler = SyncSampler(corpora, config.sources, config.num_frames, MAX_OFFSET)
    expert = SyncExpert.from_pretrained(config.init).train() if config.init else SyncExpert(
        hidden_channels=config.hidden_channels, num_blocks=config.num_blocks, embedding_channels=config.embedding_channels,
        dropout=config.dropout)

    def compute_losses(prepared: nn.Module, progress: float) -> Losses:
        batch = sampler.draw(config.batch_size).to(accelerator.device)
        mouth, speech = prepared(batch.latents, batch.mel)
        distances = offset_distances(mouth, speech, MAX_OFFSET)
        # offset_distances runs from the latest speech to the earliest.
        valid = batch.valid.unfold(1, config.num_frames, 1).flip(1)
        offset = offset_loss(distances, valid, config.sharpness, config.tolerance)
        others = other_clips_loss(mouth, speech[:, MAX_OFFSET:-MAX_OFFSET], config.sharpness)
        return {"loss": offset + config.other_clips_weight * others, "offset": offset, "others": others}

    def validate(average: SyncExpert) -> dict[str, float]:
        clips = [sync_figures(average, clip.latents, clip.samples) for clip in validation]
        means = {name: float(np.mean([figures[name] for figures in clips])) for name in ("proxy_lse_d", "proxy_lse_c")}
        return window_accuracy(average, validation) | means | {
            "offset_within_one": float(np.mean([abs(figures["offset"]) <= 1 for figures in clips]))}

    return train_loop(config, accelerator, expert, copy.deepcopy(expert), compute_losses, validate,
                      lambda average: save_weights(average, Path(config.output) / "sync_expert"))
