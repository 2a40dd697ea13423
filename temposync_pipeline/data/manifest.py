"""Which clips there are, who talks in them and on which side of the split they stand.

A manifest is a JSON Lines file, one clip a line, whose paths are relative to the file's own folder:
`{"id": "train_s1_bbwg2p", "talker": "s1", "video": "train/s1/bbwg2p.mpg", "split": "train", "alignment": "train/s1/bbwg2p.align"}`.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..errors import InvalidInputError

VIDEO_SUFFIXES = (".mpg", ".mp4")
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Clip:
    """One recording of one talker; paths are usable as they are.

    `landmarks` names an .npz with an array `landmarks` [T, 131 or 478, 2 or 3] in pixels of the video, `alignment` a GRID .align file.
    """

    id: str
    talker: str
    video: Path
    split: str
    landmarks: Path | None = None
    alignment: Path | None = None

    def __post_init__(self):
        if self.split not in SPLITS:
            raise InvalidInputError(f"{self.id}: the split is {self.split!r}, not one of {', '.join(SPLITS)}")


def portrait_split(name: str) -> str:
    """"val" for portraits whose file stem's SHA-1 ends in 0 (one in sixteen), else "train"; `name` may carry a folder and a suffix."""
    return "val" if hashlib.sha1(Path(name).stem.encode()).hexdigest().endswith("0") else "train"


def build_manifest(folder: str | PathLike, landmarks: str | PathLike | None = None) -> list[Clip]:
    """The clips of a tree `.../<talker>/<name>.mpg|.mp4`, sorted by path, each with the `.align` file beside it if there is one.

    A talker's folder below one called "val" is for validation, every other for training.  A clip's id is its path in the tree with
    "_" between the parts; `landmarks` is a folder of files `<id>.npz`.  Raises InvalidInputError where there is no clip.
    """
    folder = Path(folder)
    clips = []
    for video in sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES):
        parts = video.relative_to(folder).with_suffix("").parts
        alignment = video.with_suffix(".align")
        name = "_".join(parts)
        points = None if landmarks is None else Path(landmarks) / f"{name}.npz"
        clips.append(Clip(
            id=name, talker=video.parent.name, video=video, split="val" if "val" in parts[:-1] else "train",
            landmarks=points if points is not None and points.exists() else None, alignment=alignment if alignment.exists() else None,
        ))
    if not clips:
        raise InvalidInputError(f"{folder.name}: no clip ({', '.join(VIDEO_SUFFIXES)}) in this folder")
    return clips


def write_manifest(clips: list[Clip], path: str | PathLike) -> None:
    """Write clips as JSON Lines; paths become relative to the file's folder."""
    path = Path(path)
    base = path.absolute().parent

    def relative(file: Path) -> str:
        return Path(os.path.relpath(file.absolute(), base)).as_posix()

    lines = []
    for clip in clips:
        record = {"id": clip.id, "talker": clip.talker, "video": relative(clip.video), "split": clip.split}
        record |= {name: relative(file) for name in ("landmarks", "alignment") if (file := getattr(clip, name)) is not None}
        lines.append(json.dumps(record, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_manifest(path: str | PathLike) -> list[Clip]:
    """The clips of a JSON Lines file, or of a folder as `build_manifest` finds them.

    Raises InvalidInputError naming the file and line for anything else, FileNotFoundError where there is nothing.
    """
    path = Path(path)
    if path.is_dir():
        return build_manifest(path)
    clips = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path.name}: not a text file") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            files = {name: path.parent / record[name] for name in ("video", "landmarks", "alignment") if record.get(name) is not None}
            clips.append(Clip(id=str(record["id"]), talker=str(record["talker"]), split=record["split"], **files))
        except InvalidInputError as error:
            raise InvalidInputError(f"{path.name}, line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InvalidInputError(f"{path.name}, line {number}: not a clip with id, talker, video and split") from None
    if not clips:
        raise InvalidInputError(f"{path.name}: an empty manifest")
    return clips
