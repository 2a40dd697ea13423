"""One person through a film: found, followed, and known again after a cut or an absence."""

from collections.abc import Callable

import numpy as np
import torch

from ..face.crop import align_matrix
from ..face.pose import landmark_pose
from ..face.tone import known_crop
from ..face.visibility import is_mouth_outside
from ..media.shots import ShotDetector
from ..models.face_aligner import Face, FaceAligner, steady_pose

# Cosine between embeddings, from which a face is taken for the person's. Of 212 pictures of 38 people, 95 % of the pairs of one person have
# more, 3 % of those of two.
SAME_PERSON = 0.7
# A face that was followed to where it is stays the person's unless it has less.
STILL_THEIRS = 0.5
# Frames after which a face that is followed is looked at again.
CHECK_EVERY = 8
# Looks at the person that are kept, in other light or pose: a new one has at most this likeness to those there are.
MOST_LOOKS, NEW_LOOK = 8, 0.85


class Person:
    """Finds one person's face in frame after frame.

    Who it is, is decided in the first frame that shows more than `face_index` faces, 0 = the largest.  From then on only a face whose
    embedding is near counts; nobody else takes over, however large.

    Args:
        aligner: finds faces. embed: unit vector [D] of an aligned crop uint8 [256, 256, 3]. face_index: see above.

    Attributes:
        take: counts the runs of frames in which the face could be followed without a break; a cut begins a new one.
        most_faces: as many were seen in one frame.
    """

    def __init__(self, aligner: FaceAligner, embed: Callable[[np.ndarray], torch.Tensor], face_index: int = 0):
        self._aligner, self._embed, self._face_index = aligner, embed, face_index
        self._shots = ShotDetector()
        self._looks: list[torch.Tensor] = []
        self._pose: np.ndarray | None = None
        self._since_check = 0
        self.take, self.most_faces = 0, 0

    @property
    def is_known(self) -> bool:
        """Whether the person has been seen."""
        return bool(self._looks)

    def find(self, picture: np.ndarray) -> Face | None:
        """The person's face in the next picture, uint8 [H, W, 3], or None where it, or its mouth, is not to be seen."""
        if self._shots.begins(picture):
            self._pose = None
        face = self._follow(picture)
        if face is None:
            self.take += 1
            face = self._search(picture)
        self._pose = None if face is None else steady_pose(self._pose, landmark_pose(face.landmarks))
        return None if face is None or is_mouth_outside(face.landmarks, picture.shape[:2]) else face

    def _follow(self, picture: np.ndarray) -> Face | None:
        """The face that was there a moment ago."""
        face = None if self._pose is None else self._aligner.read_again(picture, self._pose)
        if face is None:
            return None
        self._since_check += 1
        if self._since_check < CHECK_EVERY:
            return face
        self._since_check = 0
        look, likeness = self._compare(picture, face)
        if likeness < STILL_THEIRS:
            return None
        if likeness < NEW_LOOK and len(self._looks) < MOST_LOOKS:
            self._looks.append(look)
        return face

    def _search(self, picture: np.ndarray) -> Face | None:
        """The person among all faces of a picture."""
        faces = self._aligner.detect(picture)
        self.most_faces = max(self.most_faces, len(faces))
        self._since_check = 0
        if not self._looks:
            if len(faces) <= self._face_index:
                return None
            face = faces[self._face_index]
            self._looks.append(self._embed(known_crop(picture, align_matrix(face.landmarks))))
            return face
        likenesses = [self._compare(picture, face)[1] for face in faces]
        best = int(np.argmax(likenesses)) if faces else -1
        return faces[best] if faces and likenesses[best] >= SAME_PERSON else None

    def _compare(self, picture: np.ndarray, face: Face) -> tuple[torch.Tensor, float]:
        """A face's embedding, and how near it is to the person's."""
        look = self._embed(known_crop(picture, align_matrix(face.landmarks)))
        return look, max(float(look @ known) for known in self._looks)
