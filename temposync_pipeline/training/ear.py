"""Stage `ear`: VisemeClassifier on a GPU, taught by Whisper's encoder as well as by labels, on crops that are made there, too.

    temposync train ear --data runs/visemes/corpus --init temposync-tiny --output runs/ear --set whisper=openai/whisper-base

The corpus is that of the stage `visemes`.  First Whisper's encoder learns visemes itself for a few minutes; what it then says of clean
speech, and its features, is what the classifier is to say of the same speech in any room.  So it also learns from speech that nobody
labelled.  `lips` (optional, `save_performances`): sounds with the lips' motion, which the hidden state then tells, too.
"""

import copy
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import batched_augmentation as augmentation
from ..data.batched_augmentation import Chance
from ..data.sound_reel import SoundReel
from ..data.viseme_corpus import Utterance, load_utterances
from ..data.viseme_crops import BAND_WINDOW, NUM_BANDS, band_filters
from ..data.viseme_labels import SAMPLE_RATE, coverage
from ..metrics.visemes import score_visemes
from ..models.viseme_classifier import VisemeClassifier, VisemeClassifierConfig
from ..models.visemes import NUM_VISEMES
from .checkpointing import save_weights
from .loop import LoopConfig, Losses, make_accelerator, train_loop
from .visemes import class_weights, soft_cross_entropy
from .whisper_teacher import WhisperTeacher


@dataclass
class Config(LoopConfig):
    """`data` is the corpus of the stage `visemes`, a folder with train.npz and validation.npz."""

    output: str = "runs/ear"
    # Whisper in transformers' format: a folder, or its name on the Hub.
    whisper: str = "openai/whisper-base"
    # Folder of `save_performances` files, or none.
    lips: str = ""
    # Whisper's own lesson comes first, for so long (with `max_steps`, for as many steps as the ear's); its run is `output`/teacher.
    teacher_minutes: float = 1.5
    teacher_learning_rate: float = 2e-4
    max_minutes: float = 5.5
    learning_rate: float = 1.2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    batch_size: int = 128
    crop_seconds: float = 3.0
    # Of the classifier; what `init` has fewer of is added.
    layers: int = 5
    dropout: float = 0.1
    # Share of the batch that has no speech, and that which has lips.
    noise_share: float = 0.05
    lips_share: float = 0.2
    source_weights: dict[str, float] = field(default_factory=lambda: {
        "grid": 0.18, "read": 0.3, "voices": 0.32, "synthetic": 0.08, "foreign": 0.12})
    # Of the labels, of Whisper's opinion and features, of the clean sound's bands, of the lips.
    label_weight: float = 0.4
    teacher_weight: float = 0.6
    feature_weight: float = 0.5
    level_weight: float = 0.1
    lips_weight: float = 0.1
    class_weight_power: float = 0.25
    closure_weight: float = 1.5


@dataclass
class Batch:
    """Crops [B, N] at 16 kHz as they were recorded (`clean`) and as they are heard.

    labels: shares of visemes in the classifier's frames of the first L rows, [L, frames, 15]. levels: ln of the clean sound in bands,
    [B, frames, bands]. motion: of each performer its rows, their curves [R, frames, D] and which frames have any [R, frames].
    speech: the rows in which somebody speaks, [S].
    """

    clean: Tensor
    heard: Tensor
    labels: Tensor
    levels: Tensor
    motion: dict[str, tuple[slice, Tensor, Tensor]]
    speech: Tensor


class CropMaker:
    """Batches on the device: first what is labelled, then noise, then the performers."""

    def __init__(self, config: Config, utterances: list[Utterance], performers: dict[str, SoundReel], classifier: VisemeClassifier,
                 device: torch.device):
        self.config, self.performers, self.chance = config, performers, Chance(device)
        self.speech = SoundReel([item.samples for item in utterances], utterance_weights(utterances, config.source_weights), device,
                                segments=[item.segments for item in utterances])
        self.tunes = augmentation.music_reels(device)
        self.filters = torch.from_numpy(band_filters()).to(device)
        self.length = int(config.crop_seconds * SAMPLE_RATE)
        self.num_frames = int(classifier._get_feat_extract_output_lengths(self.length))
        self.offset, self.frame_seconds = classifier.frame_offset, classifier.hop / SAMPLE_RATE
        self.middles = self.offset + (torch.arange(self.num_frames, device=device) + 0.5) * self.frame_seconds

    def draw(self) -> Batch:
        config, chance, length = self.config, self.chance, self.length
        noisy = max(1, round(config.noise_share * config.batch_size))
        moving = round(config.lips_share * config.batch_size / max(1, len(self.performers))) if self.performers else 0
        labelled = config.batch_size - noisy - moving * len(self.performers)
        cuts = self.speech.draw(labelled, config.crop_seconds, chance)
        frames = self.num_frames, self.offset, self.frame_seconds
        silence = torch.zeros(noisy, self.num_frames, NUM_VISEMES, device=chance.device)
        silence[..., 0] = 1
        labels = torch.cat([self.speech.labels(cuts, *frames), silence])
        clean = [self.speech.sounds(cuts, length), torch.zeros(noisy, length, device=chance.device)]
        motion, first = {}, labelled + noisy
        for name, reel in self.performers.items():
            cuts = reel.draw(moving, config.crop_seconds, chance)
            clean.append(reel.sounds(cuts, length))
            motion[name] = slice(first, first + moving), *reel.motions(cuts, *frames)
            first += moving
        sounds = torch.cat(clean)
        heard = augmentation.augment(sounds, self._babble(len(sounds)), self.tunes, chance)
        heard[labelled:labelled + noisy] = self._noise(noisy)
        heard = augmentation.normalize(heard) * 10 ** (chance.uniform(-8, 6, len(heard), 1) / 20)
        heard[:labelled] *= self._gates(labels[:labelled])
        levels = augmentation.band_levels(sounds, self.filters, (self.middles * SAMPLE_RATE).round().long(), BAND_WINDOW)
        speech = torch.cat([torch.arange(labelled), torch.arange(labelled + noisy, len(heard))]).to(chance.device)
        return Batch(sounds, heard, labels, levels, motion, speech)

    def _gates(self, labels: Tensor) -> Tensor:
        """[L, N] of 0 in the pauses of some crops, as `media.loudness.hear_voice` leaves them, else 1."""
        spoken = (labels[..., 0] < 1) | ~self.chance.happens(0.3, len(labels), 1)
        first = round(self.offset * SAMPLE_RATE)
        samples = spoken.repeat_interleave(round(self.frame_seconds * SAMPLE_RATE), dim=1)
        return F.pad(samples.float(), (first, self.length - first - samples.shape[1]), value=1.0)

    def _babble(self, count: int) -> Tensor:
        return sum(self.speech.sounds(self.speech.draw(count, self.config.crop_seconds, self.chance), self.length) for _ in range(2))

    def _noise(self, count: int) -> Tensor:
        chance, length = self.chance, self.length
        noise = augmentation.coloured_noise(count, length, chance.uniform(0, 2.5, count, 1), chance)
        playing = augmentation.stretches(self.tunes, count, length, chance)
        return torch.where(chance.happens(0.3, count, 1), playing, noise) * 10 ** (-chance.uniform(10, 80, count, 1) / 20)


def utterance_weights(utterances: list[Utterance], source_weights: dict[str, float]) -> list[float]:
    """How often each is drawn: each source by its weight, its utterances by their length."""
    totals = dict.fromkeys(source_weights, 0.0)
    for item in utterances:
        totals[item.source] += len(item.samples)
    return [source_weights[item.source] * len(item.samples) / totals[item.source] for item in utterances]


class Ear(nn.Module):
    """The classifier with what only its training needs: readings of its hidden state."""

    def __init__(self, classifier: VisemeClassifier, width: int, curves: dict[str, int]):
        super().__init__()
        size = classifier.config.hidden_size
        self.classifier = classifier
        self.levels = nn.Linear(size, NUM_BANDS)
        nn.init.constant_(self.levels.bias, -2)  # about their mean
        self.features = nn.Linear(size, width)
        self.motion = nn.ModuleDict({name: nn.Conv1d(size, count, 9, padding=4) for name, count in curves.items()})

    def forward(self, sounds: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, frames, 15] and hidden state [B, frames, size]."""
        hidden = self.classifier.wav2vec2(sounds).last_hidden_state
        return self.classifier.head(self.classifier.dropout(hidden)), hidden


def grown_classifier(config: Config) -> VisemeClassifier:
    """`config.init` with layers added that as yet change nothing, or one from scratch."""
    dropouts = {name: config.dropout for name in ("hidden_dropout", "activation_dropout", "attention_dropout")}
    classifier = VisemeClassifier(VisemeClassifierConfig(num_hidden_layers=config.layers, attn_implementation="sdpa", **dropouts))
    if not config.init:
        classifier.reset_filter_bank()
        return classifier
    known = VisemeClassifier.from_pretrained(config.init)
    classifier.load_state_dict(known.state_dict(), strict=False)
    with torch.no_grad():
        for layer in classifier.wav2vec2.encoder.layers[known.config.num_hidden_layers:]:
            for linear in (layer.attention.out_proj, layer.feed_forward.output_dense):
                linear.weight.zero_()
                linear.bias.zero_()
    return classifier


def save_performances(path: Path, sounds: list[np.ndarray], motion: list[np.ndarray]) -> None:
    """Recordings (int16 [N] at 16 kHz) and how lips moved in them ([T, D] at 25 frames a second), for `Config.lips`/<performer>.npz."""
    np.savez(path, samples=np.concatenate(sounds), lengths=[len(item) for item in sounds],
             motion=np.concatenate(motion).astype(np.float16), frames=[len(item) for item in motion])


def load_performances(folder: str, device: torch.device) -> dict[str, SoundReel]:
    """A reel for every performer; curves in units of their deviation."""
    reels = {}
    for path in sorted(Path(folder).glob("*.npz")) if folder else ():
        with np.load(path) as file:
            sounds = np.split(file["samples"], np.cumsum(file["lengths"])[:-1])
            curves = file["motion"].astype(np.float32)
            std = curves.std(0)
            moving = std > 0.05 * std.max()
            curves = ((curves - curves.mean(0)) / np.maximum(std, 1e-9))[:, moving]
            motion = np.split(curves, np.cumsum(file["frames"])[:-1])
        reels[path.stem] = SoundReel(sounds, [float(len(item)) for item in sounds], device, motion=motion)
    return reels


def train_teacher(config: Config, crops: CropMaker, weights: Tensor, validation: list[Utterance]) -> WhisperTeacher:
    """Whisper's encoder, which has learnt visemes; `weights` [15] of the classes."""
    lesson = dataclasses.replace(config, output=str(Path(config.output) / "teacher"), max_minutes=config.teacher_minutes,
                                 learning_rate=config.teacher_learning_rate, ema_decay=0.995)
    teacher = WhisperTeacher.from_pretrained(config.whisper)
    # Its spectrogram and positions are good as they are.
    for part in (teacher.encoder.conv1, teacher.encoder.conv2, teacher.encoder.embed_positions):
        part.requires_grad_(False)

    def compute_losses(teacher: WhisperTeacher, progress: float) -> Losses:
        batch = crops.draw()
        labelled = len(batch.labels)
        # Half of them as recorded: that is what it will be asked about.
        sounds = torch.cat([batch.clean[:labelled // 2], batch.heard[labelled // 2:labelled]])
        return {"loss": soft_cross_entropy(teacher(sounds, crops.middles)[1], batch.labels, weights)}

    average = copy.deepcopy(teacher)
    train_loop(lesson, make_accelerator(lesson), teacher, average, compute_losses, lambda average: teacher_figures(average, validation),
               lambda average: None)
    return average


def ear_losses(ear: Ear, teacher: WhisperTeacher, batch: Batch, crops: CropMaker, weights: Tensor) -> Losses:
    config, count, speech = crops.config, len(batch.labels), batch.speech
    with torch.no_grad():
        features, told = teacher(batch.clean, crops.middles)
        features = F.layer_norm(features.float(), features.shape[-1:])
    logits, hidden = ear(batch.heard)
    told = told.float().softmax(-1)
    losses = {
        "visemes": soft_cross_entropy(logits[:count], batch.labels, weights),
        "teacher": soft_cross_entropy(logits[speech], told[speech], weights),
        "features": F.mse_loss(ear.features(hidden)[speech].float(), features[speech]),
        "levels": F.mse_loss(ear.levels(hidden).float(), batch.levels),
    }
    loss = (config.label_weight * losses["visemes"] + config.teacher_weight * losses["teacher"]
            + config.feature_weight * losses["features"] + config.level_weight * losses["levels"])
    for name, (rows, motion, known) in batch.motion.items():
        error = (ear.motion[name](hidden[rows].transpose(1, 2)).transpose(1, 2).float() - motion).square().mean(-1)
        losses[name] = (error * known).sum() / known.sum().clamp(min=1)
        loss = loss + config.lips_weight * losses[name]
    return {"loss": loss, **losses}


@torch.no_grad()
def teacher_figures(teacher: WhisperTeacher, validation: list[Utterance]) -> dict[str, float]:
    """Agreement with the labels on video frames, by source."""
    right: dict[str, list[bool]] = {}
    device = next(teacher.parameters()).device
    for item in validation:
        frames = len(item.samples) * 25 // SAMPLE_RATE
        seconds = (torch.arange(4 * frames, device=device) + 0.5) / 100
        _, logits = teacher(torch.from_numpy(item.samples).float()[None].to(device) / 32768, seconds)
        told = logits[0].float().softmax(-1).reshape(frames, 4, -1).mean(1).argmax(1).cpu().numpy()
        right.setdefault(item.source, []).extend(told == coverage(item.segments, frames, 0.04).argmax(1))
    return {source: float(np.mean(values)) for source, values in right.items()}


def without_dropout(classifier: VisemeClassifier) -> VisemeClassifier:
    """As it is saved: its configuration is for use, not for training."""
    classifier = copy.deepcopy(classifier)
    for name in ("hidden_dropout", "activation_dropout", "attention_dropout"):
        setattr(classifier.config, name, 0.0)
    return classifier


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    device, folder = accelerator.device, Path(config.data)
    utterances = [item for item in load_utterances(folder / "train.npz") if item.source in config.source_weights]
    validation = load_utterances(folder / "validation.npz")
    performers = load_performances(config.lips, device) if config.lips_weight else {}
    classifier = grown_classifier(config)
    crops = CropMaker(config, utterances, performers, classifier, device)
    weights = class_weights(utterances, config.class_weight_power, config.closure_weight).to(device)
    teacher = train_teacher(config, crops, weights, validation)
    model = Ear(classifier, teacher.width, {name: reel.motion.shape[1] for name, reel in performers.items()})

    def validate(average: Ear) -> dict[str, float]:
        scores = {source: score_visemes(average.classifier, [item for item in validation if item.source == source]).figures()
                  for source in ("grid", "read")}
        return {f"{source}_{name}": value for source in scores for name, value in scores[source].items()}

    return train_loop(config, accelerator, model, copy.deepcopy(model),
                      lambda ear, progress: ear_losses(ear, teacher, crops.draw(), crops, weights), validate,
                      lambda average: save_weights(without_dropout(average.classifier), Path(config.output) / "viseme_classifier"))
