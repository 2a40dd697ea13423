"""`temposync batch`: many videos from a table."""

import csv
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidInputError
from ..export import check_runtime
from ..terminal import in_words, is_watched, say
from .checks import check_files, check_model, check_mp4, check_name, check_steps, choose_provenance, write_json
from .options import MAX_SEED, Device, JsonFile, Model, Provenance, Runtime, Seed, SigningCert, SigningKeyFile, Steps
from .video import load_pipeline

if TYPE_CHECKING:
    from ..pipelines.talking_head import TalkingHeadPipeline

COLUMNS = ("image", "audio", "output")
# Settings that a line may have of its own: their names in Python, kinds and limits.
SETTINGS = {"steps": ("num_inference_steps", int, 1, 1000), "seed": ("seed", int, 0, MAX_SEED), "face_index": ("face_index", int, 0, 1000),
            "mouth_amplitude": ("mouth_amplitude", float, 0, 3), "blink_rate": ("blink_rate", float, 0, 2),
            "head_motion": ("head_motion", float, 0, 2), "max_size": ("max_size", int, 0, 10**5)}


@dataclass(frozen=True)
class Job:
    """One line of the table, its paths as they will be opened; `settings` are arguments of `generate_to_file` and the seed."""

    line: int
    image: Path
    audio: Path
    output: Path
    settings: dict[str, int | float] = field(default_factory=dict)


def batch(
    jobs: Annotated[Path, typer.Argument(metavar="JOBS.csv", help="The table, a comma, semicolon or tab between its columns.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Folder for the videos; made where it does not exist.")] = Path("."),
    seed: Seed = 0,
    num_inference_steps: Steps = None,
    model: Model = "temposync-tiny",
    provenance: Provenance = True,
    signing_cert: SigningCert = None,
    signing_key: SigningKeyFile = None,
    device: Device = "auto",
    runtime: Runtime = "auto",
    json_file: JsonFile = None,
) -> None:
    """Make the videos of a table, one a line, with models that are loaded once.

    Example: temposync batch jobs.csv --output_dir videos --json report.json

    The table's first line names its columns: image, audio and output, and where lines differ in them steps, seed, face_index,
    mouth_amplitude, blink_rate, head_motion and max_size (where a field is empty, the option's value, or what `generate` takes by default).
    Images and recordings are looked for beside the table.

    A line that fails is reported on stderr and the next one goes on; the exit code is then 2. Videos that exist are left as they are: run
    the same command again to go on after an interruption. The JSON has each line's "status": made, existing or failed with its "error".
    """
    check_files((jobs,), (json_file,))
    rows = read_table(jobs)
    folders = {"image": jobs.parent, "audio": jobs.parent, "output": output_dir}
    named = [folder / row[column].strip() for _, row in rows for column, folder in folders.items() if row.get(column)]
    check_files((), (json_file,), (signing_cert, signing_key, Path(model), *named))
    check_model(model)
    check_runtime(runtime)
    check_steps(model, [num_inference_steps])
    output_dir.mkdir(parents=True, exist_ok=True)
    marking = choose_provenance(provenance, signing_cert, signing_key)
    defaults = {"seed": seed, "num_inference_steps": num_inference_steps, "provenance": marking}
    results = []
    for result in _run(rows, jobs.parent, output_dir, defaults, model, device, runtime):
        results.append(result)
        if result["status"] == "made":
            say(result["output"])
        elif result["status"] == "failed":
            say(f"{jobs.name}: line {result['line']}: {result['error']}", err=True)
    counts = {status: sum(result["status"] == status for result in results) for status in ("made", "existing", "failed")}
    write_json(json_file, {**counts, "lines": results})
    if counts["existing"]:
        say(f"{jobs.name}: {counts['existing']} of {len(results)} lines had been made before", err=True)
    if counts["failed"]:
        raise InvalidInputError(f"{jobs.name}: {counts['failed']} of {len(results)} lines failed")


def read_table(path: Path) -> list[tuple[int, dict[str | None, str]]]:
    """(line number, {column: field}) of each line that is not empty; raises InvalidInputError for a first line that cannot be used."""
    from ..text_files import read_table_text

    try:
        text = read_table_text(path)
        first = text.partition("\n")[0]
        lines = csv.DictReader(StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), skipinitialspace=True, strict=True)
        header = [name.strip().lower() for name in lines.fieldnames or ()]
        _check_header(path.name, header)
        lines.fieldnames = header
        return [(lines.line_num, row) for row in lines if any(row.values())]
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path.name}: not a table in UTF-8") from error
    except csv.Error as error:
        raise InvalidInputError(f"{path.name}: not a table in UTF-8: {error}") from error


def _check_header(name: str, header: list[str]) -> None:
    allowed = (*COLUMNS, *SETTINGS)
    for column in COLUMNS:
        if column not in header:
            raise InvalidInputError(f"{name}: the first line should name the columns {', '.join(COLUMNS)}; {column!r} is missing")
    for column in header:
        if column not in allowed or header.count(column) > 1:
            fault = "twice in the first line" if column in allowed else f"no such column; there are {', '.join(allowed)}"
            raise InvalidInputError(f"{name}: {column!r}: {fault}")


def _run(
    rows: list[tuple[int, dict[str | None, str]]], folder: Path, output_dir: Path, defaults: dict, model: str, device: str, runtime: str,
) -> Iterator[dict]:
    """What became of each line, in the order of the table; the models are loaded for the first video that is not there yet."""
    from tqdm.auto import tqdm

    pipe, above = None, set()
    for line, row in tqdm(rows, unit="video", disable=not is_watched()):
        result = {"line": line, "output": row.get("output"), "status": "failed"}
        try:
            job = read_job(line, row, folder, output_dir, defaults)
            result["output"] = str(job.output)
            check_steps(model, [job.settings["num_inference_steps"]])
            finished = is_finished(job, above)
            above.add(os.path.realpath(job.output))
        except (InvalidInputError, OSError) as error:
            yield result | {"error": in_words(error)}
            continue
        if finished:
            yield result | {"status": "existing"}
            continue
        if pipe is None:
            pipe = load_pipeline(model, device, runtime)
        started = time.monotonic()
        try:
            figures = _make(pipe, job)
        except Exception as error:  # whatever is wrong with this line, the next ones may be right
            yield result | {"error": in_words(error)}
        else:
            yield result | {"status": "made", "wall_seconds": time.monotonic() - started, **figures}


def read_job(line: int, row: dict[str | None, str], folder: Path, output_dir: Path, defaults: dict) -> Job:
    """The job of a line; raises InvalidInputError for fields that are missing, too many, or no numbers within their limits."""
    if None in row or None in row.values():
        raise InvalidInputError("more fields than columns" if None in row else "fewer fields than columns")
    fields = {column: text.strip() for column, text in row.items()}
    for column in COLUMNS:
        if not fields[column]:
            raise InvalidInputError(f"{column} is empty")
        check_name(Path(fields[column]))
    settings = dict(defaults)
    for column, (name, kind, least, most) in SETTINGS.items():
        if text := fields.get(column):
            settings[name] = _number(column, text, kind, least, most)
    job = Job(line, folder / fields["image"], folder / fields["audio"], output_dir / fields["output"], settings)
    check_mp4(job.output)
    return job


def _number(column: str, text: str, kind: type, least: float, most: float) -> int | float:
    try:
        value = kind(text)
    except ValueError as error:
        digits = kind is int and text.strip().lstrip("+-").isdecimal()
        fault = "has too many digits" if digits else f"is not a {'whole ' * (kind is int)}number"
        raise InvalidInputError(f"{column}: {text!r} {fault}") from error
    if not least <= value <= most:
        raise InvalidInputError(f"{column}: {text}, outside the limits of {least} to {most}")
    return value


def is_finished(job: Job, above: set[str]) -> bool:
    """Whether the video is there, which it is whole or not at all; raises InvalidInputError where it cannot be made.

    `above` are the videos of the lines before, as absolute paths without links.
    """
    if os.path.realpath(job.output) in above:
        raise InvalidInputError(f"{job.output}: the output of a line above")
    finished, inputs = job.output.exists(), (job.image, job.audio)
    if not finished:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    check_files([path for path in inputs if path.exists()] if finished else inputs, (job.output,))
    return finished


def _make(pipe: "TalkingHeadPipeline", job: Job) -> dict:
    import torch

    settings = dict(job.settings)
    generator = torch.Generator().manual_seed(settings.pop("seed"))
    try:
        return pipe.generate_to_file(job.image, job.audio, job.output, generator=generator, progress=False, **settings)
    except OSError as error:  # a full disk, say; the user knows the output's name, not the temporary file's
        raise InvalidInputError(f"{job.output}: {error.strerror or error}") from error
