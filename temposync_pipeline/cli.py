"""The command `temposync`.

Exit code 0 on success, 2 with one line on stderr for an input that cannot be used.  Each command imports what it needs when it runs,
so that `temposync --help` does not wait for torch.
"""

import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from .errors import InvalidInputError

app = typer.Typer(
    help="Talking heads: a portrait and a speech recording in, a video of that person speaking out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130

Model = Annotated[str, typer.Option(help="A bundled checkpoint, a directory, or org/name on the Hub.")]
Steps = Annotated[int, typer.Option("--num_inference_steps", "--steps", min=1, max=1000, help="Denoising steps a frame.")]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps, ...")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results here as JSON.")]
AudioFile = Annotated[Path, typer.Option("--audio", "--driven_audio", help="Speech: wav, mp3, flac, m4a, ogg, opus, ...")]


@app.command()
def generate(
    image: Annotated[Path, typer.Option("--image", "--source_image", help="The portrait: PNG, JPEG or WebP.")],
    audio: AudioFile,
    output: Annotated[Path, typer.Option(
        help="The mp4 to write; a name ending in .safetensors keeps latents for `temposync decode`.")] = Path("talking.mp4"),
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same video.")] = 0,
    num_inference_steps: Steps = 4,
    mouth_amplitude: Annotated[float | None, typer.Option(
        "--mouth_amplitude", min=0, max=3, help="Scales the motion of the mouth; default: the checkpoint's own value.")] = None,
    model: Model = "temposync-tiny",
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Make a portrait speak.  The path of the video is the last line printed.

    Example: temposync generate --image portrait.jpg --audio speech.wav --output talking.mp4
    """
    _check_files(output, image, audio)
    _check_files(json_file, image, audio)
    if json_file is not None and json_file.absolute() == output.absolute():
        raise InvalidInputError(f"{json_file}: the video and the JSON cannot be the same file")
    if output.suffix.lower() not in (".mp4", ".safetensors"):
        raise InvalidInputError(f"{output}: the output is an mp4, its name must end in .mp4 (or in .safetensors for latents)")
    from .media.audio import load_audio
    from .media.image import load_image

    # What is wrong with the inputs is said before the models are loaded.
    load_image(image)
    load_audio(audio)
    import torch

    from .pipelines.pipeline_temposync import TempoSyncPipeline

    _hide_loading_bars()
    pipe = TempoSyncPipeline.from_pretrained(model)
    pipe.to(_device(device))
    started = time.monotonic()
    try:
        make = pipe.generate_to_file if output.suffix.lower() == ".mp4" else pipe.latents_to_file
        figures = make(
            image,
            audio,
            output,
            num_inference_steps=num_inference_steps,
            generator=torch.Generator().manual_seed(seed),
            progress=sys.stderr.isatty(),
            mouth_amplitude=mouth_amplitude,
        )
    except OSError as error:  # a full disk, say; the user knows the output's name, not the temporary file's
        raise InvalidInputError(f"{output}: {error.strerror or error}") from error
    _write_json(json_file, {"output": str(output), "wall_seconds": time.monotonic() - started, **figures})
    typer.echo(output)


@app.command()
def decode(
    latents: Annotated[Path, typer.Option(help="A file that `temposync generate --output FILE.safetensors` wrote.")],
    output: Annotated[Path, typer.Option(help="The mp4 to write.")] = Path("talking.mp4"),
    model: Model = "temposync-tiny",
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Turn latents into the video, later or on another machine.  The path of the video is the last line printed.

    Example: temposync decode --latents talking.safetensors --output talking.mp4
    """
    _check_files(output, latents)
    _check_files(json_file, latents)
    if output.suffix.lower() != ".mp4":
        raise InvalidInputError(f"{output}: the output is an mp4, its name must end in .mp4")
    from .pipelines.latent_video import LatentVideo
    from .pipelines.pipeline_temposync import TempoSyncPipeline

    # What is wrong with the input is said before the models are loaded.
    LatentVideo.load(latents)
    _hide_loading_bars()
    pipe = TempoSyncPipeline.from_pretrained(model)
    pipe.to(_device(device))
    started = time.monotonic()
    try:
        figures = pipe.decode_to_file(latents, output)
    except OSError as error:
        raise InvalidInputError(f"{output}: {error.strerror or error}") from error
    _write_json(json_file, {"wall_seconds": time.monotonic() - started, **figures})
    typer.echo(output)


@app.command()
def benchmark(
    steps: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of denoising steps.")] = "1,2,4,8",
    image: Annotated[Path | None, typer.Option(help="A portrait; default: the example of the source tree.")] = None,
    audio: Annotated[Path | None, typer.Option(help="Speech; default: the example of the source tree.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Videos made for each number of steps.")] = 1,
    chunk_size: Annotated[int, typer.Option("--chunk_size", min=1, max=1024, help="Frames generated together.")] = 16,
    manifest: Annotated[Path | None, typer.Option(help="Clips of talkers to measure quality on: a manifest or a folder.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many clips.")] = None,
    output: Annotated[Path | None, typer.Option(help="An existing folder for the plot quality_latency.png.")] = None,
    model: Model = "temposync-tiny",
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Time every stage of a video, and with --manifest measure what fewer steps cost in quality.

    Example: temposync benchmark --steps 2,4 --json benchmark.json --output .
    """
    inputs = [path for path in (image, audio, manifest) if path]
    _check_files(json_file, *inputs)
    if output is not None and not output.is_dir():
        raise InvalidInputError(f"{output}: not a folder")
    counts = steps.replace(",", " ").split()
    if not counts or not all(part.isdecimal() and 1 <= int(part) <= 1000 for part in counts):
        raise InvalidInputError(f"--steps {steps}: expected whole numbers from 1 to 1000, such as 1,2,4,8")
    from .metrics.benchmark import run_benchmark

    _hide_loading_bars()
    report = run_benchmark(
        sorted({int(part) for part in counts}), image, audio, model, _device(device), repeats, chunk_size, manifest, limit, output)
    _write_json(json_file, report)
    typer.echo(f"{report['frames']} frames, {report['precision']}, {report['machine']['threads']} threads; milliseconds a frame")
    typer.echo("steps  denoise  decode   total     p95     fps   E1 all   E2 all")
    for result in report["results"]:
        typer.echo(f"{result['steps']:5d} {result['denoise_ms']:8.2f} {result['decode_ms']:7.2f} {result['total_ms']:7.2f} "
                   f"{result['p95_ms']:7.2f} {result['fps']:7.1f} {result['E1']['mean_ms']:8.2f} {result['E2']['mean_ms']:8.2f}")


@app.command()
def visemes(
    audio: AudioFile,
    json_file: JsonFile = None,
    model: Model = "temposync-tiny",
    device: Device = "auto",
) -> None:
    """Print which mouth shape the speech calls for, 25 times a second, and when.

    Example: temposync visemes --audio speech.wav --json visemes.json

    The JSON holds "fps", "visemes" (15 names) and "probabilities" (15 numbers for every video frame).
    """
    _check_files(json_file, audio)
    from itertools import groupby

    from .checkpoints import checkpoint_folder
    from .media.audio import load_audio
    from .media.video import FPS
    from .models.viseme_classifier import VISEMES, VisemeClassifier

    speech = load_audio(audio)
    _hide_loading_bars()
    folder = checkpoint_folder(model, ("viseme_classifier",))
    classifier = VisemeClassifier.from_pretrained(folder, subfolder="viseme_classifier", use_safetensors=True).to(_device(device))
    probabilities = classifier.predict(speech.samples, num_frames=round(speech.duration * FPS), fps=FPS)
    names = list(VISEMES)
    _write_json(json_file, {"fps": FPS, "visemes": names, "probabilities": probabilities.round(5).tolist()})
    frame = 0
    for viseme, run in groupby(probabilities.argmax(1).tolist()):
        end = frame + len(list(run))
        typer.echo(f"{frame / FPS:8.2f} {end / FPS:8.2f}  {names[viseme]}")
        frame = end


@app.command()
def evaluate(
    manifest: Annotated[Path, typer.Option(help="Talkers no model was trained on: a JSON Lines manifest, or a folder of clips.")],
    json_file: Annotated[Path, typer.Option("--json", metavar="FILE", help="The report; tables and pictures are written beside it.")],
    protocol: Annotated[str, typer.Option(help="self, cross (another talker's voice) or portraits (photographs).")] = "self",
    cross_identity: Annotated[bool, typer.Option("--cross-identity", help="The same as --protocol cross.")] = False,
    rows: Annotated[str | None, typer.Option(help="Of the table, as in student,still,vae; all by default, the teacher is slow.")] = None,
    num_inference_steps: Annotated[str, typer.Option(
        "--num_inference_steps", "--steps", help="The student's; several as in 4,1,2,8, of which the first makes the pictures.")] = "4",
    teacher_steps: Annotated[int, typer.Option("--teacher-steps", min=1, max=1000, help="The teacher's.")] = 25,
    portraits: Annotated[Path | None, typer.Option(help="Folder of photographs, for --protocol portraits.")] = None,
    held_out_only: Annotated[bool, typer.Option("--held-out-only", help="Of the photographs, only those never trained on.")] = False,
    landmarks: Annotated[Path | None, typer.Option(help="Folder of the real clips' landmarks, <clip id>.npz; else tracked.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many clips, pairs or portraits.")] = None,
    mouth_amplitude: Annotated[float | None, typer.Option(
        "--mouth_amplitude", min=0, max=3, help="Of the student; default: the checkpoint's own value.")] = None,
    model: Model = "temposync-tiny",
    device: Device = "auto",
) -> None:
    """Measure generated talkers against real ones, beside the teacher, noise, a still picture, the wrong voice and the autoencoder.

    Example: temposync evaluate --manifest validation.jsonl --json report.json --steps 4,1,2,8 --limit 8
    """
    _check_files(json_file, manifest)
    from .metrics.evaluate import run_evaluation
    from .metrics.protocols import ROWS

    if cross_identity and protocol not in ("self", "cross"):
        raise InvalidInputError(f"--cross-identity is a protocol of its own; not with --protocol {protocol}")
    steps = [part.strip() for part in num_inference_steps.split(",")]
    if not all(part.isdecimal() for part in steps):
        raise InvalidInputError(f"--num_inference_steps {num_inference_steps}: expected whole numbers, as in 4 or 4,1,2,8")
    _hide_loading_bars()
    report = run_evaluation(
        manifest,
        model=model,
        num_inference_steps=[int(part) for part in steps],
        limit=limit,
        protocol="cross" if cross_identity else protocol,
        output=json_file,
        landmarks=landmarks,
        portraits=portraits,
        held_out_only=held_out_only,
        rows=list(ROWS) if rows is None else [part.strip() for part in rows.split(",")],
        teacher_steps=teacher_steps,
        mouth_amplitude=mouth_amplitude,
        device=_device(device),
    )
    for row, figures in report["summary"].items():
        typer.echo(row)
        for name, value in figures.items():
            typer.echo(f"  {name:32} {value['mean']:9.4f}  ± {value['std']:.4f}  (n = {value['n']})")


STAGES = ("aligner", "autoencoder", "visemes", "identity", "sync", "teacher", "student")


@app.command()
def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=", ".join(STAGES))],
    data: Annotated[Path | None, typer.Option(help="The stage's training data; for teacher and student also a folder of clips.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run: weights, checkpoint, log, TensorBoard's curves.")] = None,
    init: Annotated[str | None, typer.Option(help="Start from this model: a bundled checkpoint, a directory, or org/name.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Train one of the models, or adapt one to a person.  Options here overrule the YAML file, and that overrules the stage's defaults.

    Example: temposync train student --init temposync-tiny --data clips --output runs/person

    Teacher and student take a plain folder of clips: it is prepared once, into the run's folder, and that folder then loads as a model.
    Several processes: torchrun --nproc_per_node 2 -m temposync_pipeline.cli train ...
    """
    if stage not in STAGES:
        raise InvalidInputError(f"{stage}: not a stage ({', '.join(STAGES)})")
    _check_files(None, *(path for path in (data, config) if path))
    from importlib import import_module

    from .training.from_clips import settings_for_clips, takes_clips, train_on_clips
    from .training.stages import initial_weights

    _hide_loading_bars()
    module = import_module(f".training.{stage}", __package__)
    options = {"data": data and str(data), "output": output and str(output), "init": init, "resume": resume or None}
    values = {"device": _device(device), **_read_settings(config, settings or [])}
    values |= {name: value for name, value in options.items() if value is not None}
    if takes_clips(stage, values.get("data")):
        figures = train_on_clips(stage, _build_config(module.Config, settings_for_clips(stage, values)), module.train)
    else:
        if values.get("init"):
            values["init"] = initial_weights(stage, values["init"])
        figures = module.train(_build_config(module.Config, values))
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first one speaks
        _write_json(json_file, figures)
        for name, value in figures.items():
            typer.echo(f"{name} {value}")


@app.command()
def manifest(
    data: Annotated[Path, typer.Option(help="Folder of clips, <talker>/<clip>.mp4 or deeper, with .txt or .align files beside them.")],
    output: Annotated[Path, typer.Option(help="The JSON Lines file to write.")] = Path("manifest.jsonl"),
    validation: Annotated[float, typer.Option(min=0, max=1, help="Share of the talkers to hold out, where no folder is called val.")] = 0.1,
    json_file: JsonFile = None,
) -> None:
    """List a folder's clips with their talkers and splits, as training and evaluation read them.  LRS3 and GRID folders work as they are.

    Example: temposync manifest --data clips --output manifest.jsonl

    A clip that cannot be decoded is named on stderr and left out.
    """
    _check_files(output, data)
    _check_files(json_file, data)
    from .data.manifest import SPLITS, build_manifest, split_by_talker, usable_clips, write_manifest

    if not data.is_dir():
        raise InvalidInputError(f"{data}: not a folder")
    found = build_manifest(data)
    clips = split_by_talker(usable_clips(found, lambda line: typer.echo(line, err=True)), validation)
    if not clips:
        raise InvalidInputError(f"{data}: none of its {len(found)} clips can be used")
    write_manifest(clips, output)
    counts = {}
    for split in SPLITS:
        own = [clip for clip in clips if clip.split == split]
        counts[split] = {"clips": len(own), "talkers": len({clip.talker for clip in own})}
        typer.echo(f"{split}: {counts[split]['clips']} clips of {counts[split]['talkers']} talkers")
    _write_json(json_file, {"output": str(output), "skipped": len(found) - len(clips), **counts})
    typer.echo(output)


def _read_settings(config: Path | None, settings: list[str]) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = {}
    try:
        if config:
            values = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
            if not isinstance(values, dict):
                raise InvalidInputError(f"{config.name}: not a list of KEY: VALUE settings")
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals:
                raise InvalidInputError(f"--set {setting}: expected KEY=VALUE")
            values[key] = yaml.safe_load(value)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{config.name if config else '--set'}: not YAML: {error}") from error
    return values


def _build_config(config_class: type, values: dict[str, Any]) -> Any:
    """An instance of the stage's dataclass, each value in the type of the default that it replaces."""
    from dataclasses import fields

    known = {field.name: field.default for field in fields(config_class)}
    for key in values:
        if key not in known:
            raise InvalidInputError(f"{key}: not a setting of this stage ({', '.join(sorted(known))})")
    return config_class(**{key: _like(known[key], key, value) for key, value in values.items()})


def _like(default: Any, key: str, value: Any) -> Any:
    """`value` as `default`'s type: YAML reads 1e-3 as text, 1 as a whole number, a tuple as a list and a bare no as False."""
    wanted = type(default)
    if wanted is str and value is False:
        return "no"
    if wanted not in (bool, int, float, str, tuple) or isinstance(value, wanted) and not isinstance(value, bool):
        return value
    try:
        if (wanted is bool) != isinstance(value, bool):
            raise ValueError
        if wanted is int and float(value) != int(float(value)):
            raise ValueError
        return wanted(value)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{key}: {value!r}, expected {wanted.__name__}") from error


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInputError(f"--device {name}: not available here") from error
    return name


def _hide_loading_bars() -> None:
    """Loading takes a second; its bars would stand between the user and the one line of an error. Downloads show one on a terminal."""
    import diffusers.utils.logging
    import huggingface_hub.utils
    import transformers.utils.logging

    huggingface_hub.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _check_files(output: Path | None, *inputs: Path) -> None:
    """Say at once what would fail after a long computation."""
    for path in inputs:
        if not path.exists():
            raise InvalidInputError(f"{path}: no such file")
    if output is None:
        return
    if not output.absolute().parent.is_dir():
        raise InvalidInputError(f"{output}: the output folder does not exist")
    if output.is_dir():
        raise InvalidInputError(f"{output}: the output is a folder")
    if any(output.exists() and output.samefile(path) for path in inputs):
        raise InvalidInputError(f"{output}: the output would replace an input")
    trial = output.absolute().with_name(f".{secrets.token_hex(8)}")
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise InvalidInputError(f"{output}: the output folder cannot be written to: {error.strerror}") from error


def _write_json(path: Path | None, results: dict[str, Any]) -> None:
    if path is None:
        return
    temporary = path.absolute().with_name(f".{secrets.token_hex(8)}.json")
    try:
        temporary.write_text(json.dumps(results, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    """Entry point; `arguments` default to the command line's."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(arguments or ["--help"], prog_name="temposync", standalone_mode=False) or 0
    except TyperException as error:  # a missing or misspelt option, a value out of range
        _fail(error.format_message(), 2)
    except (InvalidInputError, OSError) as error:
        named = isinstance(error, OSError) and error.filename and error.strerror
        _fail(f"{error.filename}: {error.strerror}" if named else str(error), 2)
    if code == INTERRUPTED:  # what Typer makes of Ctrl-C
        _fail("interrupted", code)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    print("temposync:", " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
