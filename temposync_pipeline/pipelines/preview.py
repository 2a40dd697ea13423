"""What a portrait's video will be made of: the faces that were found, their landmarks, the crop, and what of it will move."""

import cv2
import numpy as np

from ..face.crop import CROP_SIZE, align_matrix, crop_face, mouth_mask, transform_points
from ..face.landmarks import GROUPS
from ..models.face_aligner import Face

LABEL_COLOUR = (13, 148, 136)
LIP_COLOUR = (225, 29, 72)
# How bright the crop is where nothing moves.
DIMMED = 0.55
PANEL = 2 * CROP_SIZE
GAP = 8


def dim_what_stays(photo: np.ndarray, face: Face) -> np.ndarray:
    """The crop of a face in a photo uint8 [H, W, 3], uint8 [256, 256, 3], dimmed where the mouth's motion leaves it as it is."""
    brightness = DIMMED + (1 - DIMMED) * mouth_mask()[..., None]
    return np.rint(crop_face(photo, align_matrix(face.landmarks)) * brightness).astype(np.uint8)


def number_faces(photo: np.ndarray, landmarks: list[np.ndarray], longer_side: int = 640, first: int = 1) -> np.ndarray:
    """The picture, enlarged or shrunk to `longer_side` px, with a frame and a number, from `first`, at each face's landmarks [N, 2]."""
    scale = longer_side / max(photo.shape[:2])
    picture = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for number, points in enumerate(landmarks, first):
        left, top = (points.min(0) * scale).astype(int).tolist()
        right, bottom = (points.max(0) * scale).astype(int).tolist()
        cv2.rectangle(picture, (left, top), (right, bottom), LABEL_COLOUR, 3)
        cv2.rectangle(picture, (left, top), (left + 30, top + 34), LABEL_COLOUR, cv2.FILLED)
        cv2.putText(picture, str(number), (left + 6, top + 26), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2, cv2.LINE_AA)
    return picture


def draw_preview(photo: np.ndarray, faces: list[Face], face_index: int = 0) -> np.ndarray:
    """Three panels of 512 px height side by side, uint8: the photo [H, W, 3] with its faces framed, the crop of one with its landmarks,
    and that crop with everything dimmed that will not move.  Frames are numbered as `face_index` counts, from 0."""
    face, matrix = faces[face_index], align_matrix(faces[face_index].landmarks)
    numbered = number_faces(photo, [each.landmarks for each in faces], round(PANEL * max(photo.shape[:2]) / photo.shape[0]), first=0)
    numbered = cv2.resize(numbered, (numbered.shape[1], PANEL), interpolation=cv2.INTER_AREA)
    crop = crop_face(photo, matrix, PANEL)
    for index, (x, y) in enumerate(transform_points(matrix, face.landmarks) * PANEL / CROP_SIZE):
        lips = GROUPS["outer_lips"].start <= index < GROUPS["inner_lips"].stop
        cv2.circle(crop, (round(float(x)), round(float(y))), 3, LIP_COLOUR if lips else LABEL_COLOUR, cv2.FILLED, cv2.LINE_AA)
    moving = cv2.resize(dim_what_stays(photo, face), (PANEL, PANEL), interpolation=cv2.INTER_CUBIC)
    gap = np.full((PANEL, GAP, 3), 255, np.uint8)
    return np.hstack([numbered, gap, crop, gap, moving])
