"""Finds faces and their 131 landmarks (layout: `face.landmarks`), on a CPU, in a few milliseconds.

Two small convolutional networks in one model:

* the detector reads the whole picture, shrunk, and gives at every eighth pixel the probability that a face's centre lies there,
  with the face's size and roll (heat-map detection as in "Objects as Points", Zhou et al. 2019);
* the landmark network reads an upright 128 px crop of one face and gives the landmarks, how far off each may be, and whether
  this is a face at all.  Where the first answer says that the crop was off, it runs again on a better one.

Both are distilled from MediaPipe's face mesh (Apache-2.0) by `training.aligner`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ..bases import ConfigMixin, ModelMixin, apply_forward_hook, register_to_config
from ..face.crop import invert, transform_points
from ..face.landmarks import NUM_LANDMARKS, interocular_distance
from ..face.pose import ALIGNED_INTEROCULAR, CROP_SPAN, Pyramid, crop_matrix, landmark_pose
from ..limits import MAX_FACES, MAX_SEEN_SIDE
from .devices import execution_device

STRIDE = 8
PAD_MULTIPLE = 32
SIZE_UNIT = 48.0
# Confidence is the chance that a landmark is off by less than this fraction of the interocular distance.
CONFIDENT_ERROR = 0.05
# A face is read again from a better crop if the crop was off by more than this fraction of the face's size, but only so often.
SETTLED = 0.1
MOST_READINGS = 3
# The detector looks closer only where no face was found, or none this many times larger than the smallest it could see.
SIZE_RANGE = 3
# One pass this many times as large as the first one costs less than a coarse pass before it saves.
SINGLE_PASS = 1.25


@dataclass
class Face:
    """One face in picture pixels.

    `landmarks` float32 [131, 2]; `confidence` float32 [131] in 0..1, the chance that each landmark is off by less than 5 % of the
    interocular distance; `score` in 0..1, how surely this is a face: the chance of its being one times the mean confidence, since what
    only resembles a face leaves its landmarks in doubt; `box` (left, top, right, bottom) around the landmarks.
    """

    landmarks: np.ndarray
    confidence: np.ndarray
    score: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        return (*self.landmarks.min(0).tolist(), *self.landmarks.max(0).tolist())

    @property
    def size(self) -> float:
        """Longer side of `box` in pixels."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


def _convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class _Stage(nn.Sequential):
    """Halves the resolution, then refines."""

    def __init__(self, inputs: int, outputs: int, blocks: int):
        super().__init__(_convolution(inputs, outputs, stride=2), *[_Residual(outputs) for _ in range(blocks)])


def _pyramid(x: Tensor, stages: nn.ModuleList, lateral: nn.ModuleList) -> tuple[Tensor, Tensor]:
    """Feature pyramid (Lin et al. 2017): the coarsest features, and the finest with those of all coarser stages added."""
    levels = []
    for stage, layer in zip(stages, lateral):
        x = stage(x)
        levels.append(layer(x))
    merged = levels[-1]
    for level in reversed(levels[:-1]):
        merged = level + nn.functional.interpolate(merged, scale_factor=2.0, mode="bilinear")
    return x, merged


class FaceDetector(nn.Module):
    """Picture [B, 3, H, W] in -1..1, sides multiples of 32 -> [B, 6, H/8, W/8].

    Channels: face logit, offset of the face's centre from the cell's (x, y; in cells), log(size / 48 px), cos and sin of the roll.
    """

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.stem = nn.Sequential(_convolution(3, channels[0], 2), _convolution(channels[0], channels[1], 2))
        self.stages = nn.ModuleList([_Stage(*channels[1:3], blocks=1), _Stage(*channels[2:4], blocks=1), _Stage(*channels[3:5], blocks=2)])
        self.lateral = nn.ModuleList([nn.Conv2d(c, channels[2], 1) for c in channels[2:]])
        self.head = nn.Sequential(_convolution(channels[2], channels[2]), nn.Conv2d(channels[2], 6, 1))
        # Faces are rare: start from a probability of about 1 %.
        nn.init.constant_(self.head[-1].bias, 0.0)
        self.head[-1].bias.data[0] = -4.5

    def forward(self, x: Tensor) -> Tensor:
        return self.head(_pyramid(self.stem(x), self.stages, self.lateral)[1])


class LandmarkNetwork(nn.Module):
    """Upright face crop [B, 3, S, S] in -1..1 -> (landmarks, log error, face logit, log heat).

    Each landmark [B, 131, 2], in crop units (-1..1 from edge to edge), is the mean of its own distribution over the S/8 x S/8 cells
    of the crop, whose logarithm is the last output [B, 131, cells] ("Numerical coordinate regression", Nibali et al. 2018: learns
    from far fewer crops than a fully connected layer).  The log of each landmark's expected error, in the same units, is [B, 131],
    the logit that the crop shows a face [B].
    """

    def __init__(self, channels: tuple[int, ...], crop_size: int):
        super().__init__()
        c, width = channels, channels[3]
        self.cells = crop_size // STRIDE
        self.stem = nn.Sequential(_convolution(3, c[0], 2), _Stage(*c[0:2], blocks=1))
        self.stages = nn.ModuleList([_Stage(*c[1:3], blocks=2), _Stage(*c[2:4], blocks=2), _Stage(*c[3:5], blocks=1)])
        self.lateral = nn.ModuleList([nn.Conv2d(inputs, width, 1) for inputs in c[2:]])
        self.heat = nn.Sequential(_convolution(width, width), nn.Conv2d(width, NUM_LANDMARKS, 1))
        self.doubt = nn.Linear(c[4], NUM_LANDMARKS + 1)

    def cell_centres(self, device: torch.device) -> Tensor:
        """Crop coordinates [cells², 2] of the heat maps' cells."""
        steps = (torch.arange(self.cells, device=device) + 0.5) * 2 / self.cells - 1
        return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        coarsest, finest = _pyramid(self.stem(x), self.stages, self.lateral)
        doubt = self.doubt(coarsest.mean((2, 3))).float()
        log_heat = self.heat(finest).float().flatten(2).log_softmax(-1)
        with torch.autocast(x.device.type, enabled=False):
            landmarks = log_heat.exp() @ self.cell_centres(x.device)
        return landmarks, doubt[:, :-1] - 3, doubt[:, -1], log_heat


class FaceAligner(ModelMixin, ConfigMixin):
    """Face detection and 131 landmarks.

    Args:
        detector_channels: channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the picture.
        landmark_channels: channels at 1/2 ... 1/32 of the crop.
        crop_size: side of the landmark network's crop in pixels, a multiple of 32.
        first_pass_side: about the longer side of the first picture the detector sees, in pixels; each further pass doubles it, and the
            last is just large enough for `smallest_face`.
        smallest_seen: smallest face, in pixels of what it sees, that the detector finds.
        smallest_face: smallest face, in pixels of the picture, that is looked for.

    Example::

        aligner = FaceAligner.from_pretrained("face_aligner")
        faces = aligner.detect(image)          # uint8 RGB [H, W, 3]
        landmarks = aligner.track(frames)      # float32 [T, 131, 2]
    """

    _group_offload_block_modules = ["detector", "landmark_network"]

    @register_to_config
    def __init__(
        self,
        detector_channels: tuple[int, ...] = (16, 32, 48, 96, 128),
        landmark_channels: tuple[int, ...] = (24, 32, 64, 96, 160),
        crop_size: int = 128,
        first_pass_side: int = 256,
        smallest_seen: int = 13,
        smallest_face: int = 48,
    ):
        super().__init__()
        sizes = crop_size, first_pass_side, smallest_seen, smallest_face
        if min(sizes) < 1 or max(sizes) > MAX_SEEN_SIDE:
            raise ValueError("crop_size, first_pass_side, smallest_seen and smallest_face must be at least 1, "
                             f"and {MAX_SEEN_SIDE} at most")
        self.detector = FaceDetector(tuple(detector_channels))
        self.landmark_network = LandmarkNetwork(tuple(landmark_channels), crop_size)

    def forward(self, pictures: Tensor, crops: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Both networks at once, for training: see `FaceDetector` and `LandmarkNetwork`."""
        return self.detector(pictures), self.landmark_network(crops)

    @torch.inference_mode()
    def detect(self, image: np.ndarray, max_faces: int | None = None, threshold: float = 0.5) -> list[Face]:
        """Every face of a picture, largest first.

        The picture is searched from coarse to fine, so large faces come first; the finer passes run only while a face of
        `smallest_face` px would still be too small to see, fewer than `max_faces` were found, and none of those is `SIZE_RANGE`
        times as large as the smallest that the pass could see: beside a face that large, tiny ones in large pictures may be left out.

        Args:
            image: uint8 RGB [H, W, 3].
            max_faces: stop at this many; None finds all.
            threshold: smallest `Face.score` that counts as a face; plain faces score 0.7 to 0.95, half-hidden ones 0.5 or a little more.
        """
        _check_image(image)
        pyramid, faces = Pyramid(image), []
        longer_side = max(image.shape[:2])
        for side in self._detector_sides(longer_side):
            known = [landmark_pose(face.landmarks) for face in faces]
            found = [pose for pose in self._propose(pyramid, side) if not any(_same_face(pose, other) for other in known)]
            faces = _distinct(faces + self._fit(pyramid, np.array(found), threshold))
            if max_faces is not None and len(faces) >= max_faces:
                break
            if max((face.size for face in faces), default=0.0) >= SIZE_RANGE * self.config.smallest_seen * longer_side / side:
                break
        return sorted(faces, key=lambda face: -face.size)[:max_faces]

    def track(self, frames: Iterable[np.ndarray]) -> np.ndarray:
        """Landmarks of the largest face through a video, float32 [T, 131, 2]; NaN in frames without a face.

        Each frame starts from the last one's landmarks; the detector runs only at the start and where the face is lost.
        """
        nothing = np.full((NUM_LANDMARKS, 2), np.nan, np.float32)
        return np.stack([nothing if face is None else face.landmarks for face in self.follow(frames)])

    @torch.inference_mode()
    def follow(self, frames: Iterable[np.ndarray]) -> Iterator[Face | None]:
        """Like `track`, one `Face` a frame as the frames come, None where there is no face."""
        pose = None
        for frame in frames:
            face = None if pose is None else self.read_again(frame, pose)
            face = face or (self.detect(frame, max_faces=1) or [None])[0]
            pose = None if face is None else steady_pose(pose, landmark_pose(face.landmarks))
            yield face

    @torch.inference_mode()
    def read_again(self, frame: np.ndarray, pose: np.ndarray) -> Face | None:
        """The face that was at `pose` (`steady_pose`) a moment ago, in the next frame uint8 [H, W, 3]; None where it is not there."""
        _check_image(frame)
        # Where a face was a moment ago, half a face is still that face.
        return (self._fit(Pyramid(frame), pose[None], threshold=0.3) or [None])[0]

    def _detector_sides(self, longer_side: int) -> list[int]:
        """Longer sides of the pictures the detector looks at, coarse to fine."""
        needed = -(-longer_side * self.config.smallest_seen // self.config.smallest_face)
        sides = [min(max(self.config.first_pass_side, needed), longer_side)]
        while sides[0] > SINGLE_PASS * self.config.first_pass_side:
            sides.insert(0, -(-sides[0] // 2))
        return sides

    def _tensor(self, images: np.ndarray) -> Tensor:
        """uint8 [B, H, W, 3] to [B, 3, H, W] in -1..1."""
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(execution_device(self)).permute(0, 3, 1, 2)
        return tensor.to(self.dtype).div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)

    @apply_forward_hook
    def _propose(self, pyramid: Pyramid, side: int, threshold: float = 0.3, at_most: int = MAX_FACES) -> list[np.ndarray]:
        """Poses (x, y, size, cos, sin) in picture pixels that may be faces, best first."""
        height, width = pyramid.shape
        scale = side / max(height, width)
        padded_width, padded_height = (-(-max(1, round(length * scale)) // PAD_MULTIPLE) * PAD_MULTIPLE for length in (width, height))
        to_small = np.array([[scale, 0, 0.5 * scale - 0.5], [0, scale, 0.5 * scale - 0.5]])
        small = pyramid.warp(to_small, (padded_width, padded_height), border=cv2.BORDER_CONSTANT)
        return [np.concatenate([transform_points(invert(to_small), pose[:2]), pose[2:3] / scale, pose[3:]])
                for pose in peaks(self.detector(self._tensor(small[None])).float()[0], threshold, at_most)]

    def _fit(self, pyramid: Pyramid, poses: np.ndarray, threshold: float) -> list[Face]:
        """Landmarks from poses [N, 5]; a face is read again, from where its landmarks say that it is, until it stays there."""
        faces: list[Face] = []
        for attempt in range(MOST_READINGS):
            if not len(poses):
                break
            points, confidence, score = self._read(pyramid, poses)
            # A badly placed crop is judged mildly: the next one may show the face.
            least = threshold if attempt == MOST_READINGS - 1 else 0.5 * threshold
            likely = (score >= least) & np.isfinite(points).all((1, 2)) & (interocular_distance(points) > 1)
            moved = []
            for pose, p, c, s in zip(poses[likely], points[likely], confidence[likely], score[likely]):
                corrected = landmark_pose(p)
                if s >= threshold and (attempt == MOST_READINGS - 1 or _movement(pose, corrected) < SETTLED):
                    faces.append(Face(p, c, float(s)))
                else:
                    moved.append(corrected)
            poses = np.array(moved)
        return faces

    @apply_forward_hook
    def _read(self, pyramid: Pyramid, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Landmarks [N, 131, 2] in picture pixels, their confidence [N, 131] and the faces' scores [N] from crops at poses [N, 5]."""
        size = self.config.crop_size
        matrices = [crop_matrix(pose, size) for pose in poses]
        crops = np.stack([pyramid.warp(matrix, (size, size)) for matrix in matrices])
        points, log_error, logit = (out.cpu().numpy() for out in self.landmark_network(self._tensor(crops))[:3])
        points = np.stack([transform_points(invert(m), (p + 1) * size / 2) for m, p in zip(matrices, points)]).astype(np.float32)
        # Errors are roughly exponential with the predicted mean, so P(error < t) = 1 - exp(-t / mean).
        tolerance = CONFIDENT_ERROR * ALIGNED_INTEROCULAR * 2 / CROP_SPAN
        confidence = (1 - np.exp(-tolerance / np.exp(log_error))).astype(np.float32)
        return points, confidence, confidence.mean(1) / (1 + np.exp(-logit))


def peaks(output: Tensor, threshold: float, at_most: int) -> list[np.ndarray]:
    """Poses (x, y, size, cos, sin) at the local maxima of a detector output [6, h, w], in the detector's pixels, best first."""
    heat = output[0].sigmoid()
    maxima = heat * (nn.functional.max_pool2d(heat[None], 3, 1, 1)[0] == heat)
    scores, cells = maxima.flatten().topk(min(at_most, maxima.numel()))
    poses = []
    for cell in cells[scores > threshold].tolist():
        row, column = divmod(cell, output.shape[2])
        _, dx, dy, log_size, cos, sin = output[:, row, column].tolist()
        norm = max(float(np.hypot(cos, sin)), 1e-6)
        pose = np.array([(column + 0.5 + dx) * STRIDE - 0.5, (row + 0.5 + dy) * STRIDE - 0.5,
                         SIZE_UNIT * float(np.exp(np.clip(log_size, -3, 3))), cos / norm, sin / norm])
        if not any(_same_face(pose, other) for other in poses):
            poses.append(pose)
    return poses


def _same_face(pose: np.ndarray, other: np.ndarray) -> bool:
    """Whether two poses are too near each other to be two faces."""
    return np.hypot(*(pose[:2] - other[:2])) < 0.5 * max(pose[2], other[2])


def _distinct(faces: list[Face]) -> list[Face]:
    """The surest of every group of overlapping faces."""
    kept: list[tuple[np.ndarray, Face]] = []
    for face in sorted(faces, key=lambda face: -face.score):
        pose = landmark_pose(face.landmarks)
        if not any(_same_face(pose, other) for other, _ in kept):
            kept.append((pose, face))
    return [face for _, face in kept]


def _movement(previous: np.ndarray, pose: np.ndarray) -> float:
    """How far a pose has moved, turned (in radians) or grown, as a fraction of its size."""
    return float((np.abs(pose - previous) / [pose[2], pose[2], pose[2], 1, 1]).max())


def steady_pose(previous: np.ndarray | None, pose: np.ndarray) -> np.ndarray:
    """The pose for the next frame's crop: unmoved while the head hardly moves, so that a still face is read from identical crops."""
    return pose if previous is None or _movement(previous, pose) > 0.03 else previous


def _check_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 8:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"expected a uint8 RGB picture [H, W, 3] of at least 8 pixels a side, found {found}")
