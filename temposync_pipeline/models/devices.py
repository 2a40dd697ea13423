"""Where models compute."""

import torch
from torch import nn

from ..bases import group_offload_device


def execution_device(model: nn.Module) -> torch.device:
    """Where a model's inputs belong: the device it computes on, also where diffusers or accelerate keep its weights elsewhere meanwhile.

    `model.device` is then the CPU, or "meta".
    """
    if (offloaded_from := group_offload_device(model)) is not None:
        return offloaded_from
    for module in model.modules():
        # Not asked of the module itself, whose answer to what it has not is slow: every frame asks.
        device = getattr(vars(module).get("_hf_hook"), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(model.parameters()).device
