"""Faces at twice the crop's resolution: photographs, filmed talkers, and how their skin moves when they speak."""

from dataclasses import dataclass

import cv2
import numpy as np

from ..face.crop import CROP_SIZE, align_matrix, crop_face, smooth_matrices, transform_points
from ..face.inner_mouth import BLOCK, SCALE
from ..face.landmarks import MIRROR, lip_opening
from ..face.lip_shape import rest_shape, smooth_over_time
from ..media.video import FPS, read_video
from .clips import load_landmarks
from .manifest import Clip
from .mouth_warp import REGION, MouthOpening, warp, warp_fields
from .retarget import close_mouth, closed_lips_source, transfer_motion

TAKE_FRAMES = 3  # consecutive frames that are looked at together
# Columns and rows of the block at twice the crop's resolution, in crop pixels.
FINE_X = (np.arange(SCALE * (BLOCK.x1 - BLOCK.x0)) + 0.5) / SCALE - 0.5 + BLOCK.x0
FINE_Y = ((np.arange(SCALE * (BLOCK.y1 - BLOCK.y0)) + 0.5) / SCALE - 0.5 + BLOCK.y0)[:, None]


@dataclass
class Face:
    """A picture's aligned crop at twice the resolution, uint8 [512, 512, 3], and its landmarks [131, 2] in crop pixels."""

    name: str
    fine: np.ndarray
    landmarks: np.ndarray

    @property
    def crop(self) -> np.ndarray:
        return cv2.resize(self.fine, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA)

    @classmethod
    def of(cls, name: str, picture: np.ndarray, landmarks: np.ndarray, matrix: np.ndarray | None = None) -> "Face":
        """Of a picture with `landmarks` [131, 2]; the alignment follows from them unless it is given."""
        matrix = align_matrix(landmarks) if matrix is None else matrix
        return cls(name, crop_face(picture, matrix, SCALE * CROP_SIZE), transform_points(matrix, landmarks).astype(np.float32))

    def changed(self, look: "Look") -> "Face":
        fine = look(self.fine)
        landmarks = self.landmarks
        if look.mirrored:
            landmarks = (landmarks * [-1, 1] + [CROP_SIZE - 1, 0])[MIRROR].astype(np.float32)
        return Face(self.name, fine, landmarks)


@dataclass
class Look:
    """Another light, and sometimes a mirror."""

    gain: np.ndarray
    offset: float
    mirrored: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Look":
        gain = rng.uniform(0.8, 1.2) * rng.uniform(0.93, 1.07, 3)
        return cls(gain.astype(np.float32), float(rng.uniform(-12, 12)), bool(rng.random() < 0.5))

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        picture = picture[:, ::-1] if self.mirrored else picture
        return np.clip(picture * self.gain + self.offset, 0, 255).astype(np.uint8)


@dataclass
class Fine:
    """An opening on the block's fine grid, each [192] or [128, 192]."""

    upper: np.ndarray
    lower: np.ndarray
    position: np.ndarray
    beyond: np.ndarray

    @classmethod
    def of(cls, landmarks: np.ndarray) -> "Fine":
        opening, columns = MouthOpening.of(landmarks), np.arange(REGION[1].start, REGION[1].stop)
        return cls(*(np.interp(FINE_X, columns, values)
                     for values in (opening.upper, opening.lower, opening.position, opening.beyond)))

    @property
    def share(self) -> np.ndarray:
        """How much of a pixel is the inside of the mouth, [128, 192]."""
        inside = (self.beyond <= 0) * np.clip((self.lower - self.upper - 0.3) / 1.2, 0, 1)
        return inside * np.clip((FINE_Y - self.upper) / 0.9 + 0.4, 0, 1) * np.clip((self.lower - FINE_Y) / 0.9 + 0.4, 0, 1)

    @property
    def shade(self) -> np.ndarray:
        """Light that lips leave to what lies behind them."""
        return np.clip(np.minimum(0.55 + 0.14 * (FINE_Y - self.upper), 0.72 + 0.16 * (self.lower - FINE_Y)), 0.45, 1)


def block_of(fine: np.ndarray) -> np.ndarray:
    """The block [128, 192, 3] of a crop [512, 512, 3]."""
    return fine[SCALE * BLOCK.y0:SCALE * BLOCK.y1, SCALE * BLOCK.x0:SCALE * BLOCK.x1]


def moved_skin(face: Face, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face with landmarks `target` [131, 2] and nothing in its mouth: the crop [256, 256, 3] and the fine block, float32."""
    source, opening = closed_lips_source(face.landmarks), MouthOpening.of(target)
    crop = face.crop.astype(np.float32)
    crop[REGION] = warp(face.crop, source, target, opening)
    top, left = REGION[0].start, REGION[1].start
    to_field = np.float32([[1 / SCALE, 0, FINE_X[0] - left], [0, 1 / SCALE, FINE_Y[0, 0] - top]])
    size = len(FINE_X), len(FINE_Y)
    above, below = (cv2.warpAffine(field, to_field, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
                    for field in warp_fields(source, target))
    above, below = (cv2.remap(face.fine, SCALE * field + 0.5 * (SCALE - 1), None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
                    .astype(np.float32) for field in (above, below))
    fine = Fine.of(target)
    share = np.clip(0.5 + (FINE_Y - (fine.upper + fine.lower) / 2) / (2 * (0.5 + 0.8 * fine.beyond)), 0, 1)[..., None]
    return crop, above + share * (below - above)


def composed(skin: tuple[np.ndarray, np.ndarray], inside: np.ndarray, fine: Fine) -> tuple[np.ndarray, np.ndarray]:
    """Crop uint8 [256, 256, 3] and block uint8 [128, 192, 3] of a face with the inside of the mouth drawn in."""
    crop, block = skin
    block = block + fine.share[..., None] * (inside * fine.shade[..., None] - block)
    block = np.clip(np.rint(block), 0, 255).astype(np.uint8)
    crop = np.clip(np.rint(crop), 0, 255).astype(np.uint8)
    crop[BLOCK.y0:BLOCK.y1, BLOCK.x0:BLOCK.x1] = cv2.resize(block, None, fx=1 / SCALE, fy=1 / SCALE, interpolation=cv2.INTER_AREA)
    return crop, block


@dataclass
class Driver:
    """A clip's frames as faces, its talker's rest [131, 2], what was heard."""

    clip: Clip
    faces: list[Face]
    rest: np.ndarray
    tooth_green: float

    @classmethod
    def load(cls, clip: Clip) -> "Driver":
        landmarks = load_landmarks(clip.landmarks)
        matrices = smooth_matrices(np.stack([align_matrix(points) for points in landmarks]))
        frames = read_video(clip.video, fps=FPS)[0]
        faces = [Face.of(clip.id, *each) for each in zip(frames, landmarks, matrices)]
        landmarks = np.stack([face.landmarks for face in faces])
        return cls(clip, faces, rest_shape(landmarks), _tooth_green(faces, lip_opening(landmarks)))

    def stretches(self, rng: np.random.Generator, count: int, shut: bool = False) -> list[int]:
        """First frames of takes in which the mouth is open, mostly, or `shut`."""
        opening = lip_opening(np.stack([face.landmarks for face in self.faces]))
        middle = opening[1:len(opening) - 1]
        chance = np.clip(0.05 - middle, 0.001, 0.05) if shut else np.clip(middle, 0.02, 0.2)
        return rng.choice(len(middle), min(count, len(middle)), replace=False, p=chance / chance.sum()).tolist()


def _tooth_green(faces: list[Face], openings: np.ndarray) -> float:
    """Green of a talker's teeth: what one pixel in ten exceeds in the mouths open most."""
    inside = []
    for index in np.argsort(openings)[-12:]:
        share = Fine.of(faces[index].landmarks).share
        inside.append(block_of(faces[index].fine)[share > 0.9][:, 1])
    return float(np.percentile(np.concatenate(inside), 90)) if sum(map(len, inside)) else 128.0


def closed(face: Face) -> tuple[np.ndarray, np.ndarray]:
    """Crop and block of the face with its mouth closed."""
    target = close_mouth(face.landmarks)
    return composed(moved_skin(face, target), np.zeros(3), Fine.of(target))


def targets(face: Face, driver: Driver, start: int) -> np.ndarray:
    landmarks = smooth_over_time(np.stack([each.landmarks for each in driver.faces]).astype(np.float64), 0.6)
    return transfer_motion(close_mouth(face.landmarks), landmarks[start:start + TAKE_FRAMES], driver.rest)
