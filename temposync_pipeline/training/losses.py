"""Losses as short pure functions; pictures are float [B, 3, H, W] in [-1, 1].

Equation numbers without a source are those of arXiv 2603.06057 (TempoSyncDiff).
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ..metrics.optical_flow import optical_flow, visible_mask


def charbonnier(prediction: torch.Tensor, target: torch.Tensor, epsilon: float = 1e-3) -> torch.Tensor:
    """mean √((x - y)² + ε²): the L1 distance, smooth at zero (Charbonnier et al. 1994)."""
    return ((prediction - target).square() + epsilon**2).sqrt().mean()


def gradient_difference(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 distance of the horizontal and vertical differences: keeps edges (Mathieu et al. 2016, α = 1 on signed differences)."""
    error = prediction - target
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def weighted_mse(prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """mean w·(x - y)² / mean w; `weight` broadcasts, e.g. the mouth weight of the latent cells."""
    return (weight * (prediction - target).square()).mean() / weight.mean()


def huber(error: torch.Tensor, knee: float) -> torch.Tensor:
    """error² up to about `knee`, linear beyond; any shape, elementwise.

    Most of a face is still most of the time: absolute errors are smallest for the picture
    that never moves, and a network that starts there stays there."""
    return 2 * knee * ((error.square() + knee**2).sqrt() - knee)


def pseudo_huber(prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, c: float = 0.03) -> torch.Tensor:
    """mean over samples of √(‖x - y‖²_w + c²n) - c√n, divided by √n: robust consistency distance (Song & Dhariwal 2023, eq. 6)."""
    squared = (weight * (prediction - target).square()).flatten(1).sum(1)
    count = prediction[0].numel()
    return (((squared + c**2 * count).sqrt() - c * count**0.5) / count**0.5).mean()


def noise_prediction(noise_pred: torch.Tensor, noise: torch.Tensor, weight: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Equation 5: L_diff = E ‖ε - ε_θ(z̃, σ, κ)‖², weighted by region (`latent_cache.latent_mouth_weight`) and noise level.

    `training.denoising.denoising_loss` is this with the weight σ² + σ_d² a noise level.
    """
    return weighted_mse(noise_pred, noise, torch.as_tensor(weight))


def distillation(student_pred: torch.Tensor, teacher_pred: torch.Tensor, weight: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Equation 7: L_dist = E ‖ε_φ(z̃, σ, κ) - ε_θ(z̃, σ, κ)‖²; nothing flows into the teacher."""
    return weighted_mse(student_pred, teacher_pred.detach(), torch.as_tensor(weight))


def identity_anchor(embeddings: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Equation 8: L_id = 1 - cos(E_id(Î), E_id(I_ref)), mean over the batch, in [0, 2]; embeddings [B, D] of any length."""
    return (1 - F.cosine_similarity(embeddings, reference, dim=-1)).mean()


def warp(pictures: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """W of equation 9: out(p) = in(p + flow(p)), bilinear, the border repeated.

    Args:
        pictures: [B, C, H, W].
        flow: displacements (x, y) in pixels, [B, 2, H, W]: to fetch frame t into the place of t + 1, the flow from t + 1 back to t.
    """
    height, width = pictures.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height, device=flow.device), torch.arange(width, device=flow.device), indexing="ij")
    places = torch.stack([(x + flow[:, 0]) * 2 / (width - 1) - 1, (y + flow[:, 1]) * 2 / (height - 1) - 1], dim=-1)
    return F.grid_sample(pictures, places.to(pictures.dtype), padding_mode="border", align_corners=True)


def frame_flows(frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What equation 9 takes from the REAL frames [T, 3, H, W] in [-1, 1]: flows from t + 1 back to t, and where they can be trusted.

    Returns flow [T - 1, 2, H, W] in pixels and mask [T - 1, 1, H, W] of 0 and 1; `metrics.optical_flow` makes them, without gradients.
    """
    pictures = (frames.detach().float().clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    flows, masks = [], []
    for before, after in zip(pictures, pictures[1:]):
        flow = optical_flow(after, before)
        flows.append(torch.from_numpy(flow).permute(2, 0, 1))
        masks.append(torch.from_numpy(visible_mask(flow, optical_flow(before, after)))[None])
    return torch.stack(flows).to(frames.device), torch.stack(masks).to(frames.device)


def temporal_warp(frames: torch.Tensor, flow: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Equation 9: L_temp = ‖M ⊙ (Î_{t+1} - W(Î_t))‖₁, the mean over what M leaves.

    Args:
        frames: generated pictures of consecutive moments, [T, C, H, W].
        flow, mask: of the real frames, [T - 1, 2, H, W] and [T - 1, 1, H, W], see `frame_flows`.
    """
    error = mask * (frames[1:] - warp(frames[:-1], flow)).abs()
    return error.sum() / (mask.sum() * frames.shape[1]).clamp(min=1)


def total(terms: dict[str, torch.Tensor], weights: dict[str, float]) -> torch.Tensor:
    """Equations 10 and 11: Σ λ_k·L_k, λ = 1 where `weights` doesn't name a term.

    Teacher: L_diff + λ_id·L_id + λ_temp·L_temp.  Student: L_dist + λ_id·L_id + λ_temp·L_temp + λ_cons·L_cons + λ_sync·L_sync; the mouth
    constraint is the weight inside L_dist and L_cons.  Raises ValueError for a weight without its term.
    """
    if unknown := weights.keys() - terms.keys():
        raise ValueError(f"no loss term for the weights {', '.join(sorted(unknown))}")
    return sum(weights.get(name, 1.0) * value for name, value in terms.items())


def cross_identity(
    conditions: Sequence[torch.Tensor], identities: torch.Tensor, probability: float
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Equation 12: with `probability` a sample's conditions come from another identity's clip.

    Args:
        conditions: what comes from there, each [B, ...]: reference, context.
        identities: who each sample is, int64 [B].
        probability: in [0, 1].

    Returns the conditions, and who was replaced, bool [B]; a sample beside whom there are no strangers in the batch keeps its own.
    """
    count = len(identities)
    stranger = (identities[:, None] != identities).float()
    replaced = (torch.rand(count, device=identities.device) < probability) & stranger.any(1)
    # A row of zeros cannot be drawn from; what is drawn for it is not used.
    donor = torch.multinomial(stranger + (stranger.sum(1, keepdim=True) == 0), 1)[:, 0]
    source = torch.where(replaced, donor, torch.arange(count, device=identities.device))
    return [condition[source] for condition in conditions], replaced


def sync_regulariser(mouths: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
    """1 - cos(mouth, speech) of a sync expert's embeddings [..., D] of the same moments, mean, in [0, 2].

    The paper names the regulariser without a form; this is the distance that SyncNet (Chung & Zisserman 2016) is scored by.
    """
    return (1 - F.cosine_similarity(mouths, speech, dim=-1)).mean()



def supervised_contrastive(embeddings: torch.Tensor, identities: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2): every picture must be nearer to its person's others than to strangers.

    L = mean_i mean_{p ∈ P(i)} -ln( exp(e_i·e_p / τ) / Σ_{a ≠ i} exp(e_i·e_a / τ) ), P(i) = the other pictures of i's person.

    Args:
        embeddings: unit vectors [B, D].
        identities: who it is, int64 [B]; everybody at least twice.
        temperature: τ; the smaller, the more the hardest strangers count.
    """
    itself = torch.eye(len(identities), dtype=torch.bool, device=identities.device)
    logits = (embeddings @ embeddings.T / temperature).masked_fill(itself, float("-inf"))
    positive = (identities[:, None] == identities) & ~itself
    log_share = logits.log_softmax(1).masked_fill(~positive, 0)
    return -(log_share.sum(1) / positive.sum(1)).mean()


def info_nce(codes: torch.Tensor, pictures: torch.Tensor, temperature: float) -> torch.Tensor:
    """Symmetric InfoNCE (van den Oord et al. 2018) of embeddings [N, C] that belong together row by row."""
    scores = F.normalize(codes, dim=-1) @ F.normalize(pictures, dim=-1).T / temperature
    own = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
