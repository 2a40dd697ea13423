"""Everything random that a run draws from, as one value that can be kept and put back."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class RandomState:
    """The generators of Python, numpy and torch (all GPUs included), and the numpy generators a stage draws its batches from.

    `capture()` returns plain values and tensors, `restore()` puts them back in place.
    """

    def __init__(self, generators: Sequence[np.random.Generator] = ()):
        self.generators = list(generators)

    def capture(self) -> dict[str, Any]:
        legacy = np.random.get_state(legacy=False)
        return {
            "python": random.getstate(),
            "numpy": legacy | {"state": legacy["state"] | {"key": legacy["state"]["key"].tolist()}},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "generators": [generator.bit_generator.state for generator in self.generators],
        }

    def restore(self, state: dict[str, Any]) -> None:
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        for generator, value in zip(self.generators, state["generators"], strict=True):
            generator.bit_generator.state = value

    def reseed(self, seed: int, process: int) -> None:
        """Give process `process` of several draws of its own: the model was built alike everywhere, the batches must differ."""
        sequence = np.random.SeedSequence((seed, process))
        first, *others = sequence.generate_state(1 + len(self.generators)).tolist()
        random.seed(first)
        np.random.seed(first)
        torch.manual_seed(first)
        for generator, number in zip(self.generators, others):
            generator.bit_generator.state = type(generator.bit_generator)(number).state
