"""`temposync benchmark`: how long each stage of a video takes, and what fewer steps cost in quality.

The paper (arXiv 2603.06057) reports denoising and decoding, which is what `total_ms`, `p95_ms` and `fps` of a result mean here.
A frame's time is its chunk's time divided by the chunk's frames.  The report, which is the JSON:

    {"model", "image", "audio", "frames", "seconds", "precision", "chunk_size", "repeats", "load_ms", "machine": {...},
     "runtime": what computed the large networks, "runtimes": {name: {"results", "peak_memory_mb"}} where all were compared,
     "peak_gflops": GFLOP a second of one large matrix product, in the same precision,
     "results": [one a number of steps:
        {"steps", "frames", "denoise_ms", "decode_ms", "total_ms": medians a frame, total = denoise + decode; means where chunks are
                                                                   denoised together (READ), so that one pays for several,
         "backbone_ms": mean a frame in the network that denoises, its evaluations alone,
         "gflop", "megabytes": {"denoise", "decode"}, arithmetic of a frame, and all that its operations read and write;
         "floor_ms": the arithmetic's time at peak_gflops; "floor_share": floor_ms / total_ms,
         "mean_ms", "p95_ms": of that total, "fps": 1000 / total_ms,
         "stages": {stage: {"mean_ms", "p95_ms", "fps", "real_time_factor"}},  a frame; stages are those of `STAGES`
         "E1": {"mean_ms", "fps", "real_time_factor", "peak_memory_mb",   a frame of the mp4 by `generate_to_file`, all but loading
                "one_after_another_ms",                                  the sum of the stages, which overlap there, without watermark
                                                                         and content credentials
                "first_frame_ms"},                                       from the call to the first frames
         "chunk": {"frames", "first_ms", "mean_ms", "slowest_ms", "slowest_real_time_factor"},   a chunk of frames from denoising to
                                                                   the photo; mean and slowest of the whole ones after the first
         "E2": {"mean_ms", "fps", "real_time_factor", "bytes_per_frame"},  a frame up to the file of latents
         "quality": {"psnr_vae", "lip_r"}}],                              with `manifest` only
     "reference": {"whole_crop_decode_ms", "float32_denoise_ms_per_step", "float32_decode_ms", "speedup_over_float32", "psnr_float32"},
     "peak_memory_mb"}

The real-time factor is computing time over playing time: below 1 is faster than real time.
"""

import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..bases.packed import PackedWeights
from ..export import installed_runtimes
from ..export.runtimes import load_runtime
from ..files import example_media
from ..media.audio import Audio, load_audio
from ..media.image import load_image
from ..media.planes import StillPlanes
from ..media.video import VideoWriter
from ..pipelines.auto import load_pipeline
from ..pipelines.portrait import Portrait
from ..pipelines.rendering import decode_block, rendered_part
from ..pipelines.sampling import CHUNK_SIZE
from ..pipelines.speech import Speech
from ..pipelines.talking_head import TalkingHeadPipeline
from .clip_selection import read_clips
from .image import psnr

STAGES = ("visemes", "encode", "denoise", "decode", "paste_back", "video_encoding", "save_latents")
# What a chunk goes through before its frames can be shown.
CHUNK_STAGES = ("denoise", "decode", "paste_back")
QUALITY = {"psnr_vae": "PSNR against the VAE reconstruction (dB)", "lip_r": "lip correlation r"}


class StageClock:
    """Milliseconds a frame of each stage, a sample a chunk."""

    def __init__(self, device: torch.device):
        self.device = device
        self.samples: dict[str, list[float]] = defaultdict(list)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def measure(self, stage: str, frames: int) -> Iterator[None]:
        """Time the block as `stage` of so many frames."""
        started = self._now()
        yield
        self.samples[stage].append(1000 * (self._now() - started) / frames)

    @contextmanager
    def watch(self, network: torch.nn.Module, stage: str, frames: int) -> Iterator[None]:
        """Within the block, add up what the network's own evaluations take."""
        started, total = [], 0.0

        def begin(*_) -> None:
            started.append(self._now())

        def end(*_) -> None:
            nonlocal total
            total += self._now() - started.pop()

        handles = network.register_forward_pre_hook(begin), network.register_forward_hook(end)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self.samples[stage].append(1000 * total / frames)


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MiB; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """What the figures hold for."""
    cpu = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name") or platform.processor()
    return {"cpu": cpu, "cores": os.cpu_count() or 1, "threads": torch.get_num_threads(), "device": str(device),
            "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(), "torch": torch.__version__}


@torch.inference_mode()
def time_video(
    pipe: TalkingHeadPipeline, image: Path, recording: Audio, audio: Path, steps: int, chunk_size: int, folder: Path
) -> tuple[StageClock, int]:
    """Make one video stage by stage, as E1 and as E2, and once as users do ("made"); the clock, and the bytes of the file of latents."""
    clock = StageClock(pipe.device)
    frames = max(1, round(recording.duration * pipe.config.fps))
    with clock.measure("visemes", frames):
        speech = pipe._hear(recording)
    with clock.measure("encode", frames):
        portrait = pipe.prepare_portrait(image)
    noise = pipe.prepare_latents(steps, torch.Generator().manual_seed(0))
    sampling = pipe._sampling(steps, chunk_size)
    chunks = pipe._latent_chunks(portrait, speech, noise, sampling)
    latents, planes = [], StillPlanes(portrait.photo)
    network = getattr(pipe, pipe.backbone)
    with VideoWriter(folder / "video.mp4", fps=pipe.config.fps, audio_path=audio) as writer, clock.watch(network, "backbone", frames):
        for size in map(len, sampling.chunks(frames)):
            with clock.measure("denoise", size):
                latents.append(next(chunks))
            with clock.measure("decode", size):
                with sampling.packed.in_use():
                    decoded = portrait.renderer.decode(rendered_part(latents[-1], portrait.composition), pipe.use_bfloat16)
            with clock.measure("paste_back", size):
                patches = [portrait.renderer.patch(frame) for frame in decoded]
            with clock.measure("video_encoding", size):
                for patch in patches:
                    writer.write_planes(planes.with_change(*patch))
    file = folder / "video.safetensors"
    with clock.measure("save_latents", frames):
        pipe._latent_video(portrait, torch.cat(latents), speech.visemes, audio, chunk_size).save(file)
    with clock.measure("made", frames):
        pipe.generate_to_file(image, audio, folder / "made.mp4", steps, progress=False, chunk_size=chunk_size)
    return clock, file.stat().st_size


def summarise_steps(
    clocks: Sequence[StageClock], steps: int, fps: float, sizes: Sequence[int], latent_bytes: int, together: bool = False
) -> dict:
    """One entry of "results"; `sizes`: frames of each chunk; `together`: chunks are denoised together."""
    frames = sum(sizes)
    typical = np.mean if together else np.median
    samples = {stage: np.concatenate([clock.samples[stage] for clock in clocks]) for stage in STAGES}
    mean = {stage: float(values.mean()) for stage, values in samples.items()}
    total = samples["denoise"] + samples["decode"]
    middle = float(typical(total))

    def rates(milliseconds: float) -> dict[str, float]:
        return {"mean_ms": milliseconds, "fps": 1000 / milliseconds, "real_time_factor": milliseconds * fps / 1000}

    chunk = describe_chunks([clock.samples for clock in clocks], sizes, fps)
    first = chunk["first_ms"] + np.mean([frames * sum(clock.samples[stage][0] for stage in ("visemes", "encode")) for clock in clocks])
    made = float(np.mean([clock.samples["made"] for clock in clocks]))
    hybrid = sum(mean[stage] for stage in ("visemes", "encode", "denoise", "save_latents"))
    return {
        "steps": steps, "frames": frames,
        "denoise_ms": float(typical(samples["denoise"])), "decode_ms": float(typical(samples["decode"])),
        "backbone_ms": float(np.mean([clock.samples["backbone"] for clock in clocks])),
        "total_ms": middle, "mean_ms": float(total.mean()), "p95_ms": float(np.percentile(total, 95)), "fps": 1000 / middle,
        "stages": {stage: rates(mean[stage]) | {"p95_ms": float(np.percentile(samples[stage], 95))} for stage in STAGES},
        "E1": rates(made) | {"one_after_another_ms": sum(mean.values()) - mean["save_latents"], "peak_memory_mb": peak_memory_mb(),
                             "first_frame_ms": float(first)},
        "E2": rates(hybrid) | {"bytes_per_frame": latent_bytes / frames},
        "chunk": chunk,
    }


def describe_chunks(samples: Sequence[dict[str, list[float]]], sizes: Sequence[int], fps: float) -> dict[str, float]:
    """"chunk" of a result, from the milliseconds a frame of each stage, chunk by chunk, of one or several videos, and the chunks' `sizes`.

    Videos of less than two whole chunks have no "mean_ms" and what follows.  A chunk whose real-time factor is below 1 is made while the
    one before it plays.
    """
    a_frame = np.array([sum(np.array(video[stage]) for stage in CHUNK_STAGES) for video in samples])
    chunk_size = max(sizes)
    figures = {"frames": chunk_size, "first_ms": sizes[0] * float(a_frame[:, 0].mean())}
    later = chunk_size * a_frame[:, 1:][:, np.equal(sizes[1:], chunk_size)]
    if later.size:
        slowest = float(later.max())
        figures |= {"mean_ms": float(later.mean()), "slowest_ms": slowest, "slowest_real_time_factor": slowest / chunk_size * fps / 1000}
    return figures


@torch.inference_mode()
def compare_with_references(pipe: TalkingHeadPipeline, portrait: Portrait, speech: Speech, chunk_size: int, rounds: int = 3) -> dict:
    """The same chunk with 2 steps in the pipeline's precision and in float32, in turns, and the decoding of the whole crop; medians."""
    chosen, clock = pipe.use_bfloat16, StageClock(pipe.device)
    size, blocks = min(chunk_size, len(speech)), {}
    try:
        for turn in range(rounds + 1):
            if turn == 1:  # The first turn warms up.
                clock.samples.clear()
            for name, low_precision in (("chosen", chosen), ("float32", False)):
                pipe.use_bfloat16 = low_precision
                noise = pipe.prepare_latents(2, torch.Generator().manual_seed(0))
                chunks = pipe._latent_chunks(portrait, speech[:size], noise, pipe._sampling(2, size, mouth_amplitude=1.0))
                with clock.measure(f"{name}_denoise", size):
                    latents = next(chunks)
                with clock.measure(f"{name}_decode", size):
                    blocks[name] = decode_block(pipe.vae, rendered_part(latents, portrait.composition), low_precision)
            pipe.use_bfloat16 = chosen
            with clock.measure("whole_crop", size):
                decode_block(pipe.vae, latents, chosen)
    finally:
        pipe.use_bfloat16 = chosen
    median = {name: float(np.median(values)) for name, values in clock.samples.items()}
    slow, fast = (median[f"{name}_denoise"] + median[f"{name}_decode"] for name in ("float32", "chosen"))
    difference = float(psnr(blocks["chosen"], blocks["float32"]).mean())
    return {
        "whole_crop_decode_ms": median["whole_crop"], "float32_denoise_ms_per_step": median["float32_denoise"] / 2,
        "float32_decode_ms": median["float32_decode"],
        "speedup_over_float32": slow / fast,
        "psnr_float32": difference if np.isfinite(difference) else None,
    }


class TrafficCounter(TorchDispatchMode):
    """Adds up the bytes of what operations read and write, weights among it; views cost none."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204, D105
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(value.nbytes for value in tree_leaves((args, kwargs, result)) if isinstance(value, torch.Tensor))
        return result


@torch.inference_mode()
def count_work(
    pipe: TalkingHeadPipeline, portrait: Portrait, speech: Speech, steps: int, chunk_size: int
) -> dict[str, dict[str, float]]:
    """"gflop" and "megabytes" of a result, of a whole chunk that others came before, as torch computes it."""
    # By torch's own operations, which the counters know.
    sampling = replace(pipe._sampling(steps, chunk_size), packed=PackedWeights(packing=False))
    sizes = [len(chunk) for chunk in sampling.chunks(len(speech))]
    chunks = pipe._latent_chunks(portrait, speech, pipe.prepare_latents(steps, torch.Generator().manual_seed(0)), sampling)
    if len(sizes) > 1 and sizes[1] == chunk_size and not getattr(pipe, "denoises_together", False):
        next(chunks)
        sizes = sizes[1:]
    size = sizes[0]
    counters = {stage: (FlopCounterMode(display=False), TrafficCounter()) for stage in ("denoise", "decode")}
    with counters["denoise"][0], counters["denoise"][1]:
        latents = next(chunks)
    with counters["decode"][0], counters["decode"][1]:
        portrait.renderer.decode(rendered_part(latents, portrait.composition), pipe.use_bfloat16)
    return {"gflop": {stage: flops.get_total_flops() / 1e9 / size for stage, (flops, _) in counters.items()},
            "megabytes": {stage: traffic.total / 1e6 / size for stage, (_, traffic) in counters.items()}}


def measure_peak(pipe: TalkingHeadPipeline, size: int = 2048, rounds: int = 6) -> float:
    """GFLOP a second of one large matrix product in the pipeline's precision, the best of `rounds`."""
    bfloat16 = pipe.use_bfloat16 and pipe.device.type == "cpu"
    matrix = torch.ones(size, size, dtype=torch.bfloat16 if bfloat16 else pipe.vae.dtype, device=pipe.device)
    clock = StageClock(pipe.device)
    for _ in range(rounds):
        with clock.measure("product", 1):
            matrix @ matrix
    return 2 * size**3 / 1e6 / min(clock.samples["product"])


def run_benchmark(
    steps: Sequence[int] = (1, 2, 4, 8),
    image: Path | None = None,
    audio: Path | None = None,
    model: str = "temposync-tiny",
    device: str = "cpu",
    repeats: int = 1,
    chunk_size: int = CHUNK_SIZE,
    manifest: Path | None = None,
    limit: int | None = None,
    output: Path | None = None,
    runtime: str = "torch",
) -> dict:
    """Time a checkpoint; returns the report described in the module.

    Args:
        steps: numbers of denoising steps. image, audio: what to make a video of; None takes the examples of the source tree.
        repeats: videos made for each number of steps, after one to warm up.
        manifest: clips of talkers to measure quality on (`metrics.evaluate`); None measures none. limit: at most so many of them.
        output: folder for quality_latency.png; None draws nothing.
        runtime: see `export.runtimes.use_runtime`.

    Raises InvalidInputError for files that cannot be used.
    """
    image, audio = example_media(image, audio)
    # What is wrong with the inputs is said before the models are loaded and timed.
    load_image(image)
    recording = load_audio(audio)
    if manifest is not None:
        read_clips(manifest)
    started = time.perf_counter()
    pipe = load_pipeline(model, runtime="torch").to(device)
    load_ms = 1000 * (time.perf_counter() - started)
    pipe.set_progress_bar_config(disable=True)
    frames = max(1, round(recording.duration * pipe.config.fps))
    with torch.inference_mode():
        # By torch, which counts: other runtimes do the same arithmetic.
        portrait, speech = pipe.prepare_portrait(image), pipe._hear(recording)
        work = {count: count_work(pipe, portrait, speech, count, chunk_size) for count in steps}
        peak = measure_peak(pipe)
        load_runtime(pipe, runtime, model)
        reference = compare_with_references(pipe, portrait, speech, chunk_size)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        pipe.generate_to_file(image, audio, Path(folder) / "warm.mp4", min(steps), progress=False, chunk_size=chunk_size)
        for count in steps:
            clocks, sizes = zip(*(time_video(pipe, image, recording, audio, count, chunk_size, Path(folder)) for _ in range(repeats)))
            together = getattr(pipe, "denoises_together", False)
            chunks = [len(chunk) for chunk in pipe._sampling(count, chunk_size).chunks(frames)]
            result = summarise_steps(clocks, count, pipe.config.fps, chunks, sizes[-1], together)
            floor_ms = 1000 * sum(work[count]["gflop"].values()) / peak
            results.append(result | work[count] | {"floor_ms": floor_ms, "floor_share": floor_ms / result["total_ms"]})
    if manifest is not None:
        _add_quality(results, manifest, model, device, limit)
    if output is not None:
        plot_quality_latency(results, Path(output) / "quality_latency.png")
    bfloat16 = pipe.use_bfloat16 and pipe.device.type == "cpu"
    return {
        "model": Path(model).name if Path(model).is_dir() else model, "image": image.name, "audio": audio.name, "frames": frames,
        "seconds": recording.duration, "precision": "bfloat16" if bfloat16 else str(pipe.vae.dtype).removeprefix("torch."),
        "chunk_size": chunk_size, "repeats": repeats, "load_ms": load_ms, "runtime": pipe.runtime,
        "peak_gflops": peak, "machine": describe_machine(pipe.device), "results": results,
        "reference": reference, "peak_memory_mb": peak_memory_mb(),
    }


def compare_runtimes(**options: Any) -> dict:
    """`run_benchmark` with every runtime that is installed: the report of the fastest at the largest number of steps, with "runtimes"."""
    reports = {name: run_benchmark(runtime=name, **options) for name in installed_runtimes()}
    fastest = min(reports.values(), key=lambda report: report["results"][-1]["total_ms"])
    compared = {name: {key: report[key] for key in ("results", "peak_memory_mb")} for name, report in reports.items()}
    return fastest | {"runtimes": compared}


def _add_quality(results: list[dict], manifest: Path, model: str, device: str, limit: int | None) -> None:
    from .evaluate import run_evaluation

    steps = tuple(result["steps"] for result in results)
    summary = run_evaluation(manifest, model=model, num_inference_steps=steps, limit=limit, rows=("student",), device=device)["summary"]
    for result in results:
        row = summary.get(f"student_{result['steps']}", {})
        result["quality"] = {name: row[name]["mean"] for name in QUALITY if name in row}


def plot_quality_latency(results: list[dict], path: Path) -> None:
    """PNG of each quality over a frame's denoising and decoding time, a dot a number of steps; without qualities of time over steps."""
    from matplotlib.figure import Figure

    names = [name for name in QUALITY if all(name in result.get("quality", {}) for result in results)]
    panels = max(1, len(names))
    figure = Figure(figsize=(5 * panels, 3.6), dpi=120, layout="constrained")
    latency = [result["total_ms"] for result in results]
    for axis, name in zip(figure.subplots(1, panels, squeeze=False)[0], names or [None], strict=True):
        x, y = (latency, [result["quality"][name] for result in results]) if name else ([result["steps"] for result in results], latency)
        axis.plot(x, y, "o-", color="#e67e14")
        for result, *place in zip(results, x, y):
            label = f"{result['steps']} step{'s' * (result['steps'] > 1)}"
            axis.annotate(label, place, (0, 8), textcoords="offset points", ha="center", fontsize=8)
        axis.set_xlabel("denoising + decoding a frame (ms)" if name else "denoising steps")
        axis.set_ylabel(QUALITY[name] if name else "denoising + decoding a frame (ms)")
        axis.margins(0.15)
        axis.grid(alpha=0.3)
    figure.savefig(path)
