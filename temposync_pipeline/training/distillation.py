"""Multi-noise consistency distillation (equations 6 and 7 of arXiv 2603.06057): the pieces, as pure functions.

One teacher evaluation at a noise level σ_{n+1} of a discretised range serves two terms: its raw output is the target of L_dist, and
its Euler step to σ_n is the point where the EMA student's clean estimate is the target of the consistency term (consistency
distillation, Song et al. 2023, algorithm 2).  How finely the range is cut, and where a few steps are best spent, adapt to the run.
"""

import math
from collections.abc import Callable

import torch


def neighbouring_sigmas(sigmas: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Snap continuous noise levels [B] to a falling `grid` [N]: returns (σ_{n+1}, σ_n), the level at or above and the next below it."""
    index = torch.searchsorted(-grid, -sigmas).clamp(1, len(grid) - 1)
    return grid[index - 1], grid[index]


def teacher_ode_step(noisy: torch.Tensor, clean: torch.Tensor, above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """Euler step of dz/dσ = (z - f)/σ from σ_{n+1} = `above` [B] to σ_n = `below` [B]; `clean` is the teacher's estimate f(z, σ_{n+1})."""
    return clean + (below / above)[:, None, None, None] * (noisy - clean)


def discretization_at(progress: float, start: int, end: int) -> int:
    """Noise levels of the grid when a run has come to `progress` in [0, 1]: doubling from `start` to `end` in equal shares of the run.

    Coarse at first (small variance, fast propagation of the clean end), fine later (small bias): Song & Dhariwal 2023, section 3.4,
    whose schedule doubles likewise.
    """
    if not 2 <= start <= end:
        raise ValueError(f"The discretization must grow from at least 2, got {start} to {end}.")
    doublings = math.floor(math.log2(end / start)) + 1
    return min(start * 2 ** min(int(progress * doublings), doublings - 1), end)


@torch.no_grad()
def estimate_changes(estimate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], clean: torch.Tensor, noise: torch.Tensor,
                     grid: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """How far the clean estimate moves between neighbouring noise levels: weighted RMS of f(z + σ_n ε) - f(z + σ_{n+1} ε), [N - 1].

    Args:
        estimate: (noisy [B, C, h, w], sigmas [B]) -> f. clean, noise: [B, C, h, w]. grid: falling noise levels [N].
        weight: broadcasts to the samples, e.g. the mouth weight of the cells.
    """
    changes, previous = [], None
    for sigma in grid:
        current = estimate(clean + sigma * noise, sigma.expand(len(clean)))
        if previous is not None:
            changes.append((((current - previous).square() * weight).mean() / weight.mean()).sqrt())
        previous = current
    return torch.stack(changes)


def equal_change_sigmas(grid: torch.Tensor, changes: torch.Tensor, steps: int) -> list[float]:
    """Adaptive few-step schedule: `steps` noise levels from grid[0] down, an equal share of the estimate's whole change in each step.

    The first level is the largest; between grid points the levels are interpolated in ln σ.  `grid` [N] falls, `changes` [N - 1] are
    those of `estimate_changes`.
    """
    cumulative = torch.cat([torch.zeros(1), changes.double().cpu().cumsum(0).float()])
    log_grid, levels = grid.cpu().log(), []
    for share in torch.arange(steps) / steps * cumulative[-1]:
        right = int(torch.searchsorted(cumulative, share, right=True).clamp(1, len(cumulative) - 1))
        position = (share - cumulative[right - 1]) / (cumulative[right] - cumulative[right - 1]).clamp(min=1e-12)
        levels.append(float(torch.lerp(log_grid[right - 1], log_grid[right], position).exp()))
    return levels
