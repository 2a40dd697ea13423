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
from typing import Annotated, Any

import typer

from .errors import InvalidInputError

app = typer.Typer(
    help="Talking heads: a portrait and a speech recording in, a video of that person speaking out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Option(help="A bundled checkpoint, a directory, or org/name on the Hub.")]
Steps = Annotated[int, typer.Option("--num_inference_steps", "--steps", min=1, max=1000, help="Denoising steps a frame.")]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps, ...")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results here as JSON.")]
AudioFile = Annotated[Path, typer.Option("--audio", "--driven_audio", help="Speech: wav, mp3, flac, m4a, ogg, opus, ...")]


@app.command()
def generate(
    image: Annotated[Path, typer.Option("--image", "--source_image", help="The portrait: PNG, JPEG or WebP.")],
    audio: AudioFile,
    output: Annotated[Path, typer.Option(help="The mp4 to write.")] = Path("talking.mp4"),
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
    import torch

    from .checkpoints import checkpoint_source
    from .pipelines.pipeline_temposync import TempoSyncPipeline

    _hide_loading_bars()
    pipe = TempoSyncPipeline.from_pretrained(checkpoint_source(model))
    pipe.to(_device(device))
    started = time.monotonic()
    figures = pipe.generate_to_file(
        image,
        audio,
        output,
        num_inference_steps=num_inference_steps,
        generator=torch.Generator().manual_seed(seed),
        progress=sys.stderr.isatty(),
        mouth_amplitude=mouth_amplitude,
    )
    _write_json(json_file, {"output": str(output), "wall_seconds": time.monotonic() - started, **figures})
    typer.echo(output)


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

    from .checkpoints import checkpoint_source
    from .media.audio import load_audio
    from .media.video import FPS
    from .models.viseme_classifier import VISEMES, VisemeClassifier

    speech = load_audio(audio)
    _hide_loading_bars()
    classifier = VisemeClassifier.from_pretrained(checkpoint_source(model), subfolder="viseme_classifier").to(_device(device))
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
    json_file: Annotated[Path, typer.Option("--json", metavar="FILE", help="The report; a table and pictures are written beside it.")],
    protocol: Annotated[str, typer.Option(help="self, cross (another talker's voice) or portraits (photographs).")] = "self",
    portraits: Annotated[Path | None, typer.Option(help="Folder of photographs, for --protocol portraits.")] = None,
    held_out_only: Annotated[bool, typer.Option("--held-out-only", help="Of the photographs, only those never trained on.")] = False,
    landmarks: Annotated[Path | None, typer.Option(help="Folder of the real clips' landmarks, <clip id>.npz; else tracked.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many clips, pairs or portraits.")] = None,
    num_inference_steps: Steps = 4,
    model: Model = "temposync-tiny",
    device: Device = "auto",
) -> None:
    """Measure how well generated lips follow real talkers.

    Example: temposync evaluate --manifest validation.jsonl --json report.json --limit 16
    """
    _check_files(json_file, manifest)
    from .checkpoints import checkpoint_source
    from .metrics.evaluate import run_evaluation

    checkpoint_source(model)
    report = run_evaluation(
        manifest,
        model=model,
        num_inference_steps=num_inference_steps,
        limit=limit,
        protocol=protocol,
        output=json_file,
        landmarks=landmarks,
        portraits=portraits,
        held_out_only=held_out_only,
        device=_device(device),
    )
    for row, figures in report["summary"].items():
        typer.echo(row)
        for name, value in figures.items():
            typer.echo(f"  {name:32} {value['mean']:9.4f}  ± {value['std']:.4f}  (n = {value['n']})")


STAGES = ("aligner", "autoencoder", "visemes", "teacher", "student")


@app.command()
def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=", ".join(STAGES))],
    data: Annotated[Path | None, typer.Option(help="Folder of the stage's training data.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run: weights, checkpoint, log.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Train one of the models.  Options here overrule the YAML file, and that overrules the stage's own defaults.

    Example: temposync train autoencoder --data crops --output runs/autoencoder --set max_minutes=40
    """
    if stage not in STAGES:
        raise InvalidInputError(f"{stage}: not a stage ({', '.join(STAGES)})")
    _check_files(None, *(path for path in (data, config) if path))
    from importlib import import_module

    module = import_module(f".training.{stage}", __package__)
    options = {"data": data and str(data), "output": output and str(output), "resume": resume or None}
    values = {"device": _device(device), **_read_settings(config, settings or [])}
    values |= {name: value for name, value in options.items() if value is not None}
    figures = module.train(_build_config(module.Config, values))
    _write_json(json_file, figures)
    for name, value in figures.items():
        typer.echo(f"{name} {value}")


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
    """`value` as `default`'s type: YAML reads 1e-3 as text, 1 as a whole number and a tuple as a list."""
    wanted = type(default)
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
    """Loading takes a second; its bars would only stand between the user and the one line of an error."""
    import diffusers.utils.logging
    import transformers.utils.logging

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


def _write_json(path: Path | None, results: dict[str, Any]) -> None:
    if path is None:
        return
    temporary = path.absolute().with_name(f".{secrets.token_hex(8)}.json")
    try:
        temporary.write_text(json.dumps(results, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    """Entry point; `arguments` default to the command line's."""
    try:
        app(arguments, prog_name="temposync")
    except (InvalidInputError, OSError) as error:
        message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename and error.strerror else str(error)
        print("temposync:", " ".join(message.split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
