"""What every command does before and after its work: check files and device first, write the results last."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.files import INDEX
from ..errors import InvalidInputError
from ..files import called, landing, unfinished, write_whole

if TYPE_CHECKING:
    from ..provenance.credentials import SigningKey


# Of a checkpoint's folder and of an adapter's.
_LOADED = (INDEX, "*/*config.json", "*/*.safetensors*", "*/*.onnx*", "*/*.xml", "*/*.bin", "*lora*.safetensors")
# How an address of the web begins, of whose slashes a path keeps one.
_WEB = re.compile(r"(https?|ftp):[/\\]", re.IGNORECASE)
_ADDRESS = "; an address, not a file: download it first, and name the file"


def check_files(inputs: Iterable[Path | None], outputs: Iterable[Path | None] = (), others: Iterable[Path | None] = ()) -> None:
    """Say at once what would fail after a long computation; None stands for an option that was not given.

    Raises InvalidInputError for an input that does not exist, and for an output that cannot be written, is a folder or a link to no file,
    would replace an input or one of the `others`, which are read, too, and checked elsewhere (of the folder of a checkpoint or an adapter:
    a file that is loaded from it), or is the same file as another output; and for either that is a pipe or a device.
    """
    inputs, outputs, others = ([path for path in paths if path is not None] for paths in (inputs, outputs, others))
    for path in (*inputs, *outputs):
        check_name(path)
    for path in inputs:
        if not path.exists():
            raise InvalidInputError(f"{path}: no such file{_ADDRESS if _WEB.match(str(path)) else ''}")
        if not (path.is_file() or path.is_dir()):  # a named pipe would make the command wait, a device has no end
            raise InvalidInputError(f"{path}: a pipe or a device, not a file")
    for index, output in enumerate(outputs):
        if not output.absolute().parent.is_dir():
            raise InvalidInputError(f"{output}: the output folder does not exist")
        target = landing(output, str(output))
        if output.exists() and any(os.path.exists(path) and output.samefile(path) for path in (*inputs, *others, *_loaded(others))):
            raise InvalidInputError(f"{output}: the output would replace an input")
        if any(os.path.realpath(output) == os.path.realpath(other) for other in outputs[:index]):
            raise InvalidInputError(f"{output}: two outputs cannot be the same file")
        check_writable(target.absolute().parent, output)


def _loaded(folders: Iterable[Path]) -> Iterator[Path]:
    """What is read of checkpoints and adapters: the index, the files of components, the adapter's weights."""
    for folder in folders:
        if os.path.isdir(folder):
            for pattern in _LOADED:
                yield from folder.glob(pattern)


def check_name(path: Path) -> None:
    """Raises InvalidInputError for a name that no file can have, such as one too long for the disk, or whose folder lets nobody look."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except ValueError as error:
        raise InvalidInputError(f"{path}: no file's name has a NUL in it") from error
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}") from error


def check_folder(path: Path | None) -> None:
    """Raises InvalidInputError unless `path` is None or a folder."""
    if path is not None and not path.is_dir():
        raise InvalidInputError(f"{path}: not a folder")


def check_writable(folder: Path, output: Path) -> None:
    """Raises InvalidInputError, in the name of `output`, where no file can be made in `folder`."""
    trial = unfinished(folder / "trial")
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise InvalidInputError(f"{output}: the output folder cannot be written to: {error.strerror}") from error


def check_mp4(output: Path) -> None:
    """Raises InvalidInputError unless the name ends in .mp4."""
    if output.suffix.lower() != ".mp4":
        raise InvalidInputError(f"{output}: the output is an mp4, its name must end in .mp4")


def whole_numbers(option: str, text: str) -> list[int]:
    """The numbers of steps in "1,2,4"; raises InvalidInputError, naming `option`, for anything else or outside 1 to 1000."""
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isdecimal() and len(part) <= 4 and 1 <= int(part) <= 1000 for part in parts):
        raise InvalidInputError(f"{option} {text}: expected whole numbers from 1 to 1000, such as 1,2,4,8")
    return [int(part) for part in parts]


def check_model(name: str) -> None:
    """Raises InvalidInputError for a name that no checkpoint can have, before anything large is imported."""
    if not Path(name).is_dir() and name.count("/") != 1:  # org/name is for the Hub to know
        from ..checkpoints import checkpoint_folder

        checkpoint_folder(name, ())


def check_steps(model: str, counts: Iterable[int | None]) -> None:
    """Raises InvalidInputError for more steps than the checkpoint's sampler takes, None = as many as it takes by itself; of a checkpoint on
    the Hub it fetches the sampler."""
    from ..checkpoints import checkpoint_folder
    from ..checkpoints.schema import read_json
    from ..pipelines.loading import load_component
    from ..schedulers.scheduling_temposync import TempoSyncScheduler

    folder = checkpoint_folder(model, ("scheduler",)) / "scheduler"
    if read_json(folder / TempoSyncScheduler.config_name).get("_class_name") == TempoSyncScheduler.__name__:  # others take any number
        scheduler = load_component(TempoSyncScheduler, folder, called(model))
        for count in counts:
            if count is not None:
                scheduler.check_steps(count)


def choose_device(name: str) -> str:
    """The device that "auto" stands for, or `name`; raises InvalidInputError for one that is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise InvalidInputError(f"--device {name}: not available here") from error
    return name


def choose_provenance(provenance: bool, certificate: Path | None, key: Path | None) -> "bool | SigningKey":
    """What the pipelines' `provenance` is to be; raises InvalidInputError for options that exclude each other and keys that do not fit."""
    if certificate is None and key is None:
        return provenance
    if certificate is None or key is None:
        raise InvalidInputError("--signing-cert and --signing-key go together")
    if not provenance:
        raise InvalidInputError("--no-provenance: nothing is signed, so --signing-cert cannot be used")
    check_files((certificate, key))
    from ..provenance.credentials import SigningKey, choose_credentials

    signing = SigningKey(certificate, key)
    choose_credentials(signing)
    return signing


def write_json(path: Path | None, results: dict[str, Any]) -> None:
    """Write the results; raises InvalidInputError where that fails."""
    if path is None:
        return
    try:
        write_whole(path, json.dumps(results, allow_nan=False) + "\n")
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror}") from error
