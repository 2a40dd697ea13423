"""An adversary for the student: a mouth that is the mean of all likely mouths is blurred, and a discriminator sees that.

Not in the paper (arXiv 2603.06057); adversarial distillation of few-step students in latent space is due to Sauer et al. 2024 (LADD).
Student and discriminator share one optimiser step: each sees the other's part of the graph detached.
"""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F


class LatentDiscriminator(nn.Module):
    """How real a mouth looks beside its reference and its visemes: latents [B, C, h, w] twice, visemes [B, 11, 15] -> scores [B].

    The score is the mean of a map of local realness plus a projection of the visemes on the pooled features (Miyato & Koyama 2018).
    """

    def __init__(self, latent_channels: int = 32, viseme_values: int = 11 * 15, channels: tuple[int, int, int] = (96, 128, 160)):
        super().__init__()
        fine, middle, coarse = channels
        self.features = nn.Sequential(
            nn.Conv2d(2 * latent_channels, fine, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(fine, fine, 3, padding=1), nn.GroupNorm(8, fine), nn.LeakyReLU(0.2),
            nn.Conv2d(fine, middle, 3, stride=2, padding=1), nn.GroupNorm(8, middle), nn.LeakyReLU(0.2),
            nn.Conv2d(middle, coarse, 3, padding=1), nn.GroupNorm(8, coarse), nn.LeakyReLU(0.2))
        self.local = nn.Conv2d(coarse, 1, 1)
        self.spoken = nn.Linear(viseme_values, coarse)

    def forward(self, latents: torch.Tensor, reference: torch.Tensor, visemes: torch.Tensor) -> torch.Tensor:
        features = self.features(torch.cat([latents, reference], dim=1))
        pooled = features.mean((2, 3))
        return self.local(features).mean((1, 2, 3)) + (pooled * self.spoken(visemes.flatten(1))).mean(1)


def adversarial_terms(
    discriminator: LatentDiscriminator, generated: torch.Tensor, real: torch.Tensor, reference: torch.Tensor, visemes: torch.Tensor,
    smoothness: float = 0.1, spread: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the student's term, the discriminator's own loss), relativistic in pairs (Jolicoeur-Martineau 2019): ln(1 + exp(-(D(a) - D(b)))).

    Gradients of the first reach `generated` alone, those of the second the discriminator alone.  Its slope around real data is held
    down by ‖D(x) - D(x + spread·ε)‖² / spread² (R1 without second derivatives, Lin et al. 2025).
    """
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    fooled = functional_call(discriminator, frozen, (generated, reference, visemes))
    with torch.no_grad():
        convincing = discriminator(real, reference, visemes)
    student = F.softplus(convincing - fooled).mean()
    on_real, on_generated = discriminator(real, reference, visemes), discriminator(generated.detach(), reference, visemes)
    shaken = discriminator(real + spread * torch.randn_like(real), reference, visemes)
    penalty = ((shaken - on_real) / spread).square().mean()
    return student, F.softplus(on_generated - on_real).mean() + smoothness * penalty


class PatchDiscriminator(nn.Module):
    """How real the inside of a mouth looks, place by place: pictures [B, 3, H, W], and what of them is painted [B, 1, H, W], ->
    scores [B, 1, H/8, W/8].

    Each is that of a patch of about 40 pixels (Isola et al. 2017): what a tooth is, not what a face is.
    """

    def __init__(self, channels: tuple[int, int, int, int] = (64, 96, 128, 160)):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width, stride in zip((4, *channels), channels, (2, 2, 2, 1)):
            layers += [nn.Conv2d(before, width, 4 if stride == 2 else 3, stride, 1), nn.GroupNorm(8, width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, pictures: torch.Tensor, painted: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([pictures, painted], 1))


def hinge_terms(
    discriminator: PatchDiscriminator, generated: torch.Tensor, real: torch.Tensor, painted: torch.Tensor, real_painted: torch.Tensor,
    smoothness: float = 0.02, spread: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the painter's term, the discriminator's own loss): -D(G) and max(0, 1 - D(x)) + max(0, 1 + D(G)) (Lim & Ye 2017), where painted.

    Gradients of the first reach `generated` alone, those of the second the discriminator alone, whose slope around real pictures is held
    down as in `adversarial_terms`.
    """
    def mean(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weight = F.adaptive_avg_pool2d(mask, scores.shape[-2:])
        return (scores * weight).sum() / weight.sum().clamp(min=1)

    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    fooled = functional_call(discriminator, frozen, (generated, painted))
    on_real, on_generated = discriminator(real, real_painted), discriminator(generated.detach(), painted)
    shaken = discriminator(real + spread * torch.randn_like(real), real_painted)
    own = mean(F.relu(1 - on_real), real_painted) + mean(F.relu(1 + on_generated), painted)
    return -mean(fooled, painted), own + smoothness * mean(((shaken - on_real) / spread).square(), real_painted)
