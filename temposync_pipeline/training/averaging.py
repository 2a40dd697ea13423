"""The mean of several networks' weights: what they learnt in common stays, what each learnt by heart is damped.

    python -m temposync_pipeline.training.averaging --inputs runs/a runs/b --output runs/mean --base temposync-tiny

Denoisers, or with --component viseme_classifier classifiers.  With --base the output is a whole checkpoint: its other components,
scheduler and settings are those of the checkpoint BASE.
The runs must have started from the same weights (Wortsman et al. 2022, "Model soups").
"""

import argparse
import copy
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..checkpoints import checkpoint_folder
from ..errors import InvalidInputError
from ..models.denoiser_temposync import TempoSyncDenoiser
from ..models.viseme_classifier import VisemeClassifier
from .checkpointing import save_weights
from .denoising import load_component
from .from_clips import copy_components

COMPONENTS = {"denoiser": TempoSyncDenoiser, "viseme_classifier": VisemeClassifier}


def average(models: Sequence[nn.Module]) -> nn.Module:
    """A network with the mean of the weights, and the first one's configuration.

    Raises InvalidInputError for networks of different shapes.
    """
    states = [model.state_dict() for model in models]
    if len({tuple((name, tensor.shape) for name, tensor in state.items()) for state in states}) != 1:
        raise InvalidInputError("networks of different shapes have no mean")
    mean = copy.deepcopy(models[0])
    mean.load_state_dict({name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]})
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", nargs="+", required=True,
                        help="folders with a denoiser/, or denoisers themselves; one that is named twice counts twice")
    parser.add_argument("--component", choices=COMPONENTS, default="denoiser", help="what to take the mean of")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--base", help="checkpoint to take all the rest from")
    arguments = parser.parse_args()
    name = arguments.component
    models = [load_component(COMPONENTS[name], folder, name, torch.device("cpu")) for folder in arguments.inputs]
    if arguments.base:
        base = checkpoint_folder(arguments.base, ())
        copy_components(base, arguments.output, teacher=False)
        if name != "denoiser":
            shutil.copytree(base / "denoiser", arguments.output / "denoiser", dirs_exist_ok=True)
    save_weights(average(models), arguments.output / name)


if __name__ == "__main__":
    main()
