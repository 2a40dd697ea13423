"""How well `models.face_aligner` finds faces and their landmarks, on faces it was not trained on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ..data.aligner_augment import procedural
from ..data.aligner_data import EVALUATION_PICTURES, LabelledFace, face_free_part, load_pictures, without_face
from ..face.crop import align_matrix, transform_points
from ..face.landmarks import GROUPS, interocular_distance, lip_opening
from ..face.pose import compose, pose_matrix
from ..models.face_aligner import FaceAligner

# Speed is told by the longer side of a picture in pixels: up to each of these, and above.
SIZE_CLASSES = (512, 1024, 2048)


@dataclass
class FaceScene:
    """A picture, uint8 RGB, with one face whose labelled landmarks are float32 [131, 2]."""

    image: np.ndarray
    landmarks: np.ndarray


def face_scenes(groups: list[list[LabelledFace]], count: int, seed: int, sizes: tuple[float, float] = (48, 1500),
                max_roll: float = 30.0) -> list[FaceScene]:
    """`count` held-out faces, drawn from each group in turn, 48 to 1500 px high and rolled by up to 30 degrees.

    The picture is turned and scaled about the face and put before a face-free background of 1.5 to 6 times the face's size, at
    most 2200 px.
    """
    rng = np.random.default_rng(seed)
    backgrounds = load_pictures(EVALUATION_PICTURES)
    scenes = []
    for index in range(count):
        group = groups[index % len(groups)]
        face = group[rng.integers(len(group))]
        size = float(np.exp(rng.uniform(*np.log(sizes))))
        roll = np.radians(rng.uniform(-max_roll, max_roll))
        width, height = (int(np.clip(size * rng.uniform(1.5, 6), 72, max(2200, 1.4 * size))) for _ in range(2))
        x, y = (rng.uniform(min(0.65 * size, side / 2), max(side - 0.65 * size, side / 2)) for side in (width, height))
        matrix = compose(pose_matrix(np.array([x, y, size, np.cos(roll), np.sin(roll)])), align_matrix(face.landmarks))
        canvas = cv2.resize(backgrounds[rng.integers(len(backgrounds))], (width, height))
        image = face.pyramid.warp(matrix, (width, height), cv2.BORDER_TRANSPARENT, canvas)
        scenes.append(FaceScene(image, transform_points(matrix, face.landmarks).astype(np.float32)))
    return scenes


def face_free_pictures(groups: list[list[LabelledFace]], count: int, seed: int) -> list[np.ndarray]:
    """`count` pictures without a face: held-out photographs, patterns, and held-out portraits' surroundings with or without a hole."""
    rng = np.random.default_rng(seed)
    photographs = load_pictures(EVALUATION_PICTURES)
    pictures = list(photographs)
    while len(pictures) < count:
        kind = len(pictures) % 4
        group = groups[rng.integers(len(groups))]
        face = group[rng.integers(len(group))]
        photograph = photographs[rng.integers(len(photographs))]
        if kind == 0:
            y, x = (int(rng.integers(0, side // 2 + 1)) for side in photograph.shape[:2])
            pictures.append(photograph[y:y + photograph.shape[0] // 2, x:x + photograph.shape[1] // 2])
        elif kind == 1:
            pictures.append(procedural(*rng.integers(96, 720, 2), rng))
        else:
            part = face_free_part(face, rng)
            zoom = rng.uniform(1, 4)
            picture = part if kind == 2 else without_face(face, photograph, rng)
            pictures.append(cv2.resize(picture, None, fx=zoom, fy=zoom))
    return [np.ascontiguousarray(picture) for picture in pictures[:count]]


def match(found: list, landmarks: np.ndarray) -> int | None:
    """Index of the found face whose landmarks lie nearest to the labelled ones, if within half the interocular distance on average."""
    errors = [np.linalg.norm(face.landmarks - landmarks, axis=-1).mean() / interocular_distance(landmarks) for face in found]
    best = int(np.argmin(errors)) if errors else None
    return best if best is not None and errors[best] < 0.5 else None


def measure(aligner: FaceAligner, scenes: list[FaceScene], face_free: list[np.ndarray]) -> dict[str, float]:
    """Recall in %, false faces in % of face-free pictures and a face scene, landmark errors in % of the interocular distance (all
    131 points; lips alone; the lip opening) and `lip_r`, the correlation of lip openings over scenes."""
    errors, lips, openings, extra = [], [], [], 0
    for scene in scenes:
        found = aligner.detect(scene.image)
        best = match(found, scene.landmarks)
        extra += len(found) - (best is not None)
        if best is None:
            continue
        error = np.linalg.norm(found[best].landmarks - scene.landmarks, axis=-1) / interocular_distance(scene.landmarks)
        errors.append(error.mean())
        lips.append(np.concatenate([error[GROUPS["outer_lips"]], error[GROUPS["inner_lips"]]]).mean())
        openings.append((lip_opening(found[best].landmarks), lip_opening(scene.landmarks)))
    openings = np.array(openings).reshape(-1, 2)
    false = [len(aligner.detect(picture)) > 0 for picture in face_free]
    return {
        "recall": 100 * len(errors) / max(1, len(scenes)),
        "false_faces": 100 * float(np.mean(false)),
        "extra_faces": 100 * extra / max(1, len(scenes)),
        "error": 100 * float(np.mean(errors)) if errors else float("nan"),
        "lip_error": 100 * float(np.mean(lips)) if errors else float("nan"),
        "opening_error": 100 * float(np.abs(openings[:, 0] - openings[:, 1]).mean()) if errors else float("nan"),
        "lip_r": float(np.corrcoef(openings.T)[0, 1]) if len(openings) > 2 else float("nan"),
    }


def measure_tracking(aligner: FaceAligner, clips: list[tuple[list[np.ndarray], np.ndarray]]) -> dict[str, float]:
    """`FaceAligner.track` on labelled clips (frames, landmarks [T, 131, 2]): frames lost in %, landmark error in % of the interocular
    distance, and means over clips of the correlation and the amplitude ratio of the lip opening."""
    lost, errors, correlations, amplitudes = [], [], [], []
    for frames, landmarks in clips:
        tracked = aligner.track(frames)
        found = np.isfinite(tracked).all((1, 2))
        lost.append(1 - found.mean())
        ours, labelled = tracked[found], landmarks[found]
        errors.append((np.linalg.norm(ours - labelled, axis=-1).mean(1) / interocular_distance(labelled)).mean())
        opening, true_opening = lip_opening(ours), lip_opening(labelled)
        correlations.append(np.corrcoef(opening, true_opening)[0, 1])
        amplitudes.append(opening.std() / true_opening.std())
    return {"track_lost": 100 * float(np.mean(lost)), "track_error": 100 * float(np.mean(errors)),
            "track_lip_r": float(np.mean(correlations)), "track_amplitude": float(np.mean(amplitudes))}


def detection_times(aligner: FaceAligner, pictures: list[np.ndarray]) -> list[float]:
    """Milliseconds that `FaceAligner.detect` takes for each picture, one run each after a few to warm up, on the current threads."""
    for picture in pictures[:3]:
        aligner.detect(picture)
    times = []
    for picture in pictures:
        started = time.perf_counter()
        aligner.detect(picture)
        times.append(1000 * (time.perf_counter() - started))
    return times


def times_by_size(sides: Sequence[int], times: Sequence[float]) -> dict[str, dict[str, float]]:
    """{"all" or a class of the longer side, as in "513-1024": {"count", "median_ms", "p95_ms"}} of pictures with longer `sides`
    in pixels that took `times` in milliseconds; classes without a picture are left out."""
    sides, times = np.array(sides), np.array(times)
    classes = {"all": sides > 0}
    lowest = 1
    for highest in SIZE_CLASSES:
        classes[f"{lowest}-{highest}"] = (sides >= lowest) & (sides <= highest)
        lowest = highest + 1
    classes[f"above {SIZE_CLASSES[-1]}"] = sides >= lowest
    return {name: {"count": int(members.sum()), "median_ms": float(np.median(times[members])),
                   "p95_ms": float(np.percentile(times[members], 95))} for name, members in classes.items() if members.any()}


def measure_speed(aligner: FaceAligner, scenes: list[FaceScene], face_free: list[np.ndarray]) -> dict[str, dict]:
    """`times_by_size` of the scenes ("with_face"), of the face-free pictures ("face_free") and of both ("all"), and the number of
    "threads" of the networks (torch) and of the picture operations (opencv) that this took."""
    kinds = {"with_face": [scene.image for scene in scenes], "face_free": face_free}
    sides = {kind: [max(picture.shape[:2]) for picture in pictures] for kind, pictures in kinds.items()}
    times = {kind: detection_times(aligner, pictures) for kind, pictures in kinds.items()}
    figures = {kind: times_by_size(sides[kind], times[kind]) for kind in kinds}
    figures["all"] = times_by_size(sum(sides.values(), []), sum(times.values(), []))
    return {"threads": {"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads()}, "milliseconds": figures}


def contact_sheet(aligner: FaceAligner, scenes: list[FaceScene], columns: int = 8, rows: int = 5, tile: int = 240) -> np.ndarray:
    """Found landmarks (green) and the labelled ones (red) on the first scenes, uint8 RGB."""
    tiles = []
    for scene in scenes[:columns * rows]:
        zoom = tile / max(scene.image.shape[:2])
        shown = cv2.resize(scene.image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
        shown = cv2.copyMakeBorder(shown, 0, tile - shown.shape[0], 0, tile - shown.shape[1], cv2.BORDER_CONSTANT)
        for points, colour in [(scene.landmarks, (255, 0, 0))] + [(face.landmarks, (0, 255, 0)) for face in aligner.detect(scene.image)]:
            for x, y in (points * zoom).tolist():
                cv2.circle(shown, (round(x), round(y)), 0, colour, -1)
        tiles.append(shown)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i:i + columns], 1) for i in range(0, len(tiles), columns)])
