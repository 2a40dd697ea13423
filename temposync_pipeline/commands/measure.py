"""`temposync benchmark` and `evaluate`: how fast, and how well."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InvalidInputError
from ..export import check_runtime
from ..progress import hide_loading_bars
from ..terminal import say
from .checks import (
    check_files,
    check_folder,
    check_model,
    check_steps,
    check_writable,
    choose_device,
    whole_numbers,
    write_json,
)
from .options import Device, JsonFile, Model


def benchmark(
    steps: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of denoising steps.")] = "1,2,4,8",
    image: Annotated[Path | None, typer.Option(help="A portrait; default: the example of the source tree.")] = None,
    audio: Annotated[Path | None, typer.Option(help="Speech; default: the example of the source tree.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Videos made for each number of steps.")] = 1,
    chunk_size: Annotated[int, typer.Option("--chunk_size", min=1, max=1024, help="Frames generated together.")] = 24,
    manifest: Annotated[Path | None, typer.Option(help="Clips of talkers to measure quality on: a manifest or a folder.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many clips.")] = None,
    output: Annotated[Path | None, typer.Option(help="An existing folder for the plot quality_latency.png.")] = None,
    model: Model = "temposync-tiny",
    device: Device = "auto",
    runtime: Annotated[str, typer.Option(
        envvar="TEMPOSYNC_RUNTIME",
        help="What computes on a CPU: torch, openvino, onnxruntime, auto, or all: each that is installed.")] = "auto",
    json_file: JsonFile = None,
) -> None:
    """Time every stage of a video, and with --manifest measure what fewer steps cost in quality.

    Example: temposync benchmark --steps 2,4 --json benchmark.json --output .
    """
    check_files((image, audio, manifest), (json_file,), (Path(model),))
    check_folder(output)
    if output is not None:
        check_writable(output, output)
    counts = sorted(set(whole_numbers("--steps", steps)))
    check_model(model)
    check_runtime("auto" if runtime == "all" else runtime)
    device = choose_device(device)
    check_steps(model, counts)
    from ..metrics.benchmark import compare_runtimes, run_benchmark

    hide_loading_bars()
    options = dict(steps=counts, image=image, audio=audio, model=model, device=device, repeats=repeats, chunk_size=chunk_size,
                   manifest=manifest, limit=limit, output=output)
    report = compare_runtimes(**options) if runtime == "all" else run_benchmark(runtime=runtime, **options)
    write_json(json_file, report)
    say(f"{report['frames']} frames, {report['precision']}, {report['machine']['threads']} threads; milliseconds a frame")
    for name, compared in report.get("runtimes", {}).items():
        last = compared["results"][-1]
        say(f"{name:12s} {last['total_ms']:7.2f} with {last['steps']} steps" + " (the fastest)" * (name == report["runtime"]))
    last = report["results"][-1]
    say(f"{report['runtime']}; {sum(last['gflop'].values()):.2f} GFLOP at {report['peak_gflops']:.0f} GFLOP/s: "
               f"not below {last['floor_ms']:.2f} with {last['steps']} steps")
    say("steps  denoise  decode   total     p95     fps  backbone  E1 all   E2 all   first frame")
    for result in report["results"]:
        say(f"{result['steps']:5d} {result['denoise_ms']:8.2f} {result['decode_ms']:7.2f} {result['total_ms']:7.2f} "
                   f"{result['p95_ms']:7.2f} {result['fps']:7.1f} {result['backbone_ms']:9.2f} {result['E1']['mean_ms']:7.2f} "
                   f"{result['E2']['mean_ms']:8.2f} "
                   f"{result['E1']['first_frame_ms']:13.0f}")
    say(f"steps  a chunk of {report['chunk_size']} frames  slowest  of its playing time")
    for result in report["results"]:
        chunk = result["chunk"]
        if "mean_ms" in chunk:
            say(f"{result['steps']:5d} {chunk['mean_ms']:21.0f} {chunk['slowest_ms']:8.0f} "
                       f"{chunk['slowest_real_time_factor']:19.2f}")


def evaluate(
    manifest: Annotated[Path, typer.Option(help="Talkers no model was trained on: a JSON Lines manifest, or a folder of clips.")],
    json_file: Annotated[Path, typer.Option("--json", metavar="FILE", help="The report; tables and pictures are written beside it.")],
    protocol: Annotated[str, typer.Option(
        help="self, natural (free speech), cross (another talker's voice), portraits, dubbed (films), or long (minutes of speech).")
    ] = "self",
    cross_identity: Annotated[bool, typer.Option("--cross-identity", help="The same as --protocol cross.")] = False,
    rows: Annotated[str | None, typer.Option(help="Of the table, as in student,still,vae; all by default, the teacher is slow.")] = None,
    num_inference_steps: Annotated[str | None, typer.Option(
        "--num_inference_steps", "--steps",
        help="The student's, default 4 (whole faces: 8); several as in 4,1,2,8, of which the first makes the pictures.")] = None,
    teacher_steps: Annotated[int, typer.Option("--teacher-steps", min=1, max=1000, help="The teacher's.")] = 25,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Of speech, for --protocol long; default: 10.")] = None,
    portraits: Annotated[Path | None, typer.Option(help="Folder of photographs, for --protocol portraits or long.")] = None,
    held_out_only: Annotated[bool, typer.Option("--held-out-only", help="Of the photographs, only those never trained on.")] = False,
    landmarks: Annotated[Path | None, typer.Option(help="Folder of the real clips' landmarks, <clip id>.npz; else tracked.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many clips, pairs or portraits; long: by default 1.")] = None,
    mouth_amplitude: Annotated[float | None, typer.Option(
        "--mouth_amplitude", min=0, max=3, help="Of the student; default: the checkpoint's own value.")] = None,
    guidance: Annotated[list[str] | None, typer.Option(
        help="Towards portrait and speech, as in 2,6, of models that take it; given several times, each further one gets rows.")] = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Items worked on at a time, say as many as there are cores.")] = 1,
    model: Annotated[list[str] | None, typer.Option(
        help="A bundled checkpoint, a directory, or org/name on the Hub; several, each with --model, for --protocol long. "
             "Default: temposync-tiny.")] = None,
    device: Device = "auto",
) -> None:
    """Measure generated talkers against real ones, beside the teacher, noise, a still picture, the wrong voice and the autoencoder.

    Example: temposync evaluate --manifest validation.jsonl --json report.json --steps 4,1,2,8 --processes 2
    """
    check_files((manifest, landmarks, portraits), (json_file, json_file.with_suffix(".md")), map(Path, model or ()))
    check_folder(landmarks)
    if json_file.suffix.lower() != ".json":
        raise InvalidInputError(f"{json_file}: the report's name must end in .json, tables and pictures are named after it")
    if cross_identity and protocol not in ("self", "cross"):
        raise InvalidInputError(f"--cross-identity is a protocol of its own; not with --protocol {protocol}")
    steps = None if num_inference_steps is None else whole_numbers("--num_inference_steps", num_inference_steps)
    models, guidances, long = model or ["temposync-tiny"], [read_guidance(text) for text in guidance or ()], protocol == "long"
    single = {"--rows": rows is None, "--processes": processes == 1, "--steps with several numbers": len(steps or ()) < 2,
              "--guidance, more than once": len(guidances) < 2}
    misplaced = [name for name, absent in (single if long else {"--minutes": minutes is None, "several models": len(models) < 2}).items()
                 if not absent]
    if misplaced:
        raise InvalidInputError(f"{misplaced[0]}: {'not' if long else 'only'} with --protocol long")
    from ..limits import MAX_SECONDS

    if minutes is not None and minutes > MAX_SECONDS / 60:
        raise InvalidInputError(f"--minutes {minutes:g}: a recording may have 0.01 to {MAX_SECONDS / 60:g} (TEMPOSYNC_MAX_SECONDS)")
    for name in models:
        check_model(name)
    device = choose_device(device)
    for name in models:
        check_steps(name, steps or ())
    hide_loading_bars()
    shared = dict(landmarks=landmarks, portraits=portraits, held_out_only=held_out_only, output=json_file, mouth_amplitude=mouth_amplitude,
                  guidances=guidances, device=device)
    if long:
        _evaluate_long(manifest, models, 10.0 if minutes is None else minutes, steps[0] if steps else None, limit or 1, shared)
        return
    from ..metrics.evaluate import run_evaluation
    from ..metrics.protocols import ROWS
    from ..pipelines.auto import pipeline_class

    report = run_evaluation(
        manifest,
        model=models[0],
        num_inference_steps=steps or [pipeline_class(models[0]).default_steps],
        limit=limit,
        protocol="cross" if cross_identity else protocol,
        rows=list(ROWS) if rows is None else [part.strip() for part in rows.split(",") if part.strip()],
        teacher_steps=teacher_steps,
        processes=processes,
        **shared,
    )
    _print_failures(report)
    for row, figures in report["summary"].items():
        say(row)
        for name, value in figures.items():
            say(f"  {name:32} {value['mean']:9.4f}  ± {value['std']:.4f}  (n = {value['n']})")


def _evaluate_long(
    manifest: Path, models: list[str], minutes: float, steps: int | None, limit: int, shared: dict[str, Any]
) -> None:
    from ..metrics.long_run import run_long

    report = run_long(manifest, models, minutes, steps, limit, **shared)
    _print_failures(report)
    for name, measured in report["models"].items():
        say(f"{name}, {measured['steps']} steps; first minute, last")
        first, last = measured["minutes"][0], measured["minutes"][-1]
        for figure, value in first.items():
            say(f"  {figure:32} {value:9.4f}  {last.get(figure, float('nan')):9.4f}")


def _print_failures(report: dict[str, Any]) -> None:
    for failure in report["failures"]:
        say(f"skipped {failure['name']}: {failure['error']}", err=True)


def read_guidance(text: str) -> tuple[float, float]:
    """The two numbers of "2,6"; raises InvalidInputError for anything else, or below 0."""
    try:
        portrait, speech = map(float, text.split(","))
    except ValueError:
        portrait = speech = -1.0
    if not (0 <= portrait <= 20 and 0 <= speech <= 20):
        raise InvalidInputError(f"--guidance {text}: expected two numbers from 0 to 20, such as 2,6")
    return portrait, speech
