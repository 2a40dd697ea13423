"""Sound files that lie one after the other in one file, as where pieces of a recording were simply joined.

FFmpeg reads on by itself in MP3, Ogg, FLAC, AAC, AC-3 and MPEG-TS; of other formats it sees the first file only, or takes headers for
sound.
"""

import logging
import re
from itertools import pairwise
from typing import BinaryIO

from .chunked import with_true_size
from .spliced import Spliced
from .wav import wav_files

logger = logging.getLogger(__name__)

_BLOCK = 2**20
# How files of a format begin, long enough never to occur by chance.
_BEGINNINGS = [re.compile(pattern, re.DOTALL) for pattern in (
    rb"\x1a\x45\xdf\xa3.{1,40}?\x42\x82.(?:webm|matroska)",
    rb"\0\0\0[\x10-\x40]ftyp(?:isom|iso[2-9]|mp4[12]|M4[AB] |qt  |3gp.|dash|avc1|mmp4)",
    rb"FORM.{4}AIF[FC](?:COMM|FVER|NAME|COMT|MARK)",
    rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",  # WMA
    rb"\.snd\0\0[\0-\x0f].{5}\0\0\0[\x01-\x1b]",  # AU
    rb"TTA1\x01\0[\x01-\x08]\0",
    rb"#!AMR(?:-WB)?\n",
    rb"caff\0\x01\0\0desc\0{7}\x20",
    rb"wvpk.{4}[\x02-\x10]\x04.{6}\0{4}.{5}[\x08-\x0f\x18-\x1f\x28-\x2f\x38-\x3f\x48-\x4f\x58-\x5f\x68-\x6f\x78-\x7f]",  # block 0
    rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0.{8}wave",  # Wave64
)]
_LONGEST = 60


def sound_files(file: BinaryIO, name: str, report: bool = True) -> list[BinaryIO]:
    """The files in `file`, each as one of its own, with a header that covers its sound; mostly that is `file` itself.

    Logs, unless `report` is False, that there are several, and what `wav.wav_files` and `chunked.with_true_size` say.
    """
    if files := wav_files(file, name, report):
        return files
    starts = _find_starts(file)
    if len(starts) < 2:
        file.seek(0)
        return [with_true_size(file, name, report)]
    if report:
        logger.warning("%s: %d recordings in one file; all of them were read", name, len(starts))
    parts = [Spliced(b"", file, first, last - first) for first, last in pairwise([*starts, file.seek(0, 2)])]
    return [with_true_size(part, name, report=False) for part in parts]  # type: ignore[arg-type]


def _find_starts(file: BinaryIO) -> list[int]:
    """Where files of the same format begin; none where the format is another, or `file` does not begin with one."""
    file.seek(0)
    block = file.read(_BLOCK)
    beginning = next((beginning for beginning in _BEGINNINGS if beginning.match(block)), None)
    starts, place = [], 0
    while beginning and block:
        starts += [place + found.start() for found in beginning.finditer(block)]
        tail = block[-_LONGEST:]
        if not (fresh := file.read(_BLOCK)):
            break
        place += len(block) - len(tail)
        block = tail + fresh
    return sorted(set(starts))
