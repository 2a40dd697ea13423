"""Arrays of an .npz or .npy that somebody else may have written."""

import math
import zipfile
from os import PathLike
from pathlib import Path

import numpy as np

from ..errors import InvalidInputError
from ..files import check_is_file
from ..limits import MAX_MEDIA_BYTES

# Numbers, truth values and text, not Python's objects.
_KINDS = "fiubUS"


def read_arrays(path: str | PathLike, *names: str, rows: int | None = None) -> dict[str, np.ndarray]:
    """The arrays called `names` of an .npz; no memory is taken for one that is not there, whatever its header says.

    `rows` is the limit of frames, the first of an array's three dimensions.  Raises InvalidInputError for a file that is damaged, none of
    numpy's or too large, or where an array is missing, and OSError.
    """
    path = Path(path)
    check_is_file(path)
    try:
        with zipfile.ZipFile(path) as file:
            if (size := sum(_size(file, path.name, name, rows) for name in names)) > MAX_MEDIA_BYTES:
                raise InvalidInputError(f"{path.name}: arrays of {size} bytes, above the limit of {MAX_MEDIA_BYTES}")
        with np.load(path) as arrays:
            return {name: arrays[name] for name in names}
    except (InvalidInputError, OSError):
        raise
    except Exception as error:  # of zipfile, zlib and numpy: whatever damaged bytes lead to
        raise InvalidInputError(f"{path.name}: no readable .npz with {', '.join(names)}") from error


def map_array(path: str | PathLike, kind: type[np.generic], *shape: int | None) -> np.ndarray:
    """The array of an .npy, of this kind of number and shape, left on disk until it is used; None stands for any number of at least 1.

    Raises InvalidInputError for a file that is damaged or none of numpy's, and for an array of another kind or shape, and OSError.
    """
    path = Path(path)
    check_is_file(path)
    try:
        array = np.load(path, mmap_mode="r")
        found = f"{array.dtype} {list(array.shape)}"
    except OSError:
        raise
    except Exception as error:  # of numpy and mmap: whatever damaged bytes lead to
        raise InvalidInputError(f"{path.name}: no readable .npy") from error
    if array.dtype != kind or array.ndim != len(shape) or not array.size or any(
            wanted not in (None, side) for wanted, side in zip(shape, array.shape)):
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise InvalidInputError(f"{path.name}: {found}, expected {kind.__name__} [{wanted}]")
    return array


def _size(file: zipfile.ZipFile, path: str, name: str, rows: int | None) -> int:
    """Bytes of an array by its header; raises InvalidInputError, and ValueError where it holds less, or none of `_KINDS`."""
    if f"{name}.npy" not in file.namelist():
        raise InvalidInputError(f"{path}: no array {name!r}")
    with file.open(f"{name}.npy") as entry:
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, kind = read_header[np.lib.format.read_magic(entry)[0]](entry)
    if rows is not None and len(shape) == 3 and shape[0] > rows:
        raise InvalidInputError(f"{path}: {name} of {shape[0]} frames, above the limit of {rows}")
    size = math.prod(shape) * kind.itemsize
    if kind.kind not in _KINDS or size > file.getinfo(f"{name}.npy").file_size:
        raise ValueError
    return size
