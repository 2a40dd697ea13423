"""Stage `aligner`: FaceAligner, distilled from labels that `examples/label_faces.py` wrote.

Detector and landmark network learn side by side, from scenes and crops drawn anew for every step.

    python -m temposync_pipeline.training.aligner --config examples/train/aligner.yaml --data DATA --labels LABELS --output runs/aligner
    python -m temposync_pipeline.training.aligner --data DATA --labels LABELS --evaluate runs/aligner/face_aligner --threads 2
"""

import argparse
import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..data.aligner_data import (
    TRAINING_PICTURES,
    AlignerData,
    LabelledFace,
    load_clips,
    load_pictures,
    load_portraits,
    load_speaking,
    load_talkers,
)
from ..data.speaking_portraits import SpeakingPortrait
from ..errors import InvalidInputError
from ..face.landmarks import GROUPS, NUM_LANDMARKS
from ..face.pose import ALIGNED_INTEROCULAR, CROP_SPAN
from ..metrics.aligner import contact_sheet, face_free_pictures, face_scenes, measure, measure_speed, measure_tracking
from ..models.face_aligner import FaceAligner
from .checkpointing import save_weights
from .loop import LoopConfig, Losses, make_accelerator, train_loop
from .settings import build_config, read_settings

# The interocular distance in crop units (-1..1 from edge to edge).
INTEROCULAR = 2 * ALIGNED_INTEROCULAR / CROP_SPAN


@dataclass
class Config(LoopConfig):
    labels: str = "labels"
    output: str = "runs/aligner"
    # Crops a step for the landmark network, whose error matters most ...
    batch_size: int = 32
    # ... and 192 px scenes for the detector (fewer where they are 256 px).
    scenes: int = 8
    learning_rate: float = 2e-3
    # Of 75 nearly identical frames in a clip, so many are skipped for each one kept.
    talker_frames_every: int = 6
    portrait_share: float = 0.55
    # Folder of portraits made to speak (examples/retarget_portraits.py), with their share of the faces; empty: none.
    speaking: str = ""
    speaking_share: float = 0.25
    # Processes that draw batches; what they would draw next is not part of a checkpoint.
    workers: int = 0


class AlignerBatches(IterableDataset):
    """Endless batches: `crops`, `landmarks`, `is_face` for the landmark network, `images` and targets for the detector."""

    def __init__(self, config: Config, crop_size: int):
        self.config = config
        data, labels = Path(config.data), Path(config.labels)
        groups = [load_portraits(data, labels, False), load_talkers(data, labels, False, config.talker_frames_every)]
        shares = [config.portrait_share, 1 - config.portrait_share]
        if config.speaking:
            if not 0 <= config.speaking_share <= 1:
                raise InvalidInputError(f"speaking_share must lie in [0, 1], got {config.speaking_share!r}")
            groups.append(load_speaking(groups[0], Path(config.speaking), config.seed))
            shares = [*(share * (1 - config.speaking_share) for share in shares), config.speaking_share]
        present = [(group, share) for group, share in zip(groups, shares) if group]
        if not present:
            raise InvalidInputError(f"{data}: no labelled face to train on")
        self.samples = AlignerData(*map(list, zip(*present)), load_pictures(TRAINING_PICTURES), crop_size, config.seed)

    def __iter__(self):
        if worker := get_worker_info():
            self.samples.rng = np.random.default_rng((self.config.seed, torch.initial_seed() % 2**32, worker.id))
        cv2.setNumThreads(1)
        while True:
            crops, landmarks, is_face = zip(*[self.samples.landmark_crop() for _ in range(self.config.batch_size)])
            # Large scenes show faces as large as the first pass of `FaceAligner.detect` meets them.
            large = self.samples.rng.random() < 0.5
            size, sizes, count = (256, (14, 290), max(1, self.config.scenes * 9 // 16)) if large else (192, (13, 170), self.config.scenes)
            scenes = [self.samples.scene(size, sizes) for _ in range(count)]
            yield {"crops": np.stack(crops), "landmarks": np.stack(landmarks), "is_face": np.array(is_face, np.float32)} | {
                key: np.stack([scene[key] for scene in scenes]) for key in scenes[0]}


def detector_loss(output: Tensor, heat: Tensor, weight: Tensor, near: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Penalty-reduced focal loss (Zhou et al. 2019, eq. 1) and the L1 distance of the poses near the centres.

    `output` [B, 6, h, w] of `FaceDetector`; targets as made by `scene_targets`: [B, h, w], `pose` [B, 5, h, w].
    """
    logit = output[:, 0].float()
    probability = logit.sigmoid()
    centre = heat == 1
    positive = F.softplus(-logit) * (1 - probability) ** 2 * centre
    negative = F.softplus(logit) * probability**2 * (1 - heat) ** 4 * ~centre
    focal = ((positive + negative) * weight).sum() / centre.sum().clamp(min=1)
    distance = (output[:, 1:].float() - pose).abs().sum(1)
    return focal, (distance * near).sum() / near.sum().clamp(min=1)


def landmark_weights() -> Tensor:
    """[131], mean 1: lips count twice."""
    weights = torch.ones(NUM_LANDMARKS)
    weights[GROUPS["outer_lips"]] = weights[GROUPS["inner_lips"]] = 2
    return weights / weights.mean()


def landmark_loss(points: Tensor, log_error: Tensor, target: Tensor, is_face: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(distance, lip gap, spread): mean landmark distance and mean error of the lip opening, both as fractions of the interocular
    distance, and the exponential negative log-likelihood of the distances under the predicted mean error.

    The likelihood trains the predicted errors alone: the distances in it are detached, so that hard landmarks aren't given up.
    """
    faces = is_face.sum().clamp(min=1)
    distance = (((points - target) / INTEROCULAR).square().sum(-1) + 1e-5).sqrt()
    weighted = (distance * landmark_weights().to(distance)).mean(1)
    lower, upper = torch.arange(1, 10), torch.arange(19, 10, -1)
    lips, true_lips = points[:, GROUPS["inner_lips"]], target[:, GROUPS["inner_lips"]]
    gap = (lips[:, lower] - lips[:, upper]) - (true_lips[:, lower] - true_lips[:, upper])
    gap = ((gap / INTEROCULAR).square().sum(-1) + 1e-5).sqrt().mean(1)
    spread = (log_error + distance.detach() * INTEROCULAR * torch.exp(-log_error)).mean(1)
    return tuple((loss * is_face).sum() / faces for loss in (weighted, gap, spread))


def heat_loss(log_heat: Tensor, cell_centres: Tensor, target: Tensor, is_face: Tensor) -> Tensor:
    """Cross-entropy of the landmarks' distributions against Gaussians one cell wide around the labels (the regulariser of Nibali et
    al. 2018), less the Gaussians' own entropy, so that 0 is perfect.

    `log_heat` [B, 131, cells²], `cell_centres` [cells², 2], `target` [B, 131, 2] in crop units.
    """
    cells = log_heat.shape[-1] ** 0.5
    offset = (target[:, :, None] - cell_centres) * (cells / 2)
    log_gauss = (-0.5 * offset.square().sum(-1)).log_softmax(-1)
    divergence = (log_gauss.exp() * (log_gauss - log_heat)).sum(-1).mean(1)
    return (divergence * is_face).sum() / is_face.sum().clamp(min=1)


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    cv2.setNumThreads(1)
    aligner = FaceAligner.from_pretrained(config.init) if config.init else FaceAligner()
    batches = AlignerBatches(config, aligner.config.crop_size)
    aligner.to(memory_format=torch.channels_last)
    stream = iter(DataLoader(batches, batch_size=None, num_workers=config.workers, pin_memory=config.device != "cpu"))
    held_out = held_out_faces(config)
    scenes, face_free = face_scenes(held_out, 64, seed=1), face_free_pictures(held_out, 60, seed=1)

    def pixels(images: Tensor) -> Tensor:
        return (images.to(accelerator.device).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

    def compute_losses(model: torch.nn.Module, progress: float) -> Losses:
        batch = next(stream)
        targets = {key: value.to(accelerator.device) for key, value in batch.items()}
        output, (points, log_error, logit, log_heat) = model(pixels(batch["image"]), pixels(batch["crops"]))
        focal, pose = detector_loss(output, targets["heat"], targets["weight"], targets["near"], targets["pose"])
        distance, gap, spread = landmark_loss(points, log_error, targets["landmarks"], targets["is_face"])
        presence = F.binary_cross_entropy_with_logits(logit, targets["is_face"])
        heat = heat_loss(log_heat, aligner.landmark_network.cell_centres(log_heat.device), targets["landmarks"], targets["is_face"])
        loss = 10 * distance + 5 * gap + 0.5 * heat + 0.05 * spread + 0.5 * presence + focal + pose
        return {"loss": loss, "distance": distance, "gap": gap, "heat": heat, "presence": presence, "focal": focal, "pose": pose}

    def save(model: FaceAligner) -> None:
        save_weights(copy.deepcopy(model).to("cpu", torch.float16), Path(config.output) / "face_aligner")

    ema = copy.deepcopy(aligner)
    return train_loop(config, accelerator, aligner, ema, compute_losses, lambda model: measure(model, scenes, face_free), save,
                      generators=[batches.samples.rng])


def held_out_faces(config: Config) -> list[list[LabelledFace]]:
    """Validation portraits and frames of validation talkers, whichever there are.

    Raises InvalidInputError where there are neither.
    """
    data, labels = Path(config.data), Path(config.labels)
    groups = [group for group in (load_portraits(data, labels, True), load_talkers(data, labels, True, 15)) if group]
    if not groups:
        raise InvalidInputError(f"{data}: no labelled face is held out, neither clips below a folder `val` nor portraits")
    return groups


def evaluate(config: Config, model: str, sheet: str, count: int) -> dict[str, Any]:
    """Figures of a saved model on held-out faces (with `config.speaking` portraits made to speak, too) and face-free pictures.

    Its speed is that on `config.threads` threads (0: as many as torch likes); a picture of some detections goes to `sheet`.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
        cv2.setNumThreads(config.threads)
    aligner = FaceAligner.from_pretrained(model, torch_dtype=torch.float32).eval()
    held_out = held_out_faces(config)
    scenes, face_free = face_scenes(held_out, count, seed=7), face_free_pictures(held_out, count, seed=7)
    figures = measure(aligner, scenes, face_free) | measure_speed(aligner, scenes, face_free)
    # At most three clips of each talker.
    clips: dict[str, list] = {}
    for talker, frames, landmarks in load_clips(Path(config.data), Path(config.labels), True):
        clips.setdefault(talker, []).append((frames, landmarks))
    figures |= measure_tracking(aligner, [clip for some in clips.values() for clip in some[:3]])
    if config.speaking:
        paths = sorted((Path(config.speaking) / "val").glob("*.npz"))
        if not paths:
            raise InvalidInputError(f"{config.speaking}/val: no portraits made to speak")
        spoken = measure_tracking(aligner, [(portrait.crops, portrait.landmarks) for portrait in map(SpeakingPortrait.load, paths)])
        figures |= {f"speaking_{name}": value for name, value in spoken.items()}
    if sheet:
        cv2.imwrite(sheet, cv2.cvtColor(contact_sheet(aligner, scenes), cv2.COLOR_RGB2BGR))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", help="YAML file with any of the settings below")
    parser.add_argument("--evaluate", metavar="FOLDER", help="measure this saved model instead of training")
    parser.add_argument("--sheet", default="", help="with --evaluate: write a contact sheet (PNG) here")
    parser.add_argument("--count", type=int, default=200, help="with --evaluate: scenes with a face, and pictures without")
    for field in dataclasses.fields(Config):
        parser.add_argument(f"--{field.name}", type=yaml.safe_load if field.type is not str else str, default=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    own = {name: given.pop(name) for name in ("config", "evaluate", "sheet", "count")}
    try:
        config = build_config(Config, read_settings(Path(own["config"]) if own["config"] else None, []) | given)
        figures = evaluate(config, own["evaluate"], own["sheet"], own["count"]) if own["evaluate"] else train(config)
    except InvalidInputError as error:
        parser.error(str(error))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
