"""What the autoencoders give back, under the names that diffusers' own use."""

from dataclasses import dataclass

import torch

from ..bases import BaseOutput


@dataclass
class EncoderOutput(BaseOutput):
    """`latent`: what the input is coded as; its shape is the model's."""

    latent: torch.Tensor


@dataclass
class DecoderOutput(BaseOutput):
    """`sample`: what latents stand for; its shape is the model's."""

    sample: torch.Tensor
