"""A teacher grown from a student: the same function with twice the channels, to be trained further.

    python -m temposync_pipeline.training.widening --input runs/student --output runs/teacher_start

On a CPU a network of 24 M parameters sees a quarter of the samples that one of 6 M sees in the same time, and ends up the worse of
the two.  Widened from the small one (Net2Net, Chen et al. 2016, section 2.2) it starts where that one stopped:
every channel is doubled, and what reads the two copies weighs them with unequal shares that add up to the old weight, so that
gradients tell them apart.
"""

import argparse
from pathlib import Path

import torch

from ..models.denoiser_temposync import TempoSyncDenoiser
from .checkpointing import save_weights

# Channels of an attention head (`models.denoiser_temposync.SpatialAttention`).
HEAD_CHANNELS = 32


def widen(denoiser: TempoSyncDenoiser, generator: torch.Generator | None = None) -> TempoSyncDenoiser:
    """A denoiser with twice the `block_out_channels` and, to rounding, the same output."""
    config = dict(denoiser.config) | {"block_out_channels": [2 * width for width in denoiser.config.block_out_channels]}
    wide = TempoSyncDenoiser.from_config(config)
    sources = denoiser.state_dict()
    wide.load_state_dict({name: _widen_tensor(name, sources[name], target.shape, generator) for name, target in wide.state_dict().items()})
    return wide


def _widen_tensor(name: str, source: torch.Tensor, shape: torch.Size, generator: torch.Generator | None) -> torch.Tensor:
    """Doubles every dimension of `source` that `shape` has twice as large: copies of what is written, shares of what is read."""
    for dim in range(source.ndim):
        if shape[dim] != 2 * source.shape[dim]:
            continue
        reads = dim == 1 and name.endswith("weight") and source.ndim > 1
        source = source.index_select(dim, _doubled(name, source.shape[dim], reads))
        if reads:
            source = source * _shares(source.shape, name, generator)
    return source.clone()


def _doubled(name: str, count: int, reads: bool) -> torch.Tensor:
    """Which old channel each new one copies.  Copies are neighbours, so that groups of a group norm stay groups; but a pixel shuffle
    keeps its four places a channel together, and attention its heads, which are copied whole."""
    if ("to_qkv" in name and not reads) or ("to_out" in name and reads):
        unit = HEAD_CHANNELS
    elif name.startswith("upsample") and not reads:
        unit = 4
    else:
        unit = 1
    return torch.arange(count).unflatten(0, (-1, unit)).repeat_interleave(2, dim=0).flatten()


def _shares(shape: torch.Size, name: str, generator: torch.Generator | None) -> torch.Tensor:
    """Factors [out, in, 1, …] of the old weight, 0.4 to 0.6 and the rest for the two copies of each channel."""
    unit = HEAD_CHANNELS if "to_out" in name else 1
    first = 0.4 + 0.2 * torch.rand(shape[0], shape[1] // (2 * unit), 1, unit, generator=generator)
    return torch.cat([first, 1 - first], dim=2).flatten(1).reshape(shape[0], shape[1], *[1] * (len(shape) - 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder with the student's denoiser/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    student = TempoSyncDenoiser.from_pretrained(arguments.input, subfolder="denoiser")
    save_weights(widen(student, torch.Generator().manual_seed(arguments.seed)), arguments.output / "denoiser")


if __name__ == "__main__":
    main()
