"""Label portraits and clips with MediaPipe's face mesh, the teacher of `FaceAligner`.

MediaPipe is no dependency of this project: run this once, in an environment of its own.

    python -m venv labeller && labeller/bin/pip install mediapipe==0.10.21 av
    labeller/bin/python examples/label_faces.py --data DATA --labels LABELS

Writes LABELS/portraits.npz (`names`, `landmarks` [N, 478, 3]) for DATA/portraits/*.jpg and, for each clip DATA/a/b/c.mpg,
LABELS/a_b_c.npz (`landmarks` [T, 478, 3]): x, y and depth in pixels, NaN where no face was found.  Clips that have a label
already are skipped, so a broken run can be continued.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np


def face_mesh():
    # Every frame by itself: tracking from frame to frame would smooth away fast lips.
    import mediapipe  # here, so that --help works without it

    return mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=True, refine_landmarks=True, max_num_faces=1, min_detection_confidence=0.3)


def label(mesh, image: np.ndarray) -> np.ndarray:
    """Mesh of the face in a uint8 RGB picture: float32 [478, 3]."""
    found = mesh.process(image).multi_face_landmarks
    if not found:
        return np.full((478, 3), np.nan, np.float32)
    height, width = image.shape[:2]
    return np.array([[point.x * width, point.y * height, point.z * width] for point in found[0].landmark], np.float32)


def save(path: Path, **arrays: np.ndarray) -> None:
    """Written beside its target, then renamed, so that a file that exists is complete."""
    staged = path.with_name(path.stem + ".staged.npz")
    np.savez(staged, **arrays)
    os.replace(staged, path)


def label_clip(clip: Path, data: Path, labels: Path) -> None:
    target = labels / ("_".join(clip.relative_to(data).with_suffix("").parts) + ".npz")
    if target.exists():
        return
    mesh = face_mesh()
    with av.open(str(clip)) as container:
        save(target, landmarks=np.stack([label(mesh, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]))


def label_portraits(data: Path, labels: Path) -> None:
    mesh = face_mesh()
    paths = sorted((data / "portraits").glob("*.jpg"))
    meshes = [label(mesh, cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)) for path in paths]
    save(labels / "portraits.npz", names=np.array([path.name for path in paths]), landmarks=np.stack(meshes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with portraits/ and clips (*.mpg) at any depth")
    parser.add_argument("--labels", type=Path, required=True, help="folder to write to")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    options.labels.mkdir(parents=True, exist_ok=True)
    clips = sorted(options.data.rglob("*.mpg"))
    with ProcessPoolExecutor(options.processes) as pool:
        portraits = pool.submit(label_portraits, options.data, options.labels)
        for done, _ in enumerate(pool.map(partial(label_clip, data=options.data, labels=options.labels), clips), 1):
            print(f"\r{done} of {len(clips)} clips", end="", flush=True)
        portraits.result()
    print()


if __name__ == "__main__":
    main()
