"""The loss terms over consecutive frames: temporal smoothness (equation 9 of arXiv 2603.06057), synchrony with the speech, and velocity.

The velocity term is not in the paper: what changes from frame to frame shall be what changed in the real frames, and no more.  All frames
share their noise, as when sampling; what a classifier says of them differs a little in each (`perturb_visemes`).
"""

import numpy as np
import torch
from torch import nn

from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.conditioning import latent_window
from ..models.identity_encoder import IdentityEncoder
from ..models.sync_expert import SyncExpert
from ..schedulers.scheduling_temposync import TempoSyncScheduler
from .denoising import (
    DenoiserConfig,
    conditions,
    draw_sigmas,
    evaluate_denoiser,
    load_component,
    mix_in_rollouts,
    perturb_visemes,
    shared_noise,
)
from .latent_cache import DenoiserBatch, LatentCache, cached_lips, latent_mouth_weight
from .losses import frame_flows, sync_regulariser, temporal_warp, weighted_mse

# Frames decoded for equation 9 (a decoding costs more than a denoising), and heard by the sync expert: one second.
TEMPORAL_FRAMES = 5
SYNC_FRAMES = 25
# Stretches of video for the velocity term, and frames of each.
VELOCITY_CLIPS, VELOCITY_FRAMES = 4, 3


class SequenceTerms:
    """Called as (denoiser): the terms of one stretch of video, zero in the steps that leave them out and the larger in the others."""

    def __init__(self, config: DenoiserConfig, cache: LatentCache, scheduler: TempoSyncScheduler, identity_encoder: IdentityEncoder,
                 scale: float, device: torch.device):
        self.config, self.cache, self.scheduler, self.scale, self.device = config, cache, scheduler, scale, device
        self.identity_encoder = identity_encoder
        if config.temporal_weight:
            self.vae = load_component(AutoencoderTempoSync, config.vae, "vae", device)
        if config.sync_weight:
            self.expert = load_component(SyncExpert, config.sync_expert, "sync_expert", device)
        self.weight = latent_mouth_weight(config.mouth_weight_floor, config.lip_weight).to(device)

    def __call__(self, denoiser: nn.Module) -> dict[str, torch.Tensor]:
        config = self.config
        skipped = self.cache.rng.random() >= 1 / config.sequence_every
        terms, nothing = {}, torch.zeros((), device=self.device)
        if config.temporal_weight:
            terms["temporal"] = nothing if skipped else config.sequence_every * self._temporal(denoiser)
        if config.sync_weight:
            terms["sync"] = nothing if skipped else config.sequence_every * self._sync(denoiser)
        if config.velocity_weight:
            terms["velocity"] = self._velocity(denoiser)
        return terms

    def _velocity(self, denoiser: nn.Module) -> torch.Tensor:
        """‖(f_{t+1} - f_t) - (z_{t+1} - z_t)‖², weighted over the window, in units of the residual's variance."""
        config = self.config
        stretches = [draw_sequence(self.cache, VELOCITY_FRAMES)[0] for _ in range(VELOCITY_CLIPS)]
        frames = DenoiserBatch(*(torch.cat(values) for values in zip(*(vars(stretch).values() for stretch in stretches))))
        frames.visemes = perturb_visemes(frames.visemes, config.viseme_noise)
        frames.lips = frames.lips + config.lip_noise * torch.randn_like(frames.lips)
        clean, given = frames.residual / self.scale, conditions(frames, self.identity_encoder)
        sigmas = draw_sigmas(VELOCITY_CLIPS, config, self.scheduler, self.device).repeat_interleave(VELOCITY_FRAMES)
        start = mix_in_rollouts(clean, denoiser, self.scheduler, given, getattr(config, "rollout", 0.0), VELOCITY_FRAMES)
        noisy = self.scheduler.corrupt(start, shared_noise(clean, VELOCITY_FRAMES), sigmas)
        _, estimate = evaluate_denoiser(denoiser, self.scheduler, noisy, sigmas, given)
        change, real = (values.unflatten(0, (-1, VELOCITY_FRAMES)).diff(dim=1).flatten(0, 1) for values in (estimate, clean))
        return weighted_mse(change, real, self.weight)

    def _estimate(self, denoiser: nn.Module, sequence: DenoiserBatch) -> torch.Tensor:
        """Clean latents [T, C, h, w] from one noise level, the noise shared by all frames as when sampling."""
        clean = sequence.residual / self.scale
        sigmas = draw_sigmas(1, self.config, self.scheduler, self.device).expand(len(clean))
        noisy = self.scheduler.corrupt(clean, torch.randn_like(clean[:1]), sigmas)
        _, estimate = evaluate_denoiser(denoiser, self.scheduler, noisy, sigmas, conditions(sequence, self.identity_encoder))
        return sequence.reference + self.scale * estimate

    def _temporal(self, denoiser: nn.Module) -> torch.Tensor:
        sequence, _ = draw_sequence(self.cache, TEMPORAL_FRAMES)
        generated = self.vae.decode(self._estimate(denoiser, sequence)).sample
        with torch.no_grad():
            flow, mask = frame_flows(self.vae.decode(sequence.target).sample)
        return temporal_warp(generated, flow, mask)

    def _sync(self, denoiser: nn.Module) -> torch.Tensor:
        sequence, mel = draw_sequence(self.cache, SYNC_FRAMES, with_sound=True)
        mouths = self.expert.embed_mouth(self._estimate(denoiser, sequence)[None])
        return sync_regulariser(mouths, self.expert.embed_mel(mel.flatten(0, 1)[None]))


def draw_sequence(cache: LatentCache, length: int, with_sound: bool = False) -> tuple[DenoiserBatch, torch.Tensor | None]:
    """`length` consecutive cached frames of one clip, all with the clip's one reference and context, and their mel columns [length, 4, 80].

    Raises:
        ValueError: no source holds such a clip, or none with sound where that is asked for.
    """
    usable = {name: rows for name, source in cache.sources.items() if "mel" in source or not with_sound
              if len(rows := source["sequences"][source["sequences"][:, 1] >= length])}
    if not usable:
        raise ValueError(f"no cached clip of {length} consecutive frames{' with sound' if with_sound else ''}")
    chances = np.array([weight for name, weight in zip(cache.sources, cache.weights) if name in usable])
    name = list(usable)[cache.rng.choice(len(usable), p=chances / chances.sum())]
    source, rows = cache.sources[name], usable[name]
    first, count, reference, _ = rows[cache.rng.integers(len(rows))].tolist()
    start = first + int(cache.rng.integers(count - length + 1))
    frames = slice(start, start + length)
    full, context = source["latents"][reference].float(), source["context"][source["context_index"][reference]].float()
    repeated = [value.expand(length, -1, -1, -1) for value in (latent_window(full), full, latent_window(context))]
    batch = DenoiserBatch(latent_window(source["latents"][frames]).float(), *repeated, source["visemes"][frames].float(),
                          cached_lips(source)[frames])
    return batch, source["mel"][frames].float() if with_sound else None
