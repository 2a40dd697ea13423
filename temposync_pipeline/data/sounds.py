"""Sounds of a folder, whatever their format."""

import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import InvalidInputError
from ..files import called
from ..media.audio import load_audio
from .viseme_labels import SAMPLE_RATE


def load_sounds(folder: Path, shortest: float = 0.0) -> list[np.ndarray]:
    """Every sound file of a folder and of all below it, int16 [N] each at 16 kHz; those of less than `shortest` seconds are left out, and
    those that cannot be read, which is said of each on stderr.

    Raises InvalidInputError where that leaves none.
    """
    sounds = []
    for path in tqdm(sorted(path for path in folder.rglob("*") if path.is_file()), desc=f"read {folder}"):
        try:
            samples = load_audio(path).samples
        except InvalidInputError as error:
            tqdm.write(f"left out: {error}", file=sys.stderr)
            continue
        if len(samples) >= shortest * SAMPLE_RATE:
            sounds.append((np.clip(samples, -1, 1) * 32767).astype(np.int16))
    if not sounds:
        raise InvalidInputError(f"{called(folder)}: no recordings in it" + (f" of {shortest:g} s or more" if shortest else ""))
    return sounds
