"""The face that is to speak: found whichever way up the photo lies, and refused where there is no mouth to move."""

import logging
from numbers import Integral

import numpy as np

from ..errors import FaceError
from ..face.visibility import COVERED_FROM, MAYBE_COVERED_FROM, how_covered, is_chin_outside, is_mouth_outside, yaw_of
from ..models.face_aligner import Face, FaceAligner

logger = logging.getLogger(__name__)

# Quarter turns against the clock, and how a photo is called that needs them.
TURNS = {1: "on its right side", 3: "on its left side", 2: "upside down"}
# Turned further to a side (`face.visibility.yaw_of`), the far half of the mouth is hidden or too narrow for what is generated.
MAX_YAW = 0.42


def find_face(aligner: FaceAligner, photo: np.ndarray, name: str, face_index: int = 0) -> tuple[np.ndarray, Face]:
    """The photo uint8 [H, W, 3], turned upright where its faces lie on their side or upside down, and the face in it.

    Photos are tried as they are first, and turned only if they show no face. That is logged as a warning, and so are a face turned far to
    a side and a chin that is cut off.

    Args:
        name: what messages call the photo.
        face_index: 0 = the largest.

    Raises FaceError where there is no such face, and where its mouth is covered or lies beyond the picture's edge.
    """
    photo, faces = find_faces(aligner, photo, name)
    return photo, choose_face(photo, faces, name, face_index)


def find_faces(aligner: FaceAligner, photo: np.ndarray, name: str) -> tuple[np.ndarray, list[Face]]:
    """The photo, turned upright as `find_face` does, and all faces in it, largest first; raises FaceError where there are none."""
    photo, faces = _search(aligner, photo, name)
    if not faces:
        raise FaceError(f"No face found in {name}; a frontal portrait at least 48 pixels tall, its mouth uncovered, is needed.")
    return photo, faces


def choose_face(photo: np.ndarray, faces: list[Face], name: str, face_index: int) -> Face:
    """One of the faces in an upright photo; raises FaceError where it is not there or has no mouth that could be moved."""
    if not isinstance(face_index, Integral):
        raise FaceError(f"face_index must be a whole number, got {face_index!r}.")
    if not 0 <= face_index < len(faces):
        raise FaceError(f"face_index {face_index} asked for, but {name} has {len(faces)} face(s), counted from 0.")
    face = faces[face_index]
    if is_mouth_outside(face.landmarks, photo.shape[:2]):
        raise FaceError(f"{name}: the mouth lies at the picture's edge; a portrait that shows all of the face is needed.")
    if (covered := how_covered(photo, face.landmarks, face.confidence)) > COVERED_FROM:
        raise FaceError(f"{name}: the mouth seems to be covered; a portrait that shows it is needed.")
    if covered > MAYBE_COVERED_FROM:
        logger.warning("%s: the mouth can hardly be seen; if something covers it, that will be painted over", name)
    if is_chin_outside(face.landmarks, photo.shape[:2]):
        logger.warning("%s: the chin is cut off; an opened mouth may run into the picture's edge", name)
    if abs(yaw_of(face.landmarks)) > MAX_YAW:
        logger.warning("%s: the face is turned far to a side; the mouth may look wrong, a frontal portrait works best", name)
    return face


def _search(aligner: FaceAligner, photo: np.ndarray, name: str) -> tuple[np.ndarray, list[Face]]:
    faces = aligner.detect(photo)
    if faces:
        return photo, faces
    turned = {turns: np.ascontiguousarray(np.rot90(photo, turns)) for turns in TURNS}
    found = {turns: aligner.detect(picture) for turns, picture in turned.items()}
    best = max(TURNS, key=lambda turns: max((face.score for face in found[turns]), default=0.0))
    if found[best]:
        logger.warning("%s: the photo lies %s; it is turned upright", name, TURNS[best])
    return turned[best], found[best]
