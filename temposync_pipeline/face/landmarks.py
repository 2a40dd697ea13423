"""The landmark layout every part of the house shares: 131 points in pixels.

The points are a subset of the 478-vertex face-mesh topology published with MediaPipe (Apache-2.0):
`MESH_INDICES[i]` is the mesh vertex that our landmark `i` stands for.  "Right" and "left" are the
subject's, so the subject's right eye lies on the left of an unmirrored picture.
"""

import numpy as np

_GROUPS = {
    # Clockwise in the picture, from the middle of the forehead; the chin is the 19th point.
    "face_oval": [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
                  152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109],
    # From the subject's right corner along the lower edge to the left corner, back along the upper edge.
    "outer_lips": [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185],
    "inner_lips": [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191],
    # From the outer corner along the lower lid to the inner corner, back along the upper lid.
    "right_eye": [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246],
    "left_eye": [263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466],
    "right_brow": [70, 63, 105, 66, 107],
    "left_brow": [300, 293, 334, 296, 336],
    "nose_bridge": [168, 6, 197, 195, 5, 4],
    "nose_base": [98, 97, 2, 326, 327],
    "irises": [468, 473],
}

MESH_INDICES = np.array([index for group in _GROUPS.values() for index in group])
NUM_LANDMARKS = len(MESH_INDICES)


def _slices() -> dict[str, slice]:
    start, slices = 0, {}
    for name, group in _GROUPS.items():
        slices[name] = slice(start, start + len(group))
        start += len(group)
    return slices


GROUPS: dict[str, slice] = _slices()
_POSITION = {mesh: ours for ours, mesh in enumerate(MESH_INDICES.tolist())}

CHIN = _POSITION[152]
RIGHT_MOUTH_CORNER, LEFT_MOUTH_CORNER = _POSITION[61], _POSITION[291]
RIGHT_IRIS, LEFT_IRIS = _POSITION[468], _POSITION[473]
UPPER_INNER_LIP, LOWER_INNER_LIP = _POSITION[13], _POSITION[14]
# Points of the upper face that speech hardly moves; alignment rests on them.
RIGID = np.array([_POSITION[mesh] for mesh in (33, 133, 362, 263, 168, 6, 197, 2)])

# Landmark i of a mirrored picture is landmark MIRROR[i] of the original (x flipped).
_MESH_MIRROR = {10: 10, 152: 152, 17: 17, 0: 0, 14: 14, 13: 13, 168: 168, 6: 6, 197: 197, 195: 195, 5: 5, 4: 4, 2: 2}


def _mirror() -> np.ndarray:
    pairs = dict(_MESH_MIRROR)
    oval = _GROUPS["face_oval"]
    for i, mesh in enumerate(oval):
        pairs[mesh] = oval[-i % len(oval)]
    for lips in (_GROUPS["outer_lips"], _GROUPS["inner_lips"]):
        for i, mesh in enumerate(lips):
            pairs[mesh] = lips[(10 - i) % 20]
    for right, left in (("right_eye", "left_eye"), ("right_brow", "left_brow")):
        pairs |= dict(zip(_GROUPS[right], _GROUPS[left])) | dict(zip(_GROUPS[left], _GROUPS[right]))
    pairs |= {98: 327, 327: 98, 97: 326, 326: 97, 468: 473, 473: 468}
    return np.array([_POSITION[pairs[mesh]] for mesh in MESH_INDICES.tolist()])


MIRROR = _mirror()


# Indices of the right and the left eye's contour; within it, between the corners, the lower lid's points and above each the upper one's.
EYES = [np.arange(NUM_LANDMARKS)[GROUPS[name]] for name in ("right_eye", "left_eye")]
LOWER_LID, UPPER_LID = np.arange(1, 8), np.arange(15, 8, -1)
# Lip opening, in interocular distances, below which a mouth is closed: what the landmarks of closed lips differ by.
CLOSED_OPENING = 0.015


def interocular_distance(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the iris centres in pixels, shape [...]; `landmarks` has shape [..., 131, 2]."""
    return np.linalg.norm(landmarks[..., LEFT_IRIS, :] - landmarks[..., RIGHT_IRIS, :], axis=-1)


def lip_opening(landmarks: np.ndarray) -> np.ndarray:
    """Inner-lip opening relative to the interocular distance, shape [...], 0 = closed.

    The opening is the mean vertical gap (in the face's own frame) over the three middle pairs of
    inner-lip points; averaging three pairs halves the landmark noise of the single middle pair.
    """
    inner = landmarks[..., GROUPS["inner_lips"], :]
    gaps = np.linalg.norm(inner[..., [4, 5, 6], :] - inner[..., [16, 15, 14], :], axis=-1).mean(-1)
    return gaps / interocular_distance(landmarks)


def lid_opening(landmarks: np.ndarray) -> np.ndarray:
    """How far the right and the left eye are open, in interocular distances, [..., 2]; landmarks [..., 131, 2]."""
    heights = [np.linalg.norm(landmarks[..., eye[UPPER_LID], :] - landmarks[..., eye[LOWER_LID], :], axis=-1).max(-1) for eye in EYES]
    return np.stack(heights, -1) / interocular_distance(landmarks)[..., None]
