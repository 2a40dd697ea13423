"""Renders `temposync_pipeline/face/upper_teeth.png`: the upper teeth of ICT-FaceKit's mean head from the front, in the light of a mouth.

    python examples/draw_teeth.py --head ict_facekit.npz --output upper_teeth.png

The file holds the head as arrays: "neutral", vertices [V, 3] in centimetres, x to the subject's left, y up, z to the front; "faces", quads
[F, 4] with -1 in the place of a triangle's fourth corner; "material", a name a face, of which "M_Teeth" counts.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from temposync_pipeline.face.drawn_teeth import EDGE, RESOLUTION, SHINING

# What is shown, in millimetres: to either side, above and below the edges of the middle teeth; those edges lie there.
HALF_WIDTH, ABOVE, BELOW = EDGE[0], EDGE[1], 2.0
EDGES_HEIGHT, BETWEEN_JAWS = -35.3, -30.0
# Light that comes from everywhere, the rest from the viewer; how deep gaps lie; and how much they darken, a millimetre, and over how many.
AMBIENT, GAP_DEPTH, OCCLUSION, OCCLUSION_REACH = 0.45, 5.0, 0.08, 0.7
# Teeth touch, those of the head do not: gaps up to so many pixels are not open, but so much darker than what is beside them.
NARROW_GAP, GAP_LIGHT = 13, 0.82
# They are wet: a window above the viewer shines on them, so strongly, from this direction (right, up, front), in spots of this narrowness.
SHINE, WINDOW, NARROWNESS = 0.22, (0.25, 0.5, 1.0), 30
# Luma of teeth as a share of that in their middle, every 2.56 mm to the side: the two sides' mean, smoothed by eye, of 24 smiles of the
# London set's training people (`own_teeth` in those photos, medians by column; a scratch script).
PROFILE = (1.0, 1.0, 0.97, 0.95, 0.9, 0.88, 0.8, 0.75, 0.6, 0.53, 0.32)
PROFILE_STEP, MOST_GAIN = 2.56, 1.3


def upper_teeth(head: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] in millimetres, and triangles [T, 3] of the upper teeth."""
    with np.load(head) as arrays:
        vertices, quads = 10 * arrays["neutral"].astype(np.float64), arrays["faces"][arrays["material"] == "M_Teeth"]
    tooth = np.arange(len(vertices))  # the least vertex that hangs together with each
    for _ in range(64):
        least = np.where(quads >= 0, tooth[quads], len(vertices)).min(1)
        for corner in range(4):
            used = quads[:, corner] >= 0
            np.minimum.at(tooth, quads[used, corner], least[used])
    heights, counts = np.zeros(len(vertices)), np.zeros(len(vertices))
    used = np.unique(quads[quads >= 0])
    np.add.at(heights, tooth[used], vertices[used, 1])
    np.add.at(counts, tooth[used], 1)
    quads = quads[(heights / np.maximum(counts, 1))[tooth[quads[:, 0]]] > BETWEEN_JAWS]
    return vertices, np.concatenate([quads[:, :3], quads[quads[:, 3] >= 0][:, [0, 2, 3]]])


def normals_of(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals of the vertices [V, 3], means of those of their triangles weighted by area."""
    normals, (a, b, c) = np.zeros_like(vertices), vertices[triangles].transpose(1, 0, 2)
    for corner in range(3):
        np.add.at(normals, triangles[:, corner], np.cross(b - a, c - a))
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)


def seen_from_the_front(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth in millimetres, -inf where there is nothing, [h, w], and the surface's normals [h, w, 3]."""
    width, height = round(2 * HALF_WIDTH * RESOLUTION), round((ABOVE + BELOW) * RESOLUTION)
    depth, surface = np.full((height, width), -np.inf), np.zeros((height, width, 3))
    normals = normals_of(vertices, triangles)
    places = RESOLUTION * np.column_stack([vertices[:, 0] + HALF_WIDTH, EDGES_HEIGHT + ABOVE - vertices[:, 1]])
    for corners in triangles:
        points = places[corners]
        x0, y0 = np.maximum(np.floor(points.min(0)), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(points.max(0)) + 1, [width, height]).astype(int)
        system = np.column_stack([points, np.ones(3)])
        if x1 <= x0 or y1 <= y0 or abs(np.linalg.det(system)) < 1e-9:
            continue
        columns, rows = np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
        shares = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(system)
        here = shares @ vertices[corners, 2]
        nearer = (shares > -1e-6).all(-1) & (here > depth[y0:y1, x0:x1])
        depth[y0:y1, x0:x1][nearer] = here[nearer]
        surface[y0:y1, x0:x1][nearer] = (shares @ normals[corners])[nearer]
    return depth, surface


def shine(surface: np.ndarray) -> np.ndarray:
    """What wet teeth reflect of the window, [h, w], as a share of the window's light (Blinn's highlight)."""
    half = np.array(WINDOW) / np.linalg.norm(WINDOW) + (0, 0, 1)
    length = np.maximum(np.linalg.norm(surface, axis=-1), 1e-9)
    return (surface @ (half / np.linalg.norm(half)) / length).clip(0, 1) ** NARROWNESS


def lit(depth: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """Luma of the teeth, float32 [h, w] from 0 to 1, the lightest at 1 / `SHINING` but for spots that shine; and beside them that
    of the nearest, so soft edges keep their colour."""
    seen, columns = np.isfinite(depth), np.arange(depth.shape[1])
    front = np.where(seen.any(0), depth.max(0), np.nan)
    front = np.interp(columns, columns[seen.any(0)], front[seen.any(0)])
    filled = np.where(seen, depth, front - GAP_DEPTH)
    behind = cv2.GaussianBlur(filled, (0, 0), OCCLUSION_REACH * RESOLUTION) - filled
    luma = (AMBIENT + (1 - AMBIENT) * surface[..., 2].clip(0, 1)) * np.exp(-OCCLUSION * behind.clip(0))
    middle = np.array([np.median(luma[:, max(0, at - 12):at + 12][seen[:, max(0, at - 12):at + 12]]) for at in columns])
    aside = np.abs((columns + 0.5) / RESOLUTION - HALF_WIDTH)
    wanted = np.interp(aside, PROFILE_STEP * np.arange(len(PROFILE)), PROFILE) * np.percentile(luma[seen], 97)
    gain = wanted / np.maximum(cv2.GaussianBlur(middle[None], (0, 0), 16)[0], 0.2)
    luma = luma * np.minimum(gain, MOST_GAIN)
    lightest = np.percentile(luma[seen], 95)
    luma = luma * (1 + SHINE * shine(surface))
    weight = cv2.GaussianBlur(seen.astype(np.float64), (0, 0), 3)
    beside = cv2.GaussianBlur(np.where(seen, luma, 0), (0, 0), 3) / (weight + 1e-4)
    luma = np.where(seen, luma, np.where(covered(seen), GAP_LIGHT, 1) * beside)
    return np.minimum(luma / (SHINING * lightest), 1).astype(np.float32)


def covered(seen: np.ndarray) -> np.ndarray:
    """What is teeth, or a narrow gap between two of them; bool [h, w]."""
    return cv2.morphologyEx(seen.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((1, NARROW_GAP), np.uint8)) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    depth, facing = seen_from_the_front(*upper_teeth(arguments.head))
    coverage = cv2.GaussianBlur(covered(np.isfinite(depth)).astype(np.float32), (0, 0), 1.0)
    picture = np.rint(255 * np.stack([lit(depth, facing), coverage], -1)).astype(np.uint8)
    Image.fromarray(picture, "LA").save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
