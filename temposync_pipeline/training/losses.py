"""Losses as short pure functions; pictures are float [B, 3, H, W] in [-1, 1]."""

import torch


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


def pseudo_huber(prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, c: float = 0.03) -> torch.Tensor:
    """mean over samples of √(‖x - y‖²_w + c²n) - c√n, divided by √n: robust consistency distance (Song & Dhariwal 2023, eq. 6)."""
    squared = (weight * (prediction - target).square()).flatten(1).sum(1)
    count = prediction[0].numel()
    return (((squared + c**2 * count).sqrt() - c * count**0.5) / count**0.5).mean()
