"""What belongs to one call of a pipeline and to no other, so that one pipeline can serve several threads at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import torch

from ..bases.packed import PackedWeights
from ..errors import InvalidInputError

Tensors = dict[str, torch.Tensor]
StepCallback = Callable[[Any, int, torch.Tensor, Tensors], Tensors | None]
# Frames that are denoised at once, unless the caller says otherwise: fewer leave cores waiting, more take memory, and no less time.
CHUNK_SIZE = 24
# Frames that are decoded at once: more take memory, and no less time.
DECODED_TOGETHER = 8


@dataclass
class Sampling:
    """How a call samples; `mouth_amplitude` None stands for the pipeline's own.

    `scheduler` is the call's own copy, whose step counter nobody else moves. `composition` is one of `rendering.COMPOSITIONS`,
    `guidance` the method's own, `together` whether clips are denoised so. `blink_rate` and `head_motion` are shares of what talkers do, for
    methods that move the mouth alone. `callback` is given the tensors named in `tensor_inputs`. `packed` are weights of the networks that a
    frame takes, as they are during the call.
    """

    scheduler: Any
    num_inference_steps: int
    mouth_amplitude: float | None
    chunk_size: int
    composition: str
    guidance: Any = None
    together: bool = True
    blink_rate: float = 0.0
    head_motion: float = 0.0
    callback: StepCallback | None = None
    tensor_inputs: Sequence[str] = ("latents",)
    interrupted: bool = False
    packed: PackedWeights = field(default_factory=PackedWeights)

    def chunks(self, count: int) -> Iterator[range]:
        """Frames that are made together, of `count`.

        What comes after the denoiser waits for a few alone at first, where that leaves what is decoded together as it is.
        """
        begin = DECODED_TOGETHER if self.callback is None and self.chunk_size % DECODED_TOGETHER == 0 else self.chunk_size
        yield range(min(begin, count))
        for start in range(begin, count, self.chunk_size):
            yield range(start, min(start + self.chunk_size, count))

    def report(self, pipeline: "RunningCalls", step: int, timestep: torch.Tensor, tensors: Tensors) -> Tensors:
        """Tell the callback of a step; returns `tensors`, with those that it replaced.

        Raises InvalidInputError where it returns neither None nor a dictionary, or tensors of another shape.
        """
        if self.callback is None:
            return tensors
        changed = self.callback(pipeline, step, timestep, {name: tensors[name] for name in self.tensor_inputs})
        if changed is None:
            return tensors
        if not isinstance(changed, Mapping):
            raise InvalidInputError(f"callback_on_step_end returned a {type(changed).__name__}, expected a dictionary of tensors or None")
        return tensors | {name: _in_place_of(tensors[name], name, tensor) for name, tensor in changed.items() if name in tensors}


def _in_place_of(tensor: torch.Tensor, name: str, other: Any) -> torch.Tensor:
    """`other` where and as precise as `tensor` is; raises InvalidInputError for another shape."""
    if not isinstance(other, torch.Tensor) or other.shape != tensor.shape:
        found = list(other.shape) if isinstance(other, torch.Tensor) else f"a {type(other).__name__}"
        raise InvalidInputError(f"callback_on_step_end returned {name}: {found}, expected a tensor {list(tensor.shape)}")
    return other.to(tensor)


def unit_noise(shape: Sequence[int], generator: torch.Generator | None) -> torch.Tensor:
    """Normally distributed numbers, on the generator's device; raises InvalidInputError for what is no generator, as a mere seed."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise InvalidInputError(f"generator: a {type(generator).__name__}, expected a torch.Generator, as torch.Generator().manual_seed(0)")
    return torch.randn(shape, generator=generator, device=generator.device if generator else "cpu")


class RunningCalls:
    """diffusers' `num_timesteps` and `interrupt` for a pipeline that several threads may be calling.

    Within a call (in its callback, say) both speak of that call; elsewhere `num_timesteps` is that of the call that began last, and setting
    `_interrupt`, diffusers' way to stop early, stops all calls.
    """

    _num_timesteps = 0

    @contextmanager
    def _running(self, sampling: Sampling) -> Iterator[None]:
        """While a call runs, from its start to its end on one thread."""
        calls: dict[int, Sampling] = self.__dict__.setdefault("_calls", {})
        thread, self._num_timesteps = get_ident(), sampling.num_inference_steps
        outer = calls.get(thread)  # a callback may call the pipeline again
        calls[thread] = sampling
        try:
            yield
        finally:
            del calls[thread]
            if outer is not None:
                calls[thread] = outer

    def _own_calls(self) -> list[Sampling]:
        """The call of this thread, or, where it has none, those of all threads."""
        calls = self.__dict__.get("_calls", {})
        return [calls[get_ident()]] if get_ident() in calls else list(calls.values())

    @property
    def num_timesteps(self) -> int:
        own = self._own_calls()
        return own[0].num_inference_steps if len(own) == 1 else self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return any(call.interrupted for call in self._own_calls())

    @property
    def _interrupt(self) -> bool:
        return self.interrupt

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        for call in self._own_calls():
            call.interrupted = value
