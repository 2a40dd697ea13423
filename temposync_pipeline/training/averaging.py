"""The mean of several denoisers' weights: what they learnt in common stays, what each learnt by heart is damped.

    python -m temposync_pipeline.training.averaging --inputs runs/a runs/b --output runs/mean --base temposync-tiny

With --base the output is a whole checkpoint: its other components, scheduler and settings are those of the checkpoint BASE.
The runs must have started from the same weights (Wortsman et al. 2022, "Model soups").
"""

import argparse
from pathlib import Path

import torch

from ..checkpoints import checkpoint_folder
from ..errors import InvalidInputError
from ..models.denoiser_temposync import TempoSyncDenoiser
from .checkpointing import save_weights
from .denoising import load_component
from .from_clips import copy_components


def average(denoisers: list[TempoSyncDenoiser]) -> TempoSyncDenoiser:
    """A denoiser with the mean of the weights, and the first one's configuration.

    Raises InvalidInputError for networks of different shapes.
    """
    states = [denoiser.state_dict() for denoiser in denoisers]
    if len({tuple((name, tensor.shape) for name, tensor in state.items()) for state in states}) != 1:
        raise InvalidInputError("denoisers of different shapes have no mean")
    mean = TempoSyncDenoiser.from_config(denoisers[0].config)
    mean.load_state_dict({name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]})
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", nargs="+", required=True,
                        help="folders with a denoiser/, or denoisers themselves; one that is named twice counts twice")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--base", help="checkpoint to take all the rest from")
    arguments = parser.parse_args()
    denoisers = [load_component(TempoSyncDenoiser, folder, "denoiser", torch.device("cpu")) for folder in arguments.inputs]
    if arguments.base:
        copy_components(checkpoint_folder(arguments.base, ()), arguments.output, teacher=False)
    save_weights(average(denoisers), arguments.output / "denoiser")


if __name__ == "__main__":
    main()
