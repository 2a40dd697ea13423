"""A pipeline's large networks computed by OpenVINO or ONNX Runtime instead of torch.

    pipe = TempoSyncPipeline.from_pretrained("temposync-tiny", runtime="openvino")

Which precision runs: OpenVINO multiplies in bfloat16 where the pipeline would in torch (`use_bfloat16`), in float32 otherwise; ONNX Runtime
always computes in float32.  A network's file is the checkpoint's own (`temposync export`) where it has one of these weights, else it is
written at the first call, once, into the cache: $TEMPOSYNC_CACHE, or temposync in the user's cache folder.
"""

import gc
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__, startup
from ..bases.packed import PackedWeights
from ..checkpoints import checkpoint_folder
from ..checkpoints.schema import read_json
from ..errors import InvalidInputError
from ..face.crop import CROP_SIZE, LATENT_STRIDE, LATENT_WINDOW
from ..face.lip_shape import NUM_LIP_SHAPE
from ..face.warp import inner_cells
from ..files import cache_folder, make_cache_folder, unfinished, write_whole
from ..models.autoencoder_temporal import FRAMES
from ..models.devices import execution_device
from ..models.precision import inference_autocast
from ..pipelines.sampling import CHUNK_SIZE
from . import RUNTIMES, check_runtime, installed_runtimes
from .files import FORMATS, check_format, exported_file, write_network
from .networks import Network, Tensors, fixed_sizes, networks_of, sizes_but_frames, some_mouths, weights_hash
from .sessions import Session, open_session

logger = logging.getLogger(__name__)

# Those of whose time a video is made, all by their forward; the others run once a video, or take little of it.
COMPILED = ("viseme_classifier", "denoiser", "decoder", "motion_decoder", "inner_decoder", "transformer", "temporal_decoder")
# By which part of torch's time another must be faster to be chosen, as it takes more memory: where OpenVINO's networks took 0.8 of that
# time, whole videos took 0.9, where they took as long 0.96.
WORTH_IT = 0.15
# Seconds after which threads that wait for more to compute are asleep.
PAUSE = 0.25


class CompiledForward:
    """Takes the place of a network's forward: another runtime's, for float32 on the CPU that needs no gradients, else torch's.

    Args:
        network, module: what it computes. runtime: one of `RUNTIMES`.
        exported: folders of files in the runtime's format (`export.files.export_pipeline`).
    """

    def __init__(self, network: Network, module: nn.Module, runtime: str, exported: Sequence[Path]):
        self.network, self.module, self.runtime, self.exported = network, module, runtime, exported
        self._sessions: dict[tuple, Session | None] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_sessions", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _sessions={}, _lock=threading.Lock())

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        inputs = None if torch.is_grad_enabled() else self.network.named(self.module, arguments, keywords)
        if inputs is None or any(value.device.type != "cpu" or value.dtype not in (torch.float32, torch.bool) for value in inputs.values()):
            return self.network.torch_forward(self.module)(*arguments, **keywords)
        session = self._session(inputs)
        return self.network.torch_forward(self.module)(*arguments, **keywords) if session is None else self.network.pack(session(inputs))

    @cached_property
    def _hash(self) -> str:
        return weights_hash(self.module)

    def _exported_file(self, fixed: list[list[int]] | None = None) -> Path | None:
        # A folder that is not there must not cost the hash.
        found = (exported_file(folder, self.network, self._hash, fixed) for folder in self.exported if folder.is_dir())
        return next((path for path in found if path is not None), None)

    def _session(self, inputs: Tensors) -> Session | None:
        """For tensors of these shapes, in the precision that torch would use; None where the file cannot be read."""
        fixed = fixed_sizes(self.network, inputs)
        key = str(fixed + sizes_but_frames(self.network, inputs)), torch.is_autocast_enabled("cpu")
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = self._opened(self._file(inputs, fixed), inputs, key[1])
            return self._sessions[key]

    def _opened(self, path: Path, inputs: Tensors, bfloat16: bool) -> Session | None:
        try:
            return open_session(path, self.network, inputs, bfloat16)
        except Exception as error:  # each runtime has its own for a damaged file
            reason = " ".join(str(error).split())[:200]
            logger.warning("%s: cannot be used, torch computes this network; temposync export writes it anew (%s)", path, reason)
            return None

    def _file(self, inputs: Tensors, fixed: list[list[int]]) -> Path:
        """The network's file for these shapes, written now where there is none."""
        form = RUNTIMES[self.runtime]
        own = self._exported_file(fixed)
        if own is not None:
            return own
        sizes = "_".join("x".join(map(str, shape)) for shape in fixed if shape)
        kept = f"{self.network.name}-{self._hash[:16]}"
        path = cache_folder() / kept / f"{self.network.name}-{sizes}-torch{version('torch').split('+')[0]}{FORMATS[form]}"
        if not path.exists():
            make_cache_folder(kept)
            logger.info("%s: compiling it for %s, once", self.network.name, self.runtime)
            temporary = unfinished(path)
            try:
                write_network(self.network, self.module, inputs, temporary)
                for suffix in (".bin", path.suffix):  # the weights first: where the name is, all is there
                    if temporary.with_suffix(suffix).exists():
                        os.replace(temporary.with_suffix(suffix), path.with_suffix(suffix))
            finally:
                for suffix in (".bin", path.suffix):
                    temporary.with_suffix(suffix).unlink(missing_ok=True)
        return path

    def prepare(self) -> None:
        """Write the file of a network that not every video asks, if there is none: it could be waited for in the middle of one."""
        if self.network.example is not None and self.network.is_exact(self.module) and not self.is_ready():
            inputs = self.network.example(self.module)
            self._file(inputs, fixed_sizes(self.network, inputs))

    def is_ready(self) -> bool:
        """Whether a file of the network is at hand, in the checkpoint or in the cache."""
        if self._exported_file() is not None:
            return True
        name, suffix = self.network.name, FORMATS[RUNTIMES[self.runtime]]
        return any(cache_folder().glob(f"{name}-*/*{suffix}")) and any(cache_folder().glob(f"{name}-{self._hash[:16]}/*{suffix}"))


def use_runtime(pipeline: Any, runtime: str, checkpoint: Path | None = None) -> None:
    """Let a pipeline compute its large networks (`COMPILED`) with a runtime.

    Args:
        runtime: "torch", "openvino", "onnxruntime", or "auto": torch, or the fastest that is installed where its networks take less than
            0.85 of torch's time (`WORTH_IT`), for float32 on a CPU; measured once for these networks, compiled for that if need be, and
            remembered.
        checkpoint: its folder, which may hold files of its own ("openvino", "onnx").

    Raises InvalidInputError for another name, or a runtime that is not installed.
    """
    check_runtime(runtime)
    asked, runtime = runtime, _fastest(pipeline, checkpoint) if runtime == "auto" else runtime
    forwards = _forwards(pipeline, runtime, checkpoint)
    if asked != "auto":
        _warn_of_first_use(runtime, forwards)
    for network, module in networks_of(pipeline):
        if isinstance(vars(module).get(network.method), CompiledForward):
            vars(module).pop(network.method)
    for forward in forwards:
        forward.prepare()
        setattr(forward.module, forward.network.method, forward)
    pipeline.runtime = runtime


def load_runtime(pipeline: Any, runtime: str, name: str | PathLike, **hub_options: Any) -> None:
    """`use_runtime` with the files that the checkpoint of that name has; `hub_options`: see `checkpoints.hub.download_checkpoint`."""
    check_runtime(runtime)
    names = [runtime] if runtime != "auto" else installed_runtimes()
    formats = [RUNTIMES[name] for name in names if name in RUNTIMES]
    use_runtime(pipeline, runtime, checkpoint_folder(name, (), extra=formats, **hub_options) if formats else None)


def _forwards(pipeline: Any, runtime: str, checkpoint: Path | None) -> list[CompiledForward]:
    if runtime == "torch":
        return []
    folders = [parent / RUNTIMES[runtime] for parent in (checkpoint, cache_folder()) if parent is not None]
    return [CompiledForward(network, module, runtime, folders) for network, module in networks_of(pipeline) if network.name in COMPILED]


def _warn_of_first_use(name: str, compiled: Sequence[CompiledForward]) -> None:
    if not _are_ready(compiled):
        logger.warning("%s is used for the first time: it compiles the networks, once, which can take more than a minute", name)


def _are_ready(compiled: Sequence[CompiledForward]) -> bool:
    return all(forward.is_ready() for forward in compiled if forward.network.is_exact(forward.module))


def _fastest(pipeline: Any, checkpoint: Path | None) -> str:
    """Of those that can be used, by what was measured on this machine, or is measured now."""
    own = [(network, module) for network, module in networks_of(pipeline) if network.name in COMPILED]
    if any(execution_device(module).type != "cpu" or not network.is_exact(module) for network, module in own):
        return "torch"  # the others would leave it to torch
    candidates = {name: _forwards(pipeline, name, checkpoint) for name in installed_runtimes()}
    candidates = {name: compiled for name, compiled in candidates.items() if _are_ready(compiled) or _can_compile(name)}
    if list(candidates) == ["torch"]:
        return "torch"
    path = cache_folder() / "fastest.json"
    hashes = [forward._hash[:8] for forward in candidates[list(candidates)[-1]]]
    machine = platform.processor() or platform.machine()
    setting = [f"temposync {__version__}", f"{CHUNK_SIZE} frames", f"over {1 - WORTH_IT}", machine, torch.get_num_threads()]
    setting += [pipeline.use_bfloat16, "lean" if startup.lean else "full", *hashes]
    setting += [f"{name} {_version(name)}" for name in candidates]
    try:
        known = read_json(path)
    except (OSError, ValueError):
        known = {}
    key = " ".join(map(str, setting))
    if known.get(key) not in list(candidates):
        known[key] = _measured_fastest(pipeline, candidates)
        logger.warning("%s computes videos here from now on (%s)", known[key], path)
        with suppress(OSError, InvalidInputError):  # where it cannot be kept it is measured again
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(known, indent=2) + "\n")
    return known[key]


def _can_compile(name: str) -> bool:
    """Whether what writes a runtime's files is installed, and there is a place for them."""
    try:
        check_format(RUNTIMES[name])
        make_cache_folder("compiled")
    except (InvalidInputError, OSError):
        return False
    return True


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # of a package of another name, onnxruntime-gpu for one
        return "unknown"


def _measured_fastest(pipeline: Any, candidates: Mapping[str, Sequence[CompiledForward]]) -> str:
    """Torch, or the fastest of those whose networks can be compiled: one of somebody's own may be such that it cannot."""
    usable = {"torch": candidates["torch"]}
    for name, compiled in candidates.items():
        if name == "torch":
            continue
        _warn_of_first_use(name, compiled)
        try:
            for forward in compiled:
                forward.prepare()
            time_runtimes(pipeline, {name: compiled}, rounds=1)
            usable[name] = compiled
        except Exception as error:  # torch's exporter and each runtime have their own
            logger.warning("%s: left out (%s)", name, " ".join(str(error).split())[:200])
    if list(usable) == ["torch"]:
        return "torch"
    times = time_runtimes(pipeline, usable)
    times["torch"] *= 1 - WORTH_IT
    return min(times, key=times.__getitem__)


@torch.inference_mode()
def time_runtimes(pipeline: Any, forwards: Mapping[str, Sequence[CompiledForward]], rounds: int = 9) -> dict[str, float]:
    """Seconds that each runtime takes for the networks of a chunk of frames (`calls_of_frames`), torch with packed weights as in a video.

    Of each one's rounds the shortest counts. They take turns, so that all meet what else the machine is doing, each after a pause: the
    threads of the one before may keep cores busy, waiting.  A process that only makes videos takes what a long one takes from then on
    (`startup.expect_long_work`): with less, torch's networks take half as long again when they are asked alone.
    """
    if startup.lean:
        gc.collect()  # what compiling left
        startup.expect_long_work()
    packed, times = PackedWeights(), dict.fromkeys(forwards, float("inf"))
    calls = calls_of_frames(pipeline, CHUNK_SIZE)
    asked = {name: {forward.module: forward for forward in compiled} for name, compiled in forwards.items()}
    for name in rounds * list(forwards):
        time.sleep(PAUSE)
        with packed.in_use(), inference_autocast(calls[-1][1]["latents"], pipeline.use_bfloat16):
            started = time.perf_counter()
            for module, inputs in calls:
                asked[name].get(module, type(module).forward.__get__(module))(**inputs)
            times[name] = min(times[name], time.perf_counter() - started)
    return times


def calls_of_frames(pipeline: Any, frames: int) -> list[tuple[nn.Module, Tensors]]:
    """The networks that so many frames of a video take, of `COMPILED`, each as often as they take it, and inputs for it: random numbers.

    Four steps take the denoiser twice a frame; where the photo moves, the inside of an open mouth is painted, or its colours decoded.  Of
    methods that move the whole face: those of a clip.
    """
    vae, denoiser = pipeline.vae, getattr(pipeline, "denoiser", None)
    some = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    if denoiser is None:
        return _calls_of_a_clip(pipeline, some)
    latents = some(frames, vae.config.latent_channels, *LATENT_WINDOW[2:]).contiguous(memory_format=torch.channels_last)
    config = denoiser.config
    given = {"sample": latents, "timestep": some(1)[0], "reference": latents, "context": latents,
             "visemes": some(frames, config.viseme_window, config.num_visemes).softmax(-1),
             "identity": some(frames, config.identity_channels), "lips": some(frames, NUM_LIP_SHAPE)}
    calls = 2 * [(denoiser, given)]
    if vae.knows_motion:
        calls.append((vae.motion_decoder, {"latents": latents, "reference": latents[:1]}))
    if vae.knows_inner_mouth:
        return [*calls, (vae.inner_decoder, some_mouths(vae.inner_decoder, frames))]
    return [*calls, (vae.decoder, {"latents": inner_cells(latents) if vae.knows_motion else latents})]


def _calls_of_a_clip(pipeline: Any, some: Callable[..., torch.Tensor]) -> list[tuple[nn.Module, Tensors]]:
    """Those of `calls_of_frames` for one clip of a `WholeFacePipeline`, or one chunk."""
    config, speech = pipeline.transformer.config, pipeline.speech_autoencoder.config
    count, cells, size = pipeline.latent_frames_together, CROP_SIZE // LATENT_STRIDE, config.sample_size
    reference, given = some(1, config.reference_channels, cells, cells), torch.ones(1, dtype=torch.bool)
    latents = some(1, count, config.latent_channels, size, size)
    told = {"sample": latents.transpose(1, 2), "timestep": some(1, count).sigmoid(),
            "reference": some(1, config.portrait_channels, count, size, size) if config.portrait_channels else reference,
            "speech": some(1, count, speech.tokens, config.speech_channels + config.lip_channels),
            "given_reference": given, "given_speech": given}
    decoded = [(pipeline.temporal_vae.decoder, {"latents": part, "reference": reference}) for part in (latents[:, :2], latents)]
    pictures = some(FRAMES * (count - 1), config.reference_channels, cells, cells).contiguous(memory_format=torch.channels_last)
    return pipeline.default_steps * [(pipeline.transformer, told)] + decoded + [(pipeline.vae.decoder, {"latents": pictures})]
