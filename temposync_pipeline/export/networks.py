"""Which networks make a video, and what other runtimes have to know of them.

A network is a method of a module that takes tensors by name and returns tensors; what lies between the networks (normalising latents,
sampling, moving the photo's pixels) is the pipeline's.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from inspect import getfile, signature
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..face.crop import LATENT_STRIDE
from ..face.inner_mouth import INNER_SHAPE, SCALE
from ..face.warp import INNER_WINDOW
from ..models.denoiser_temposync import TempoSyncDenoiserOutput
from ..models.viseme_classifier import VisemeOutput

Tensors = dict[str, torch.Tensor]


def first(values: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return values[0]


@dataclass(frozen=True)
class Network:
    """A network of a pipeline.

    name: of its files. path: of its module from the pipeline on. inputs: arguments that are used, and which of their dimensions may have
    any size. outputs: names of the tensors it returns. pack: makes of these what is returned.
    per_frame: whether the first dimension of `inputs` that may have any size counts frames, of which a video has many.
    single: inputs that hold one of a kind. method: of the module. asked_by: an attribute of pipelines that ask it, neither None nor False;
    "" = all that have it. example: inputs of a call, for what not every video asks: it is got ready with the others.
    """

    name: str
    path: str
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    pack: Callable[[tuple[torch.Tensor, ...]], Any] = first
    per_frame: bool = False
    single: tuple[str, ...] = ()
    method: str = "forward"
    asked_by: str = ""
    example: Callable[[nn.Module], Tensors] | None = None

    def module(self, pipeline: Any) -> nn.Module | None:
        """Its module; None where the pipeline has none, or does not ask it."""
        found = pipeline if not self.asked_by or getattr(pipeline, self.asked_by, None) else None
        for part in self.path.split("."):
            found = getattr(found, part, None)
        return found

    def torch_forward(self, module: nn.Module) -> Callable:
        """The module's own method, also where another runtime's has taken its place."""
        return getattr(type(module), self.method).__get__(module)

    def is_exact(self, module: nn.Module) -> bool:
        """Whether its weights are float32: a file would not hold others."""
        return all(weight.dtype == torch.float32 for weight in module.parameters())

    def named(self, module: nn.Module, arguments: tuple, keywords: Mapping[str, Any]) -> Tensors | None:
        """The inputs of a call by name, what autocast has made bfloat16 in float32.

        None where it has others than `inputs`, is given no tensor for one of them, or several for one of `single`, or where the weights are
        not float32.
        """
        given = signature(self.torch_forward(module)).bind(*arguments, **keywords).arguments
        if any(value is not None and not isinstance(value, bool) and name not in self.inputs for name, value in given.items()):
            return None
        tensors = {name: given.get(name) for name in self.inputs}
        known = all(isinstance(value, torch.Tensor) for value in tensors.values()) and all(len(tensors[name]) == 1 for name in self.single)
        if not known or not self.is_exact(module):
            return None
        lowered = torch.bfloat16 if torch.is_autocast_enabled("cpu") else None
        return {name: value.float() if value.dtype == lowered else value for name, value in tensors.items()}

    def tensors_of(self, output: Any) -> tuple[torch.Tensor, ...]:
        """What `pack` was given, of what a forward returned."""
        if isinstance(output, torch.Tensor):
            return (output,)
        return output if isinstance(output, tuple) else tuple(getattr(output, field.name) for field in fields(output))


def _denoised(values: tuple[torch.Tensor, ...]) -> TempoSyncDenoiserOutput:
    return TempoSyncDenoiserOutput(sample=values[0])


def _moved(values: tuple[torch.Tensor, ...]) -> Any:
    from ..models.transformer_talking_head import TalkingHeadOutput  # imports much of diffusers

    return TalkingHeadOutput(sample=values[0])


def _heard(values: tuple[torch.Tensor, ...]) -> VisemeOutput:
    return VisemeOutput(logits=values[0], hidden=values[1])


def some_latents(decoder: nn.Module) -> Tensors:
    """What `Decoder` takes, {"latents": float32 [2, C, 7, 8]}: where mouths are painted, only lips that close over teeth ask it."""
    return {"latents": torch.zeros(2, decoder.layers[0].in_channels, *INNER_WINDOW[2:])}


def some_sound(classifier: nn.Module) -> Tensors:
    """What `VisemeClassifier` takes, {"input_values": float32 [2, 16000]}."""
    return {"input_values": torch.zeros(2, 16_000)}


@torch.no_grad()
def some_mouths(decoder: nn.Module, frames: int = 3) -> Tensors:
    """What `InnerMouthDecoder` takes for so many frames, random numbers of its `forward`'s shapes in float32: open mouths alone ask it."""
    rows, columns = INNER_SHAPE
    some = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    latents = some(frames, decoder.coarsest[0].in_channels // 2, rows + 2, columns + 2)
    picture = some(1, 3, *(SCALE * LATENT_STRIDE * cells for cells in (rows, columns))).to(decoder.coarsest[0].weight.dtype)
    to_middle, to_fine = (part.float() for part in decoder.seen(picture))
    hidden = some(frames, 1, LATENT_STRIDE * rows, LATENT_STRIDE * columns).sigmoid()
    return {"latents": latents, "reference": latents[:1], "hidden": hidden, "to_middle": to_middle, "to_fine": to_fine}


NETWORKS = (
    Network("viseme_classifier", "viseme_classifier", {"input_values": (0, 1)}, ("logits", "hidden"), _heard, example=some_sound),
    Network("lip_motion", "lip_motion", {"hidden": (0, 1), "loudness": (0, 1), "visemes": (0, 1)}, ("shapes",)),
    Network("face_detector", "face_aligner.detector", {"x": (0, 2, 3)}, ("cells",)),
    Network("face_landmarks", "face_aligner.landmark_network", {"x": (0,)}, ("landmarks", "log_error", "logit", "log_heat"), tuple),
    Network("encoder", "vae.encoder", {"pixels": (0, 2, 3)}, ("latents",)),
    Network("identity_encoder", "identity_encoder", {"latents": (0,)}, ("identity",)),
    Network(
        "denoiser", "denoiser",
        {"sample": (0,), "timestep": (), "reference": (0,), "context": (0,), "visemes": (0,), "identity": (0,), "lips": (0,)},
        ("raw",), _denoised, per_frame=True),
    Network("decoder", "vae.decoder", {"latents": (0, 2, 3)}, ("pixels",), per_frame=True, example=some_latents),
    # In a film every frame is its own reference: that is left to torch.
    Network("motion_decoder", "vae.motion_decoder", {"latents": (0,), "reference": ()}, ("flow", "hidden"), tuple, per_frame=True,
            single=("reference",), asked_by="denoiser"),
    Network("seen_mouth", "vae.inner_decoder", {"picture": (0,)}, ("to_middle", "to_fine"), tuple, method="seen", asked_by="denoiser"),
    Network(
        "inner_decoder", "vae.inner_decoder", {"latents": (0,), "reference": (), "hidden": (0,), "to_middle": (), "to_fine": ()},
        ("pixels",), per_frame=True, single=("reference", "to_middle", "to_fine"), asked_by="denoiser", example=some_mouths),
    Network("speech_encoder", "speech_autoencoder", {"features": (0, 1)}, ("codes",), method="encode_normalised"),
    Network(
        "transformer", "transformer",
        {"sample": (0,), "timestep": (0,), "reference": (0,), "speech": (0,), "given_reference": (0,), "given_speech": (0,)},
        ("velocity",), _moved),
    Network("temporal_encoder", "temporal_vae.encoder", {"residual": (0, 1), "reference": (0,)}, ("coded",), asked_by="recodes_kernels"),
    Network("temporal_decoder", "temporal_vae.decoder", {"latents": (0, 1), "reference": (0,)}, ("residual",)),
)


def networks_of(pipeline: Any) -> Iterator[tuple[Network, nn.Module]]:
    """Each of `NETWORKS` that the pipeline has, with its module."""
    for network in NETWORKS:
        module = network.module(pipeline)
        if module is not None:
            yield network, module


class TensorsOnly(nn.Module):
    """A network that takes its inputs in order and returns a tuple of tensors."""

    def __init__(self, network: Network, module: nn.Module):
        super().__init__()
        self.network, self.module = network, module

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.network.tensors_of(self.network.torch_forward(self.module)(**dict(zip(self.network.inputs, inputs))))


def traced(network: Network, module: nn.Module, example: Tensors) -> torch.export.ExportedProgram:
    """The network's program for inputs of any size in `network.inputs`' dimensions; `example` are inputs of a call."""
    shapes, inputs = [], []
    for name, dimensions in network.inputs.items():
        value = example[name].detach().clone()
        for dimension in dimensions:
            if value.shape[dimension] < 3:  # a size of 1, also where it is all but one of 2, would be taken for the only one
                value = value.repeat_interleave(3, dimension)
        inputs.append(value)
        shapes.append(dict.fromkeys(dimensions, torch.export.Dim.DYNAMIC))
    return torch.export.export(TensorsOnly(network, module).eval(), tuple(inputs), dynamic_shapes=(tuple(shapes),), strict=False)


def fixed_sizes(network: Network, inputs: Tensors) -> list[list[int]]:
    """The sizes of the dimensions that may not have any size, input by input."""
    return [[size for axis, size in enumerate(value.shape) if axis not in network.inputs[name]] for name, value in inputs.items()]


def sizes_but_frames(network: Network, inputs: Tensors) -> list[list[int]]:
    """All sizes but those of the first dimensions that may have any, input by input; none where the network has no frames."""
    if not network.per_frame:
        return []
    return [list(value.shape[1:] if 0 in network.inputs[name] else value.shape) for name, value in inputs.items()]


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a network's code and weights, the same for float16 and float32 copies of the same checkpoint."""
    digest = hashlib.sha256(Path(getfile(type(module))).read_bytes())
    for name, weight in sorted(module.state_dict().items()):
        digest.update(name.encode() + weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def recording(pipeline: Any) -> Iterator[dict[str, Tensors]]:
    """Within the block, keep the inputs of each network's last call of the most that it was given at once, by the network's name."""
    calls: dict[str, Tensors] = {}
    watched = [(network, module, vars(module).get(network.method)) for network, module in networks_of(pipeline)]
    for network, module, own in watched:
        keeping = partial(_kept, calls, network, module, getattr(module, network.method))
        if hasattr(own, "is_ready"):  # of another runtime
            vars(keeping)["is_ready"] = own.is_ready
        setattr(module, network.method, keeping)
    try:
        yield calls
    finally:
        for network, module, before in watched:
            vars(module).pop(network.method, None)
            if before is not None:
                setattr(module, network.method, before)


def _kept(
    calls: dict[str, Tensors], network: Network, module: nn.Module, forward: Callable, *arguments: Any, **keywords: Any
) -> Any:
    """What a forward returns; its inputs are kept in `calls` unless larger ones are."""
    inputs = network.named(module, arguments, keywords)
    if inputs is not None and _size(network, inputs) >= _size(network, calls.get(network.name, {})):
        calls[network.name] = {name: value.detach().clone() for name, value in inputs.items()}
    return forward(*arguments, **keywords)


def _size(network: Network, inputs: Tensors) -> int:
    """How much the inputs hold, by the dimensions that may have any size; none hold 0."""
    sizes = (prod(value.shape[axis] for axis in network.inputs[name]) for name, value in inputs.items())
    return max(sizes, default=0)
