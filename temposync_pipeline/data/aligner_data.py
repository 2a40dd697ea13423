"""Training pictures for `models.face_aligner`: labelled faces in new poses and places, and pictures without faces.

Labels come from `examples/label_faces.py`: LABELS/portraits.npz (`names`, `landmarks` [N, 478, 3] px) for DATA/portraits/*.jpg,
and for each clip DATA/a/b/c.mpg the file LABELS/a_b_c.npz (`landmarks` [T, 478, 3] px).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from ..errors import InvalidInputError
from ..face.blend import Blender
from ..face.crop import CROP_SIZE, align_matrix, invert, transform_points
from ..face.landmarks import GROUPS, MESH_INDICES, MIRROR, NUM_LANDMARKS
from ..face.pose import Pyramid, compose, crop_matrix, landmark_pose, pose_matrix
from ..face.tone import read_tone
from ..limits import MAX_FRAMES
from ..media.image import load_image
from ..media.video import stream_video
from ..models.face_aligner import SIZE_UNIT, STRIDE
from .aligner_augment import occlude, photometric, procedural
from .arrays import read_arrays
from .manifest import portrait_split
from .speaking_portraits import SpeakingPortrait

# Photographs of scikit-image without a face (coins.png has heads in relief); the second list is for evaluation only.
TRAINING_PICTURES = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "brick.png", "grass.png", "page.png",
                     "hubble_deep_field.jpg", "ihc.png", "cell.png", "horse.png")
EVALUATION_PICTURES = ("text.png", "gravel.png", "moon.png", "retina.jpg", "microaneurysms.png", "clock_motion.png",
                       "color.png", "phantom.png", "chessboard_RGB.png")


@dataclass
class LabelledFace:
    """One picture with one face: `landmarks` float32 [131, 2] in its pixels; `name` says whose."""

    pyramid: Pyramid
    landmarks: np.ndarray
    name: str

    @property
    def image(self) -> np.ndarray:
        return self.pyramid.levels[0]


def load_portraits(data: Path, labels: Path, held_out: bool) -> list[LabelledFace]:
    """The training or the held-out portraits of DATA/portraits."""
    table = read_arrays(labels / "portraits.npz", "names", "landmarks")
    return [LabelledFace(Pyramid(load_image(data / "portraits" / name)), points[MESH_INDICES, :2].astype(np.float32), Path(name).stem)
            for name, points in zip(table["names"].tolist(), table["landmarks"])
            if (portrait_split(name) == "val") == held_out and np.isfinite(points).all()]


def load_speaking(portraits: list[LabelledFace], speaking: Path, seed: int = 0) -> list[LabelledFace]:
    """One random frame of every portrait made to speak (SPEAKING/train, of examples/retarget_portraits.py), put into its photograph, one
    of `portraits`.

    Portraits smile or keep their mouths closed, and open mouths would otherwise be learnt on few talkers.

    Raises:
        InvalidInputError: none of `portraits` speaks there.
    """
    rng, faces = np.random.default_rng(seed), []
    photographs = {portrait.name: portrait for portrait in portraits}
    for path in sorted((speaking / "train").glob("*.npz")):
        # <photograph>_<take>.npz
        photograph = photographs.get(path.stem.rsplit("_", 1)[0])
        if photograph is None:
            continue
        spoken, matrix = SpeakingPortrait.load(path), align_matrix(photograph.landmarks)
        frame = rng.integers(len(spoken.crops))
        tone = read_tone(spoken.reference)
        reference, crop = (tone.to_known(picture) for picture in (spoken.reference, spoken.crops[frame]))
        picture = Blender(photograph.image, matrix, reference_reconstruction=reference).paste(crop)
        landmarks = transform_points(invert(matrix), spoken.landmarks[frame])
        faces.append(LabelledFace(Pyramid(picture), landmarks.astype(np.float32), photograph.name))
    if not faces:
        raise InvalidInputError(f"{speaking / 'train'}: none of the photographs to train on speaks there")
    return faces


def load_clips(data: Path, labels: Path, held_out: bool) -> Iterator[tuple[str, list[np.ndarray], np.ndarray]]:
    """(talker, frames, landmarks float32 [T, 131, 2]) of every labelled clip; clips below a folder `val` are held out."""
    for path in sorted(data.rglob("*.mpg")):
        label = labels / ("_".join(path.relative_to(data).with_suffix("").parts) + ".npz")
        if ("val" in path.relative_to(data).parts) == held_out and label.is_file():
            points = read_arrays(label, "landmarks", rows=MAX_FRAMES)["landmarks"][:, MESH_INDICES, :2].astype(np.float32)
            yield path.parent.name, list(stream_video(path)[0]), points


def load_talkers(data: Path, labels: Path, held_out: bool, every: int) -> list[LabelledFace]:
    """Every `every`-th frame of every labelled clip."""
    faces = []
    for talker, frames, points in load_clips(data, labels, held_out):
        faces += [LabelledFace(Pyramid(frame), landmarks, talker)
                  for frame, landmarks in zip(frames[::every], points[::every]) if np.isfinite(landmarks).all()]
    return faces


def load_pictures(names: tuple[str, ...]) -> list[np.ndarray]:
    """Pictures that come with scikit-image, as uint8 RGB."""
    folder = Path(skimage.data.__file__).parent
    return [cv2.imread(str(folder / name), cv2.IMREAD_COLOR_RGB) for name in names]


def face_free_part(face: LabelledFace, rng: np.random.Generator) -> np.ndarray:
    """A rectangle of a labelled picture beside, above or below its face: hair, clothes, background."""
    height, width = face.image.shape[:2]
    left, top = np.floor(face.landmarks.min(0)).astype(int)
    right, bottom = np.ceil(face.landmarks.max(0)).astype(int)
    strips = [(0, 0, left, height), (right, 0, width, height), (0, 0, width, top), (0, bottom, width, height)]
    strips = [s for s in strips if s[2] - s[0] >= 24 and s[3] - s[1] >= 24]
    if not strips:
        return procedural(64, 64, rng)
    x0, y0, x1, y1 = strips[rng.integers(len(strips))]
    w, h = rng.integers(24, x1 - x0 + 1), rng.integers(24, y1 - y0 + 1)
    x, y = rng.integers(x0, x1 - w + 1), rng.integers(y0, y1 - h + 1)
    return face.image[y:y + h, x:x + w]


def without_face(face: LabelledFace, texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The whole picture with something else where its face was."""
    height, width = face.image.shape[:2]
    outline = face.landmarks[GROUPS["face_oval"]]
    middle = outline.mean(0)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(middle + (outline - middle) * rng.uniform(1.1, 1.3)).astype(np.int32)], 255)
    filling = cv2.resize(texture, (width, height))
    alpha = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 4))[..., None].astype(np.float32) / 255
    return (face.image * (1 - alpha) + filling * alpha).astype(np.uint8)


class AlignerData:
    """Draws training samples from labelled faces and face-free pictures."""

    def __init__(self, groups: list[list[LabelledFace]], weights: list[float], pictures: list[np.ndarray], crop_size: int, seed: int):
        self.groups, self.weights, self.pictures, self.crop_size = groups, np.array(weights) / sum(weights), pictures, crop_size
        self.rng = np.random.default_rng(seed)

    def face(self) -> LabelledFace:
        group = self.groups[self.rng.choice(len(self.groups), p=self.weights)]
        return group[self.rng.integers(len(group))]

    def background(self) -> np.ndarray:
        """A face-free picture of any size."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.3:
            return procedural(*rng.integers(64, 192, 2), rng)
        if kind < 0.65:
            picture = self.pictures[rng.integers(len(self.pictures))]
            h, w = (int(rng.integers(min(48, side), side + 1)) for side in picture.shape[:2])
            y, x = rng.integers(0, picture.shape[0] - h + 1), rng.integers(0, picture.shape[1] - w + 1)
            return np.rot90(picture[y:y + h, x:x + w], rng.integers(4)) if rng.random() < 0.3 else picture[y:y + h, x:x + w]
        if kind < 0.85:
            return face_free_part(self.face(), rng)
        return without_face(self.face(), self.texture(), rng)

    def texture(self) -> np.ndarray:
        """Something to put in front of a face or in its place."""
        return face_free_part(self.face(), self.rng) if self.rng.random() < 0.6 else procedural(64, 64, self.rng)

    def landmark_crop(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """A crop for the landmark network: uint8 [S, S, 3], landmarks float32 [131, 2] in crop units (-1..1), whether it shows a face."""
        rng, size = self.rng, self.crop_size
        kind = rng.random()
        if kind < 0.1:
            image = cv2.resize(self.background(), (size, size), interpolation=cv2.INTER_AREA)
            return photometric(image, rng), np.zeros((NUM_LANDMARKS, 2), np.float32), False
        face, is_face = self.face(), kind >= 0.2
        if is_face:
            crop, landmarks = warped_crop(face, size, rng)
        else:
            crop, landmarks = misplaced_crop(face, size, rng), np.zeros((NUM_LANDMARKS, 2), np.float32)
        if is_face and rng.random() < 0.3:
            middle = landmarks.mean(0)
            crop = occlude(crop, (middle[0], middle[1]), 0.75 * size, self.texture(), rng)
        if rng.random() < 0.5:
            crop, landmarks = np.ascontiguousarray(crop[:, ::-1]), mirror_landmarks(landmarks, size)
        return photometric(crop, rng), (landmarks * 2 / size - 1).astype(np.float32), is_face

    def scene(self, size: int, sizes: tuple[float, float]) -> dict[str, np.ndarray]:
        """A picture for the detector, uint8 [size, size, 3], with none to five faces of `sizes` px, and its targets (`scene_targets`)."""
        rng = self.rng
        canvas = cv2.resize(self.background(), (size, size), interpolation=cv2.INTER_AREA)
        poses, whole = [], []
        for index in range(rng.choice([0, 1, 2, 5], p=[0.15, 0.5, 0.15, 0.2])):
            face = self.face()
            pose = random_pose(size, sizes, rng)
            if any(np.hypot(*(pose[:2] - other[:2])) < 0.75 * (pose[2] + other[2]) for other in poses):
                continue
            canvas, landmarks = place(canvas, face, pose, rectangular=index == 0 and rng.random() < 0.7, rng=rng)
            if rng.random() < 0.15:
                canvas = occlude(canvas, (pose[0], pose[1]), pose[2], self.texture(), rng)
            poses.append(landmark_pose(landmarks))
            inside = ((landmarks >= 0) & (landmarks < size)).all(1).mean()
            whole.append(inside > 0.6 and (poses[-1][:2] >= 0).all() and (poses[-1][:2] < size).all())
        image = photometric(canvas, rng)
        if rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
            poses = [np.array([size - 1 - x, y, s, cos, -sin]) for x, y, s, cos, sin in poses]
        return {"image": image} | scene_targets(poses, whole, size)


def mirror_landmarks(landmarks: np.ndarray, width: int) -> np.ndarray:
    """Landmarks [131, 2] of the mirrored picture of `width` px."""
    mirrored = landmarks[MIRROR].copy()
    mirrored[:, 0] = width - 1 - mirrored[:, 0]
    return mirrored


def random_pose(canvas: int, sizes: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A pose (x, y, size, cos, sin): size log-uniform, roll mostly small but up to 40°."""
    size = float(np.exp(rng.uniform(np.log(sizes[0]), np.log(sizes[1]))))
    roll = np.radians(np.clip(rng.normal(0, 10), -40, 40) if rng.random() < 0.5 else rng.uniform(-40, 40))
    # Large faces may stick out of the picture, but not by half.
    margin = min(0.4 * size, 0.42 * canvas)
    x, y = rng.uniform(margin, canvas - margin, 2)
    return np.array([x, y, size, np.cos(roll), np.sin(roll)])


def place(canvas: np.ndarray, face: LabelledFace, pose: np.ndarray, rectangular: bool,
          rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Paste a face at `pose`, with its whole picture or cut out around the head; returns the canvas and the landmarks [131, 2] on it."""
    height, width = canvas.shape[:2]
    squeeze = np.array([[np.exp(rng.normal(0, 0.07)), rng.normal(0, 0.05), 0], [0, 1, 0]])
    squeeze[:, 2] = CROP_SIZE / 2 - squeeze[:, :2] @ np.full(2, CROP_SIZE / 2)
    matrix = compose(compose(pose_matrix(pose), squeeze), align_matrix(face.landmarks))
    landmarks = transform_points(matrix, face.landmarks).astype(np.float32)
    if rectangular:
        border = cv2.BORDER_TRANSPARENT if rng.random() < 0.75 else cv2.BORDER_REPLICATE
        return face.pyramid.warp(matrix, (width, height), border, canvas.copy()), landmarks
    pasted = face.pyramid.warp(matrix, (width, height), cv2.BORDER_TRANSPARENT, canvas.copy())
    mask = np.zeros((height, width), np.uint8)
    x, y, size, cos, sin = pose
    middle = (float(x + 0.06 * size * sin), float(y - 0.06 * size * cos))
    cv2.ellipse(mask, (middle, (float(1.15 * size), float(1.45 * size)), float(np.degrees(np.arctan2(sin, cos)))), 255, -1)
    alpha = cv2.GaussianBlur(mask, (0, 0), 0.5 + rng.uniform(0, 0.04) * size)[..., None].astype(np.float32) / 255
    return (canvas * (1 - alpha) + pasted * alpha).astype(np.uint8), landmarks


def scene_targets(poses: list[np.ndarray], whole: list[bool], size: int) -> dict[str, np.ndarray]:
    """Detector targets on the grid of cells [h, w], h = w = size / 8.

    `heat` falls off as a Gaussian around each centre; `weight` is 0 around faces that are mostly outside the picture; `pose`
    [5, h, w] holds what `FaceDetector` regresses, valid where `near` (0..1) is above 0.
    """
    cells = size // STRIDE
    grid = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), -1).astype(np.float32) + 0.5
    heat, near = np.zeros((2, cells, cells), np.float32)
    weight, target = np.ones((cells, cells), np.float32), np.zeros((5, cells, cells), np.float32)
    for (x, y, face_size, cos, sin), complete in zip(poses, whole):
        offset = (np.array([x, y], np.float32) + 0.5) / STRIDE - grid
        sigma = max(0.5, 0.07 * face_size / STRIDE)
        bump = np.exp(-(offset**2).sum(-1) / (2 * sigma**2))
        if not complete:
            weight[(offset**2).sum(-1) < (0.6 * face_size / STRIDE) ** 2] = 0
            continue
        centre = np.unravel_index(bump.argmax(), bump.shape)
        bump[centre] = 1
        closer = bump > np.maximum(heat, 0.4)
        target[:2, closer] = offset[closer].T
        target[2:, closer] = np.array([[np.log(face_size / SIZE_UNIT)], [cos], [sin]])
        near = np.where(closer, bump, near)
        heat = np.maximum(heat, bump)
    weight[heat > 0] = 1
    return {"heat": heat, "weight": weight, "near": near, "pose": target}


def misplaced_crop(face: LabelledFace, size: int, rng: np.random.Generator) -> np.ndarray:
    """A crop that shows too little, too much or the wrong part of a face to count as one."""
    pose = landmark_pose(face.landmarks)
    angle, roll = rng.uniform(0, 2 * np.pi), rng.uniform(-np.pi, np.pi)
    if rng.random() < 0.6:
        pose[:2] += pose[2] * rng.uniform(0.55, 1.0) * np.array([np.cos(angle), np.sin(angle)])
        pose[2] *= np.exp(rng.uniform(-0.7, 0.3))
    else:
        pose[2] *= np.exp(rng.choice([rng.uniform(-1.8, -1.0), rng.uniform(1.0, 1.6)]))
    pose[3:] = np.cos(roll), np.sin(roll)
    return face.pyramid.warp(crop_matrix(pose, size), (size, size))


def head_depth(points: np.ndarray) -> np.ndarray:
    """A rough height of a head above the picture plane at aligned-crop `points` [..., 2], in aligned pixels: a paraboloid with a nose."""
    x, y = (points[..., 0] - 128) / 100, (points[..., 1] - 128) / 150
    nose = np.exp(-((points[..., 0] - 128) / 18) ** 2 - ((points[..., 1] - 132) / 24) ** 2)
    return 70 * np.maximum(1 - x * x - y * y, 0) + 16 * nose


def warped_crop(face: LabelledFace, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The face in a crop of `size` px as if the head were turned and the first guess of its pose were off.

    Turning by (yaw, pitch) moves an aligned point p to p·cos + depth(p)·sin; its inverse, needed for every pixel of the crop, is
    found by fixed-point iteration (a contraction for the angles used here).
    """
    to_aligned = align_matrix(face.landmarks)
    turn = np.radians(np.clip(rng.normal(0, [11, 7]), -26, 18)) if rng.random() < 0.6 else np.zeros(2)
    sin, cos = np.sin(turn).astype(np.float32), (np.cos(turn) * np.exp(rng.normal(0, 0.05, 2))).astype(np.float32)
    shear = np.float32([[1, rng.normal(0, 0.04)], [0, 1]])
    middle = np.float32([128, 128])
    aligned = transform_points(to_aligned, face.landmarks)
    turned = ((aligned - middle) * cos + head_depth(aligned)[:, None] * sin) @ shear.T + middle

    pose = landmark_pose(turned)
    loose = rng.random() < 0.5
    shift, zoom, roll = (0.05, 0.12, 9) if loose else (0.02, 0.05, 3)
    pose[:2] += pose[2] * np.clip(rng.normal(0, shift, 2), -0.14, 0.14)
    pose[2] *= np.exp(np.clip(rng.normal(0, zoom), -0.25, 0.25))
    angle = np.radians(rng.normal(0, roll)) + np.arctan2(pose[4], pose[3])
    pose[3:] = np.cos(angle), np.sin(angle)
    to_crop = crop_matrix(pose, size)
    landmarks = transform_points(to_crop, turned).astype(np.float32)

    # The map is smooth: work it out for the middle of every 4 x 4 pixels (and one more all round), then interpolate.
    nodes = np.arange(-2.5, size + 4, 4, dtype=np.float32)
    to_turned, unshear = invert(to_crop).astype(np.float32), np.linalg.inv(shear)
    goal = (transform_points(to_turned, np.stack(np.meshgrid(nodes, nodes), -1)) - middle) @ unshear.T
    source = goal / cos
    if turn.any():
        for _ in range(5):
            source = (goal - head_depth(source + middle)[..., None] * sin) / cos
    to_picture = invert(to_aligned)
    level, level_to_picture = face.pyramid.source(float(np.sqrt(np.linalg.det(compose(to_crop, to_aligned)[:, :2]))))
    where = transform_points(compose(invert(level_to_picture), to_picture).astype(np.float32), source + middle)
    where = cv2.resize(where, (4 * len(nodes), 4 * len(nodes)), interpolation=cv2.INTER_LINEAR)[4:-4, 4:-4]
    return cv2.remap(level, np.ascontiguousarray(where), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), landmarks
