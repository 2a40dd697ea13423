"""The set of portraits made to speak: for every portrait a stretch of one talker's clip, retargeted and stored as JPEG."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path

import cv2
import numpy as np

from ..errors import InvalidInputError
from ..face.crop import align_matrix, crop_face, transform_points
from ..face.landmarks import GROUPS, LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER
from ..media.image import load_image
from ..media.video import read_video
from .arrays import read_arrays
from .clips import ClipCrops, load_clip, load_landmarks
from .lip_tracks import crop_landmarks, talker_rests
from .manifest import Clip, portrait_split
from .mouth_colour import skin_colour
from .retarget import retarget

# Colour at full resolution: lips and teeth are small.
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)


@dataclass
class Portrait:
    """A photograph's aligned crop, uint8 [256, 256, 3], and its landmarks [131, 2] in crop pixels."""

    name: str
    crop: np.ndarray
    landmarks: np.ndarray

    @property
    def split(self) -> str:
        return portrait_split(self.name)


@dataclass
class SpeakingPortrait:
    """`crops` uint8 [T, 256, 256, 3] and `landmarks` float32 [T, 131, 2] of the portrait `reference` [256, 256, 3] speaking like frames
    `start` … `start + T - 1` of the clip `driver`."""

    crops: np.ndarray
    landmarks: np.ndarray
    reference: np.ndarray
    driver: str
    start: int

    def save(self, path: str | PathLike) -> None:
        """Write an .npz: `jpeg` (the pictures one after the other, the reference first), `offsets` [T + 2], and the other fields."""
        encoded = [cv2.imencode(".jpg", picture[..., ::-1], _JPEG)[1].ravel() for picture in [self.reference, *self.crops]]
        offsets = np.cumsum([0, *map(len, encoded)])
        path = Path(path)
        unfinished = path.with_name(f".{path.name}")
        with open(unfinished, "wb") as file:
            np.savez(file, jpeg=np.concatenate(encoded), offsets=offsets, landmarks=self.landmarks, driver=self.driver, start=self.start)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: str | PathLike) -> "SpeakingPortrait":
        file = read_arrays(path, "jpeg", "offsets", "landmarks", "driver", "start")
        jpeg, offsets = file["jpeg"], file["offsets"]
        pictures = [cv2.imdecode(jpeg[a:b], cv2.IMREAD_COLOR_RGB) for a, b in zip(offsets, offsets[1:])]
        return cls(np.stack(pictures[1:]), file["landmarks"], pictures[0], str(file["driver"]), int(file["start"]))


def load_portraits(folder: str | PathLike, landmarks: str | PathLike) -> list[Portrait]:
    """Portraits of a folder; `landmarks` is an .npz with `names` [N] and `landmarks` [N, 131 or 478, 2 or 3] in picture pixels.

    Left out are faces that were not found and those turned so far that a mouth corner lies at the face's edge.
    """
    names = read_arrays(landmarks, "names")["names"].tolist()
    portraits = []
    for name, points in zip(names, load_landmarks(landmarks)):
        if not np.isfinite(points).all():
            continue
        matrix = align_matrix(points)
        points = transform_points(matrix, points).astype(np.float32)
        corners = points[[RIGHT_MOUTH_CORNER, LEFT_MOUTH_CORNER]]
        oval = points[GROUPS["face_oval"]]
        if np.linalg.norm(corners[:, None] - oval, axis=-1).min() < 13:
            continue
        portraits.append(Portrait(name, crop_face(load_image(Path(folder) / name), matrix), points))
    return portraits


def has_balanced_light(clip: Clip) -> bool:
    """False for clips tinged with orange, a third of GRID: so little blue is left that their teeth cannot be made white again."""
    points, frame = load_landmarks(clip.landmarks)[0], read_video(clip.video, max_frames=1)[0][0]
    matrix = align_matrix(points)
    colour = skin_colour(crop_face(frame, matrix), transform_points(matrix, points))
    return bool(colour[2] > 0.55 * colour[1])


class Drivers:
    """Talkers' clips, each with a landmark file, as sources of motion; a talker's rest is measured over all of the talker's clips."""

    def __init__(self, clips: list[Clip], min_frames: int):
        self.by_talker: dict[str, list[Clip]] = {}
        tracks = {}
        for clip in clips:
            points = crop_landmarks(clip)
            if len(points) >= min_frames and np.isfinite(points).all():
                self.by_talker.setdefault(clip.talker, []).append(clip)
                tracks[clip.id] = clip.talker, points
        if not self.by_talker:
            raise InvalidInputError(f"no clip with landmarks of at least {min_frames} frames")
        self.rests = talker_rests(tracks)
        self._load = lru_cache(maxsize=128)(load_clip)  # 15 MB a clip of 75 frames

    def draw(self, generator: np.random.Generator) -> tuple[Clip, ClipCrops]:
        """A random talker's random clip.  A talker's chance grows with the root of the number of the talker's clips."""
        talkers = sorted(self.by_talker)
        chances = np.sqrt([len(self.by_talker[talker]) for talker in talkers])
        clips = self.by_talker[talkers[generator.choice(len(talkers), p=chances / chances.sum())]]
        clip = clips[generator.integers(len(clips))]
        return clip, self._load(clip)


def speak(portraits: list[Portrait], drivers: Drivers, num_frames: int, generator: np.random.Generator) -> Iterator[
        tuple[Portrait, SpeakingPortrait]]:
    """Each portrait with `num_frames` consecutive frames of a random talker's clip."""
    for portrait in portraits:
        clip, source = drivers.draw(generator)
        start = int(generator.integers(len(source.crops) - num_frames + 1))
        window = slice(start, start + num_frames)
        crops, landmarks = retarget(portrait.crop, portrait.landmarks, source.landmarks[window], source.crops[window],
                                    drivers.rests[clip.talker])
        yield portrait, SpeakingPortrait(crops, landmarks, portrait.crop, clip.id, start)
