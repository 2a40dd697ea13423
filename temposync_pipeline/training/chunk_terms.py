"""Losses of AsymTalker (arXiv 2605.02948) as short pure functions of latents [B, c, F, h, w]; each is a mean over all values.

The paper gives no weights for the teacher's terms; those of the stages are ours.
"""

import torch


def flow_matching(velocity: torch.Tensor, noise: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """‖v - (ε - z)‖² of the frames that are made."""
    return (velocity - (noise - clean)).square().mean()


def adjacent_differences(estimate: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """‖(ẑ_{i+1} - ẑ_i) - (z_{i+1} - z_i)‖²: frames move as they should, also away from the kernel."""
    return (estimate.diff(dim=2) - clean.diff(dim=2)).square().mean()


def facial(estimate: torch.Tensor, clean: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """‖ẑ - z‖² where the face moves; `weight` [h, w] of mean 1."""
    return (weight * (estimate - clean).square()).mean()


def distribution_matching(made: torch.Tensor, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """½‖x - sg(x - g)‖² with g = (ẑ_fake - ẑ_real) / mean|x - ẑ_real| of each sample (Yin et al. 2024, DMD2).

    Its gradient is g: away from what the critic takes for likely among the student's own, towards what the teacher does.

    Args:
        made: the student's x. real, fake: what teacher and critic make of x with noise.
    """
    made_now = made.detach()
    size = (made_now - real).abs().mean(dim=tuple(range(1, made.ndim)), keepdim=True).clamp(min=1e-6)
    target = made_now - (fake - real).detach() / size.detach()
    return 0.5 * (made - target).square().mean()
