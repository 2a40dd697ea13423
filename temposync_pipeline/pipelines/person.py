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
# A face where the person's was a moment ago is theirs unless it has less. An embedding depends on the pose: of one head that turned it
# came down to 0.06 over seconds, but never below 0.5 from one look to the next; of two people, half of the pairs have less than 0.17.
STILL_THEIRS = 0.45
# Frames after which a face that is followed is looked at again, and for which one that is lost is expected back where it was.
CHECK_EVERY, EXPECTED_BACK = 4, 12
# Looks at the person that are kept, in other light or pose: a new one has at most this likeness to those there are.
MOST_LOOKS, NEW_LOOK = 32, 0.85


class Person:
    """Finds one person's face in frame after frame.

    Who it is, is decided in the first frame that shows more than `face_index` faces, 0 = the largest.  From then on only a face counts
    that can be followed from there, or whose embedding is near one of the person's; nobody else takes over, however large.

    Args:
        aligner: finds faces. embed: unit vector [D] of an aligned crop uint8 [256, 256, 3]. face_index: see above.

    Attributes:
        run: counts the runs of frames in which the face could be followed without a break; a cut begins a new one.
        most_faces: as many were seen in one frame.
    """

    def __init__(self, aligner: FaceAligner, embed: Callable[[np.ndarray], torch.Tensor], face_index: int = 0):
        self._aligner, self._embed, self._face_index = aligner, embed, face_index
        self._shots = ShotDetector()
        self._looks: list[torch.Tensor] = []
        self._last_look: torch.Tensor | None = None
        self._pose: np.ndarray | None = None  # where the face was in this shot
        self._lost_for = self._since_check = 0
        self.run, self.most_faces = 0, 0

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
            self.run += 1
            face = self._search(picture)
        if face is None:
            self._lost_for += 1
            return None
        self._pose = steady_pose(None if self._lost_for else self._pose, landmark_pose(face.landmarks))
        self._lost_for = 0
        return None if is_mouth_outside(face.landmarks, picture.shape[:2]) else face

    def _follow(self, picture: np.ndarray) -> Face | None:
        """The face that was there a moment ago."""
        if self._pose is None or self._lost_for > EXPECTED_BACK:
            return None
        face = self._aligner.read_again(picture, self._pose)
        self._since_check += 1
        if face is None or (self._since_check < CHECK_EVERY and not self._lost_for):
            return face
        look = self._look(picture, face)
        if max(self._likeness(look), float(look @ self._last_look)) < STILL_THEIRS:
            return None
        self._remember(look)
        return face

    def _search(self, picture: np.ndarray) -> Face | None:
        """The person among all faces of a picture."""
        faces = self._aligner.detect(picture)
        self.most_faces = max(self.most_faces, len(faces))
        if not self.is_known:
            if len(faces) <= self._face_index:
                return None
            self._remember(self._look(picture, faces[self._face_index]))
            return faces[self._face_index]
        looks = [self._look(picture, face) for face in faces]
        likenesses = [self._likeness(look) for look in looks]
        best = int(np.argmax(likenesses)) if faces else 0
        if not faces or likenesses[best] < SAME_PERSON:
            return None
        self._remember(looks[best])
        return faces[best]

    def _look(self, picture: np.ndarray, face: Face) -> torch.Tensor:
        return self._embed(known_crop(picture, align_matrix(face.landmarks)))

    def _likeness(self, look: torch.Tensor) -> float:
        return max(float(look @ known) for known in self._looks)

    def _remember(self, look: torch.Tensor) -> None:
        if not self._looks or (self._likeness(look) < NEW_LOOK and len(self._looks) < MOST_LOOKS):
            self._looks.append(look)
        self._last_look, self._since_check = look, 0
