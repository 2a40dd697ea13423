"""Make a photograph of nobody: the average of a dozen aligned portraits.

    python examples/average_faces.py portraits/*.jpg --output nobody.jpg

Choose portraits of people who look alike in sex, age, hair and pose; hair and clothes then average to something plausible.
The portraits of `examples/media` came out of this script (see the SOURCES.txt there).

1. Every face is moved to the group's mean position and size by a similarity (Procrustes analysis).
2. Every face is warped to the mean shape of its landmarks, piecewise-affine over their Delaunay triangulation.
3. Colours are matched to the group's mean and the pictures averaged.
4. Dense optical flow from each picture to the average aligns what landmarks do not cover (hair, collar, shoulders), and the average
   is taken again; three rounds.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import Delaunay

from temposync_pipeline.face.landmarks import GROUPS, lip_opening

FLOW_ROUNDS = 3
TOLERANCE = 0.25


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity from points [N, 2] to points [N, 2], as an affine [2, 3]."""
    a, b = source - source.mean(0), target - target.mean(0)
    cos, sin = (a * b).sum(), (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()
    linear = np.array([[cos, -sin], [sin, cos]]) / (a**2).sum()
    return np.column_stack([linear, target.mean(0) - linear @ source.mean(0)])


def mean_shape(shapes: np.ndarray) -> np.ndarray:
    """Procrustes mean of shapes [P, N, 2]; the lips are those of the half of the group with the most closed mouths."""
    mean = shapes.mean(0)
    for _ in range(5):
        aligned = np.stack([shape @ (m := similarity(shape, mean))[:, :2].T + m[:, 2] for shape in shapes])
        mean = aligned.mean(0)
    closed = aligned[np.argsort(lip_opening(aligned))[: max(1, len(aligned) // 2)]].mean(0)
    for lips in ("outer_lips", "inner_lips"):
        mean[GROUPS[lips]] = closed[GROUPS[lips]]
    return mean


def warp_to_shape(image: np.ndarray, shape: np.ndarray, target: np.ndarray, width: int, height: int) -> np.ndarray:
    """Warp `image` so that its landmarks `shape` [N, 2] come to lie on `target` [N, 2] of a canvas of this size."""
    # A ring around the face moves by the similarity alone: the warp fades out towards the background.
    centre = target.mean(0)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = centre + 1.15 * max(width, height) * np.column_stack([np.cos(angles), np.sin(angles)])
    near = centre + 1.9 * np.abs(target - centre).max(0) * np.column_stack([np.cos(angles), np.sin(angles)])
    points = np.concatenate([target, near, ring])
    back = similarity(target, shape)
    sources = np.concatenate([shape, np.concatenate([near, ring]) @ back[:, :2].T + back[:, 2]])
    triangles = Delaunay(points)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)
    simplex = triangles.find_simplex(grid)
    affine = triangles.transform[simplex]
    first = np.einsum("nij,nj->ni", affine[:, :2], grid - affine[:, 2])
    barycentric = np.column_stack([first, 1 - first.sum(1)])
    where = np.einsum("ni,nij->nj", barycentric, sources[triangles.simplices[simplex]]).astype(np.float32).reshape(height, width, 2)
    return cv2.remap(image, where, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def match_colours(images: list[np.ndarray], region: np.ndarray) -> np.ndarray:
    """Give every picture the group's mean and deviation of Lab colour within `region`; float32 [P, H, W, 3] RGB in [0, 1]."""
    lab = np.stack([cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for image in images])
    means, deviations = lab[:, region].mean(1), lab[:, region].std(1)
    gain = np.clip(deviations.mean(0) / deviations, 0.8, 1.25)
    lab = (lab - means[:, None, None]) * gain[:, None, None] + means.mean(0)
    return np.stack([np.clip(cv2.cvtColor(image.astype(np.float32), cv2.COLOR_LAB2RGB), 0, 1) for image in lab])


def consensus(pictures: np.ndarray, average: np.ndarray) -> np.ndarray:
    """Mean of pictures [P, H, W, 3], each weighted around a place by how well it agrees there with the average.

    w = softmax over the pictures of -d / TOLERANCE², d the squared colour difference blurred over 12 px: where all agree, as
    in the face, it is the mean; another haircut or collar fades without leaving a ghost.
    """
    for _ in range(2):
        distance = np.stack([cv2.GaussianBlur(((picture - average) ** 2).sum(-1), (0, 0), 12) for picture in pictures])
        weights = np.exp(-(distance - distance.min(0)) / TOLERANCE**2)
        weights = np.stack([cv2.GaussianBlur(weight, (0, 0), 5) for weight in weights / weights.sum(0)])
        average = (pictures * weights[..., None]).sum(0)
    return average


def align_by_flow(pictures: np.ndarray) -> np.ndarray:
    """Average of pictures [P, H, W, 3] after each was moved onto the average along a smooth dense flow."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    height, width = pictures.shape[1:3]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    average = consensus(pictures, pictures.mean(0))
    for smoothness in np.linspace(24, 12, FLOW_ROUNDS):
        moved = []
        for picture in pictures:
            grey = [cv2.cvtColor((x * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for x in (average, picture)]
            offset = cv2.GaussianBlur(flow.calc(*grey, None), (0, 0), smoothness)
            moved.append(cv2.remap(picture, grid + offset, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
        average = consensus(np.stack(moved), average)
    return np.clip(average, 0, 1).astype(np.float32)


def average_faces(images: list[np.ndarray], landmarks: np.ndarray, width: int = 648) -> np.ndarray:
    """The average portrait, uint8 RGB, of pictures of one format with their landmarks [P, 131, 2] in pixels."""
    height = round(width * images[0].shape[0] / images[0].shape[1] / 2) * 2
    target = mean_shape(landmarks) * (width / images[0].shape[1])
    warped = [warp_to_shape(image, shape, target, width, height) for image, shape in zip(images, landmarks, strict=True)]
    face = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(face, cv2.convexHull(np.round(target).astype(np.int32)), 1)
    average = align_by_flow(match_colours(warped, face > 0))
    # Averaging softens: sharpen the face; around it that would only bring out the ghosts of other hair and clothes.
    where = cv2.GaussianBlur(cv2.erode(face, np.ones((9, 9))).astype(np.float32), (0, 0), 8)[..., None]
    for sigma, amount in ((4.0, 0.3), (1.5, 0.6)):
        average = average + amount * where * (average - cv2.GaussianBlur(average, (0, 0), sigma))
    # Where some pictures end, their mirrored borders show.
    margin_x, margin_y = width // 24, height // 24
    average = average[margin_y : height - margin_y, margin_x : width - margin_x]
    return np.round(np.clip(average, 0, 1) * 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits", nargs="+", type=Path, help="pictures of one format, one face each")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    from temposync_pipeline.checkpoints import bundled_path
    from temposync_pipeline.media import load_image
    from temposync_pipeline.models.face_aligner import FaceAligner

    aligner = FaceAligner.from_pretrained(bundled_path("temposync-tiny") / "face_aligner")
    images = [load_image(path) for path in arguments.portraits]
    landmarks = np.stack([aligner.detect(image)[0].landmarks for image in images])
    portrait = average_faces(images, landmarks)
    cv2.imwrite(str(arguments.output), portrait[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


if __name__ == "__main__":
    main()
