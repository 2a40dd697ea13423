"""The few-step sampler: boundary-conditioned consistency steps for the student, ODE steps for the teacher.

Corruption (equation 3 of arXiv 2603.06057, with α = 1): z̃ = z + σ·ε, over noise levels σ_min … σ_max.
The network's raw output F becomes the clean estimate by the boundary-conditioned parametrisation of
consistency models (Song et al. 2023, with the coefficients of Karras et al. 2022):

    f(z̃, σ) = c_skip(σ)·z̃ + c_out(σ)·F(c_in(σ)·z̃, ln σ / 4)
    c_skip = σ_d² / (σ² + σ_d²),  c_out = σ·σ_d / √(σ² + σ_d²),  c_in = 1 / √(σ² + σ_d²)

so that f(z̃, 0) = z̃.  The noise prediction of equations 4-6 is ε_θ = (z̃ - f) / σ.
"""

from dataclasses import dataclass

import torch

from ..bases import BaseOutput, ConfigMixin, SchedulerMixin, register_to_config
from ..errors import InvalidInputError


@dataclass
class TempoSyncSchedulerOutput(BaseOutput):
    """`prev_sample` at the next noise level and `pred_original_sample`, the clean estimate; both shaped like the sample."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class TempoSyncScheduler(SchedulerMixin, ConfigMixin):
    """Few-step sampler over the noise levels σ_i = (σ_max^(1/ρ) + i/(K-1)·(σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ, then 0.

    Args:
        sigma_min, sigma_max: range of noise levels, in units of the residual's standard deviation.
        sigma_data: standard deviation assumed of clean data. Most of the residual is exactly zero (skin that speech does not move): far
            below its overall deviation of 1, the parametrisation predicts the clean residual almost directly, and the network need
            not learn to cancel noise in order to say "nothing changes". With 1.0 skin came out mottled.
        rho: spacing; larger puts more steps at low noise (Karras et al. 2022, eq. 5).
        prediction: "consistency" re-noises the clean estimate with fresh noise at every step (multistep consistency sampling, Song et al.
            2023, algorithm 1), one tensor a step shared by all frames, so that the noise itself does not flicker; the same tensor at
            every step let its trace add up (variance explained on training portraits at 4 steps: 0.43 instead of 0.61). "sde", for the
            teacher, takes ancestral steps of the reverse diffusion, their fresh noise shared by all frames likewise; "ode" takes Euler
            steps of the probability-flow ODE dz/dσ = (z - f)/σ.
        few_step_sigmas: noise levels by number of steps, {"2": [10.0, 1.4], ...}, as `training.distillation` places them for a certain
            student; other numbers of steps, "ode" and "sde" use the formula above.
    """

    order = 1
    # Students learn levels for 1 to 8 steps; more add up noise at levels they never saw, and the mouth comes out torn.
    MAX_FEW_STEPS = 8

    @register_to_config
    def __init__(
        self, sigma_min: float = 0.02, sigma_max: float = 10.0, sigma_data: float = 0.25, rho: float = 7.0, prediction: str = "consistency",
        few_step_sigmas: dict[str, list[float]] | None = None,
    ):
        if prediction not in ("consistency", "ode", "sde"):
            raise ValueError(f'prediction must be "consistency", "ode" or "sde", got {prediction!r}.')
        if not (0 < sigma_min <= sigma_max and sigma_data > 0 and rho >= 0.1):  # below it, levels ** (1 / rho) has no end
            raise ValueError(f"sigma_min {sigma_min}, sigma_max {sigma_max}, sigma_data {sigma_data}, rho {rho}: not above 0 (rho: 0.1), "
                             "or falling.")
        for steps, levels in (few_step_sigmas or {}).items():
            if str(len(levels)) != steps or min(levels) <= 0:
                raise ValueError(f"few_step_sigmas: {steps!r} has {levels}, expected so many numbers above 0.")
        self.sigmas: torch.Tensor | None = None
        self.timesteps: torch.Tensor | None = None
        self.init_noise_sigma = sigma_max
        self._step_index: int | None = None  # of the step to come; None before the first one, which may be any

    @staticmethod
    def timestep(sigmas: torch.Tensor) -> torch.Tensor:
        """What the network is told of a noise level: ln σ / 4."""
        return sigmas.log() / 4

    @staticmethod
    def sigma(timesteps: torch.Tensor) -> torch.Tensor:
        """The noise level that a timestep stands for, exp(4·t): the inverse of `timestep`."""
        return (4 * timesteps).exp()

    def sigma_schedule(self, steps: int) -> torch.Tensor:
        """Noise levels [steps + 1], falling from σ_max, ending in 0."""
        low, high = self.config.sigma_min ** (1 / self.config.rho), self.config.sigma_max ** (1 / self.config.rho)
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
        return torch.cat([(high + ramp * (low - high)) ** self.config.rho, torch.zeros(1, dtype=torch.float64)]).float()

    def check_steps(self, num_inference_steps: int) -> None:
        """Raises InvalidInputError for more steps than a few-step sampler is good for; "ode" and "sde" take any number.

        Training may still look at more: `set_timesteps` does not ask.
        """
        placed = self.config.few_step_sigmas or {}
        if self.config.prediction == "consistency" and num_inference_steps > self.MAX_FEW_STEPS and str(num_inference_steps) not in placed:
            raise InvalidInputError(
                f"{num_inference_steps} denoising steps: a student takes 1 to {self.MAX_FEW_STEPS}, more would distort the mouth")

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Prepare `timesteps` [K] and `sigmas` [K + 1].

        The few-step schedule stops above σ_min: the last step lands on clean data anyway.
        """
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}.")
        if self.config.prediction == "consistency":
            placed = (self.config.few_step_sigmas or {}).get(str(num_inference_steps))
            levels = torch.tensor(placed) if placed else self.sigma_schedule(num_inference_steps + 1)[:-2]
            self.sigmas = torch.cat([levels, torch.zeros(1)]).to(device)
        else:
            self.sigmas = self.sigma_schedule(num_inference_steps).to(device)
        self.timesteps = self.timestep(self.sigmas[:-1])
        self._step_index = None

    def _index_of(self, timestep: float | torch.Tensor) -> int:
        """Which step of the schedule a timestep is; raises InvalidInputError where it is none, or not the one to come."""
        if self.timesteps is None:
            raise InvalidInputError("the scheduler has no timesteps yet: call set_timesteps first")
        wanted = torch.as_tensor(timestep).to(self.timesteps)
        found = (self.timesteps == wanted).nonzero().flatten().tolist() if wanted.numel() == 1 else []
        if not found:
            raise InvalidInputError(f"{timestep!r} is not one of the scheduler's {len(self)} timesteps")
        if self._step_index is None:
            return found[0]
        if self._step_index not in found:
            raise InvalidInputError(f"step {found[0] + 1} of {len(self)} out of order: step {self._step_index} was the last one taken; "
                                    "set_timesteps begins anew")
        return self._step_index

    def boundary_coefficients(self, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(c_skip, c_out, c_in) at noise levels `sigma`, each shaped like it."""
        data = self.config.sigma_data
        total = sigma.square() + data**2
        return data**2 / total, sigma * data / total.sqrt(), 1 / total.sqrt()

    def scale_model_input(self, sample: torch.Tensor, timestep: float | torch.Tensor) -> torch.Tensor:
        """c_in(σ)·z̃ at a timestep of the schedule; raises InvalidInputError as `step` does."""
        return sample * self.boundary_coefficients(self.sigmas[self._index_of(timestep)])[2]

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """z + σ·ε at the noise levels of `timesteps`, [B] or a scalar, of any schedule."""
        return self.corrupt(original_samples, noise, self.sigma(torch.as_tensor(timesteps)))

    @staticmethod
    def corrupt(clean: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        """z + σ·ε at noise levels `sigmas`, [B] or a scalar."""
        return clean + _expand(sigmas, clean) * noise

    def pred_original(self, model_output: torch.Tensor, sample: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        """The boundary-conditioned clean estimate f(z̃, σ)."""
        c_skip, c_out, _ = self.boundary_coefficients(_expand(sigmas, sample))
        return c_skip * sample + c_out * model_output

    def step(
        self, model_output: torch.Tensor, timestep: float | torch.Tensor, sample: torch.Tensor, noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None, return_dict: bool = True,
    ) -> TempoSyncSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """From noise level σ_i to σ_{i+1}.

        Args:
            model_output: F, [B, C, h, w]. sample: z̃ at σ_i.
            timestep: `timesteps[i]`; the first step after `set_timesteps` may be any, the others follow it in order.
            noise: unit noise of the next level, [1 or B, C, h, w]; by default drawn once for all B with `generator`. "ode" needs none.

        Raises:
            InvalidInputError: no `set_timesteps` before, a timestep that is none of `timesteps`, or one out of order.
        """
        index = self._index_of(timestep)
        sigma, sigma_next = self.sigmas[index], self.sigmas[index + 1]
        clean = self.pred_original(model_output, sample, sigma)
        # Of the next level's noise, `fresh` is new and `kept` is this level's: σ_{i+1}² = fresh² + kept².
        if self.config.prediction == "consistency":
            fresh = sigma_next
        elif self.config.prediction == "sde":
            fresh = sigma_next * (1 - (sigma_next / sigma).square()).sqrt()
        else:
            fresh = torch.zeros_like(sigma_next)
        kept = (sigma_next.square() - fresh.square()).clamp(min=0).sqrt()
        previous = clean + kept * (sample - clean) / sigma
        if fresh > 0:
            if noise is None:
                device = generator.device if generator else sample.device
                noise = torch.randn((1, *sample.shape[1:]), generator=generator, device=device)
            previous = previous + fresh * noise.to(sample.device, sample.dtype)
        self._step_index = index + 1
        return TempoSyncSchedulerOutput(prev_sample=previous, pred_original_sample=clean) if return_dict else (previous, clean)

    def __len__(self) -> int:
        return len(self.timesteps) if self.timesteps is not None else 0


def _expand(sigmas: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    sigmas = torch.as_tensor(sigmas, dtype=like.dtype, device=like.device)
    return sigmas.reshape(-1, *[1] * (like.ndim - 1)) if sigmas.ndim else sigmas
