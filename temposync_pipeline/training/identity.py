"""Stage `identity`: E_id of equation 8 by metric learning, so that it knows the person and not what the mouth is doing.

    temposync train identity --data VIEWS --output runs/identity

VIEWS: python -m temposync_pipeline.training.identity_views.  The paper (arXiv 2603.06057) takes a face recogniser off the shelf; this one
is small enough for the latents of a CPU run, and its licence is ours.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from ..data.identity_views import face_ellipse
from ..face.crop import LATENT_WINDOW
from ..metrics.identity import equal_error_rate, rank_one, roc_auc
from ..models.identity_encoder import IdentityEncoder
from .checkpointing import save_weights
from .loop import LoopConfig, Losses, make_accelerator, train_loop
from .losses import supervised_contrastive

# Side of a hidden block in latent cells: eyes, or nose and mouth, or an ear with its hair.
HIDDEN_CELLS = 6


@dataclass
class Config(LoopConfig):
    """`batch_size` counts people; each brings `views_per_identity` pictures."""

    output: str = "runs/identity"
    batch_size: int = 56
    views_per_identity: int = 3
    # A batch's share of people filmed while talking; they are few, but their pictures differ by themselves.
    talker_share: float = 0.2
    max_minutes: float = 16.0
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    ema_decay: float = 0.99
    temperature: float = 0.1
    # Chances that a picture's background is another picture's, that a block of it is hidden, that only the generated part of it is seen.
    other_background: float = 0.5
    hidden_block: float = 0.3
    lower_face_only: float = 0.2
    latent_noise: float = 0.1


class IdentityViews:
    """Draws batches of several views a person from a file of `training.identity_views`."""

    def __init__(self, path: Path, device: str | torch.device = "cpu"):
        tensors = load_file(path)
        self.latents = tensors["latents"].to(device)
        self.identity, self.recording, self.filmed, self.plain = (tensors[name] for name in ("identity", "recording", "filmed", "plain"))
        self.members = [torch.nonzero(self.identity == number).flatten() for number in range(int(self.identity.max()) + 1)]
        self.talkers = [number for number, rows in enumerate(self.members) if self.filmed[rows[0]]]
        self.portraits = [number for number, rows in enumerate(self.members) if not self.filmed[rows[0]]]

    def draw(self, people: int, views: int, talker_share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents float32 [people·views, C, 16, 16] and who it is, int64 [people·views]; fewer where there are not so many people."""
        talkers = min(max(round(people * talker_share), people - len(self.portraits)), len(self.talkers))
        chosen = [group[k] for group, count in ((self.talkers, talkers), (self.portraits, people - talkers))
                  for k in torch.randperm(len(group))[:count].tolist()]
        rows = torch.cat([self.members[person][torch.randperm(len(self.members[person]))[:views]] for person in chosen])
        return self.latents[rows].float(), self.identity[rows].to(self.latents.device)


def outside_face(size: int = 16) -> torch.Tensor:
    """Cells of the latent grid that show hair, clothes and background, bool [1, 1, size, size]."""
    return torch.from_numpy(cv2.resize(face_ellipse(1.1), (size, size), interpolation=cv2.INTER_AREA) < 0.5)[None, None]


def hide(latents: torch.Tensor, config: Config) -> torch.Tensor:
    """Latents [B, C, 16, 16] with other backgrounds, hidden blocks (zero is the average picture) and noise.

    Sometimes only the window that a denoiser generates stays: else the anchor of equation 8 would not feel what it changes.
    """
    count, _, height, width = latents.shape
    device = latents.device

    def chance(probability: float) -> torch.Tensor:
        return torch.rand(count, 1, 1, 1, device=device) < probability

    strangers = latents[torch.randperm(count, device=device)]
    latents = torch.where(chance(config.other_background) & outside_face(height).to(device), strangers, latents)
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    top, left = torch.rand(2, count, 1, 1, 1, device=device) * torch.tensor([height, width], device=device).view(2, 1, 1, 1, 1)
    block = ((rows - top).abs() < HIDDEN_CELLS / 2) & ((columns - left).abs() < HIDDEN_CELLS / 2)
    above = rows < LATENT_WINDOW[0] + torch.randint(0, 3, (count, 1, 1, 1), device=device)
    hidden = (chance(config.hidden_block) & block) | (chance(config.lower_face_only) & above)
    return latents.masked_fill(hidden, 0) + config.latent_noise * torch.randn_like(latents)


@torch.inference_mode()
def embed(encoder: nn.Module, latents: torch.Tensor) -> np.ndarray:
    return torch.cat([encoder(chunk.float()) for chunk in latents.split(256)]).float().cpu().numpy()


def verification_figures(embeddings: np.ndarray, identity: np.ndarray, recording: np.ndarray, across: bool) -> dict[str, float]:
    """ROC AUC, equal error rate and rank-1 over pairs of pictures, mean cosine of same and different people.

    `across`: same-person pairs come from different recordings only.  Empty where there is no pair of one of the two kinds.
    """
    similarity, same = embeddings @ embeddings.T, identity[:, None] == identity
    comparable = recording[:, None] != recording if across else ~np.eye(len(identity), dtype=bool)
    upper = np.triu(np.ones_like(same), 1)
    positive, negative = similarity[same & comparable & upper], similarity[~same & upper]
    if not len(positive) or not len(negative):
        return {}
    return {"auc": roc_auc(positive, negative), "eer": equal_error_rate(positive, negative),
            "rank1": rank_one(similarity, same, comparable), "same": float(positive.mean()), "different": float(negative.mean())}


def swap_window(latents: torch.Tensor) -> torch.Tensor:
    """Everybody with the next person's generated region, [B, C, 16, 16]: what the anchor has to notice."""
    top, left, height, width = LATENT_WINDOW
    swapped = latents.clone()
    swapped[:, :, top:top + height, left:left + width] = latents.roll(1, 0)[:, :, top:top + height, left:left + width]
    return swapped


def measure(encoder: nn.Module, views: IdentityViews) -> dict[str, float]:
    """Verification figures on people never seen: talkers across their clips (augmented, and as filmed), portraits across mouth shapes.

    Also the mean cosine of a portrait to itself speaking (`speaking`, should be near 1) and with another person's lower face
    (`swapped`, should not).
    """
    embeddings = embed(encoder, views.latents)
    identity, recording, filmed, plain = (values.numpy() for values in (views.identity, views.recording, views.filmed, views.plain))
    figures = {}
    for name, chosen, across in (("talkers", filmed, True), ("talkers_as_filmed", filmed & plain, True), ("portraits", ~filmed, False)):
        measured = verification_figures(embeddings[chosen], identity[chosen], recording[chosen], across)
        figures |= {f"{name}_{key}": value for key, value in measured.items()}
    if views.portraits:
        unchanged = [views.members[person][views.plain[views.members[person]]] for person in views.portraits]
        first, last = (torch.stack([rows[index] for rows in unchanged]).numpy() for index in (0, -1))
        figures["speaking"] = float((embeddings[first] * embeddings[last]).sum(1).mean())
        figures["swapped"] = float((embeddings[first] * embed(encoder, swap_window(views.latents[first]))).sum(1).mean())
    return figures


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    views = IdentityViews(Path(config.data) / "train.safetensors", accelerator.device)
    held_out = IdentityViews(Path(config.data) / "val.safetensors", accelerator.device)
    encoder = IdentityEncoder.from_pretrained(config.init) if config.init else IdentityEncoder()
    encoder.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(encoder)

    def compute_losses(model: nn.Module, progress: float) -> Losses:
        latents, identities = views.draw(config.batch_size, config.views_per_identity, config.talker_share)
        embeddings = model(hide(latents, config).to(memory_format=torch.channels_last)).float()
        return {"loss": supervised_contrastive(embeddings, identities, config.temperature)}

    return train_loop(config, accelerator, encoder, ema, compute_losses, lambda model: measure(model, held_out),
                      lambda model: save_weights(model, Path(config.output) / "identity_encoder"))
