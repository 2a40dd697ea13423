"""Which clips there are, who talks in them and on which side of the split they stand.

A manifest is a JSON Lines file, one clip a line, whose paths are relative to the file's own folder:
`{"id": "train_s1_bbwg2p", "talker": "s1", "video": "train/s1/bbwg2p.mpg", "split": "train", "alignment": "train/s1/bbwg2p.align"}`.
Trees of clips become one as they are: GRID's `s1/bbwg2p.mpg` with `.align` files, LRS3's `<speaker>/00001.mp4` with `.txt` files, or any
folder of recordings.

`"offset": 0.28`, where a line has it, is how late the clip's sound is against its picture, in seconds, below 0 for early sound: training
and evaluation move the sound by that much.  Where it is missing they estimate it themselves (`metrics.offset`); 0 leaves the sound alone.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from io import StringIO
from os import PathLike
from pathlib import Path

from ..errors import InvalidInputError
from ..files import write_whole
from ..media.audio import decode_audio
from ..media.video import stream_video
from ..terminal import shown
from ..text_files import read_table_text

VIDEO_SUFFIXES = (".mpg", ".mpeg", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
SPLITS = ("train", "val")
# Folders of a tree whose clips are for validation.
VALIDATION_FOLDERS = {"val", "validation", "test"}
# The tree itself may be one of them; a folder of recordings called "test" is likelier somebody's first try.
VALIDATION_TREES = {"val", "validation"}
# Seconds; sound that is later belongs to another recording.
MAX_OFFSET = 10
# Of an id: files are called by it, with an ending of their own.
MAX_ID_BYTES = 200
# Files of this kind may stand beside a clip under its name.
COMPANIONS = {"alignment": ".align", "transcript": ".txt"}


@dataclass(frozen=True)
class Clip:
    """One recording of one talker; paths are usable as they are.

    `landmarks` names an .npz with an array `landmarks` [T, 131 or 478, 2 or 3] in pixels of the video, `alignment` a GRID .align file,
    `transcript` a text file.  `offset` says by how many seconds the sound is late, None where nobody has looked or it cannot be told.
    """

    id: str
    talker: str
    video: Path
    split: str
    landmarks: Path | None = None
    alignment: Path | None = None
    transcript: Path | None = None
    offset: float | None = None

    def __post_init__(self):
        if Path(self.id).name != self.id or self.id in ("", "..") or not self.id.isprintable() or len(self.id.encode()) > MAX_ID_BYTES:
            raise InvalidInputError(f"{shown(self.id)}: not an id that files could be called by")
        if self.split not in SPLITS:
            raise InvalidInputError(f"{self.id}: the split is {shown(self.split)}, not one of {', '.join(SPLITS)}")
        if self.offset is not None and not (type(self.offset) in (int, float) and abs(self.offset) <= MAX_OFFSET):
            raise InvalidInputError(f"{self.id}: the offset is {shown(self.offset)}, not a number of seconds in ±{MAX_OFFSET}")


def portrait_split(name: str) -> str:
    """"val" for portraits whose file stem's SHA-1 ends in 0 (one in sixteen), else "train"; `name` may carry a folder and a suffix."""
    return "val" if hashlib.sha1(Path(name).stem.encode()).hexdigest().endswith("0") else "train"


def build_manifest(folder: str | PathLike, landmarks: str | PathLike | None = None) -> list[Clip]:
    """The clips of a tree `.../<talker>/<name>.mp4` (`VIDEO_SUFFIXES`), sorted by path, each with what stands beside it (`COMPANIONS`).

    A talker's folder below one called "val", "validation" or "test" is for validation, and so is a tree called "val" or "validation";
    every other for training.  A clip's id is its path
    in the tree with "_" between the parts; `landmarks` is a folder of files `<id>.npz`.  Raises InvalidInputError where there is no clip.
    """
    folder = Path(folder).absolute() if Path(folder).name in ("", "..") else Path(folder)
    clips, ids, all_held_out = [], set(), folder.name in VALIDATION_TREES
    for video in sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES):
        parts = video.relative_to(folder).with_suffix("").parts
        name = _free_id("_".join(parts), ids)
        ids.add(name)
        files = {kind: video.with_suffix(suffix) for kind, suffix in COMPANIONS.items()}
        if landmarks is not None:
            files["landmarks"] = Path(landmarks) / f"{name}.npz"
        held_out = all_held_out or VALIDATION_FOLDERS & set(parts[:-1])
        clips.append(Clip(
            id=name, talker=video.parent.name, video=video, split="val" if held_out else "train",
            **{kind: path for kind, path in files.items() if os.path.exists(path)}))
    if not clips:
        raise InvalidInputError(f"{folder.name}: no clip ({', '.join(VIDEO_SUFFIXES)}) in this folder")
    return clips


def _free_id(name: str, taken: set[str]) -> str:
    """`name` as an id that no other clip has: a folder may hold x.mp4 and x.mov, and names that cannot be printed or are very long."""
    name = "".join(letter if letter.isprintable() else "_" for letter in name)
    name = name.encode()[-MAX_ID_BYTES + 8:].decode(errors="ignore")
    return next(free for free in (name, *(f"{name}_{number}" for number in range(2, len(taken) + 3))) if free not in taken)


def usable_clips(clips: Iterable[Clip], report: Callable[[str], None]) -> list[Clip]:
    """Those whose picture and sound can be decoded, judged by their beginnings; each other one is reported in a line and left out."""
    kept = []
    for clip in clips:
        try:
            frames, _ = stream_video(clip.video)
            if next(frames, None) is None:
                raise InvalidInputError(f"{clip.video.name}: no frame could be decoded")
            next(decode_audio(clip.video))
        except (InvalidInputError, OSError, StopIteration) as error:
            report(f"skipped {clip.id}: {error or 'no sound'}")
        else:
            kept.append(clip)
    return kept


def split_by_talker(clips: list[Clip], share: float = 0.1) -> list[Clip]:
    """Hold out about `share` of the talkers, at least one of several; clips that their folders mark for validation stay as they are.

    A talker's side depends on the name's SHA-1 (the smallest are held out), so that clips added later do not change it for the others.
    """
    if not clips or any(clip.split == "val" for clip in clips):
        return clips
    chance = {clip.talker: int(hashlib.sha1(clip.talker.encode()).hexdigest()[:8], 16) / 2**32 for clip in clips}
    first = min(chance, key=chance.get)
    held_out = {talker for talker, value in chance.items() if len(chance) > 1 and (value < share or talker == first)}
    if held_out == set(chance):
        held_out = {first}
    return [replace(clip, split="val") if clip.talker in held_out else clip for clip in clips]


def hold_out_clips(clips: list[Clip], share: float = 0.1, fewest: int = 5) -> list[Clip]:
    """Hold out the last `share` (at least one) of each talker's clips, where there are `fewest` or more: to watch a fine-tuning.

    Clips that their folders mark for validation stay as they are.
    """
    if any(clip.split == "val" for clip in clips):
        return clips
    by_talker: dict[str, list[Clip]] = {}
    for clip in clips:
        by_talker.setdefault(clip.talker, []).append(clip)
    held_out = {clip.id for own in by_talker.values() if len(own) >= fewest for clip in own[-max(1, round(share * len(own))):]}
    return [replace(clip, split="val") if clip.id in held_out else clip for clip in clips]


def write_manifest(clips: list[Clip], path: str | PathLike) -> None:
    """Write clips as JSON Lines; paths become relative to the file's folder."""
    path = Path(path)
    base = path.absolute().parent

    def relative(file: Path) -> str:
        return Path(os.path.relpath(file.absolute(), base)).as_posix()

    lines = []
    for clip in clips:
        record = {"id": clip.id, "talker": clip.talker, "video": relative(clip.video), "split": clip.split}
        record |= {name: relative(file) for name in ("landmarks", *COMPANIONS) if (file := getattr(clip, name)) is not None}
        record |= {} if clip.offset is None else {"offset": clip.offset}
        lines.append(json.dumps(record, ensure_ascii=not str(record["video"]).isprintable()))  # a name that is no UTF-8 as its bytes
    write_whole(path, "\n".join(lines) + "\n")


def read_manifest(path: str | PathLike) -> list[Clip]:
    """The clips of a JSON Lines file, or of a folder as `build_manifest` finds them.

    Raises InvalidInputError naming the file and line for anything else, FileNotFoundError where there is nothing.
    """
    path = Path(path)
    if path.is_dir():
        return build_manifest(path)
    clips, numbers = [], {}
    try:
        lines = StringIO(read_table_text(path), newline=None)
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path.name}: neither a manifest (a text file) nor a folder of clips") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            names = ("video", "landmarks", *COMPANIONS)
            files = {name: path.parent / record[name] for name in names if record.get(name) is not None}
            if any("\0" in str(file) for file in files.values()):
                raise InvalidInputError("no file's name has a NUL in it")
            clip = Clip(id=str(record["id"]), talker=str(record["talker"]), split=record["split"], offset=record.get("offset"), **files)
            if numbers.setdefault(clip.id, number) != number:
                raise InvalidInputError(f"the id of line {numbers[clip.id]} again, by which files of both would be called")
            clips.append(clip)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path.name}, line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InvalidInputError(f"{path.name}, line {number}: not a clip with id, talker, video and split") from None
    if not clips:
        raise InvalidInputError(f"{path.name}: an empty manifest")
    return clips
