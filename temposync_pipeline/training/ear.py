"""Stage `ear`: VisemeClassifier taught by Whisper's encoder as well as by labels, on crops made in batches.

    temposync train ear --data runs/visemes/corpus --init temposync-tiny --output runs/ear --set whisper=openai/whisper-base

The corpus is that of the stage `visemes`.  First Whisper's encoder hears all of it, and a small reading of its features learns the
visemes; what that says of clean speech, and the features, is what the classifier is to say of the same speech in any room.  So it also
learns from speech that nobody labelled: `unlabelled` (optional) are folders of it, in any language.  `lips` (optional,
`save_performances`): sounds with the lips' motion, which the hidden state then tells, too.
"""

import copy
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..data import batched_augmentation as augmentation
from ..data.arrays import read_arrays
from ..data.batched_augmentation import Chance
from ..data.sound_reel import SoundReel, Track
from ..data.sounds import load_sounds
from ..data.viseme_corpus import Utterance, load_utterances
from ..data.viseme_crops import BAND_WINDOW, NUM_BANDS, band_filters
from ..data.viseme_labels import SAMPLE_RATE, Segment, coverage
from ..errors import InvalidInputError
from ..media.video import FPS
from ..metrics.visemes import score_visemes
from ..models.viseme_classifier import VisemeClassifier, VisemeClassifierConfig
from ..models.visemes import NUM_VISEMES
from .checkpointing import save_weights
from .loop import LoopConfig, Losses, make_accelerator, train_loop
from .visemes import class_weights, soft_cross_entropy
from .whisper_teacher import TOKEN_RATE, VisemeReading, WhisperTeacher, listen_to_all

_SHORTEST_UNLABELLED = 0.5  # seconds


@dataclass
class Config(LoopConfig):
    """`data` is the corpus of the stage `visemes`, a folder with train.npz and validation.npz."""

    output: str = "runs/ear"
    # Whisper in transformers' format: a folder, or its name on the Hub.
    whisper: str = "openai/whisper-base"
    # Folder of `save_performances` files, or none.
    lips: str = ""
    # Folders of recordings (searched with all below them) whose words nobody wrote down: the source "unlabelled".
    unlabelled: list[str] = field(default_factory=list)
    # Its layer that is listened to (of base's six the fourth says most: 85 % of the frames of held-out read sentences), and how long its
    # reading learns (half a minute on a CPU core).
    whisper_layer: int = 4
    reading_steps: int = 2500
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
        "grid": 0.16, "read": 0.27, "voices": 0.29, "synthetic": 0.1, "foreign": 0.1, "syllables": 0.08, "unlabelled": 0.2})
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
    features: Whisper's, of the frames in which it heard speech, [F, width]; which frames those are: known [B, frames].
    """

    clean: Tensor
    heard: Tensor
    labels: Tensor
    levels: Tensor
    motion: dict[str, tuple[slice, Tensor, Tensor]]
    features: Tensor
    known: Tensor


class CropMaker:
    """Batches on the device: first what is labelled, then noise, then the performers."""

    def __init__(self, config: Config, utterances: list[Utterance], lessons: list[np.ndarray], performers: dict[str, SoundReel],
                 classifier: VisemeClassifier, device: torch.device):
        self.config, self.performers, self.chance = config, performers, Chance(device)
        self.speech = SoundReel([item.samples for item in utterances], utterance_weights(utterances, config.source_weights), device,
                                segments=[item.segments for item in utterances],
                                tracks={"whisper": Track(lessons, TOKEN_RATE, 0, device)})
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
        lessons = [self.speech.track("whisper", cuts, *frames)]
        lessons.append((lessons[0][0].new_zeros(noisy, self.num_frames, lessons[0][0].shape[-1]), torch.zeros_like(silence[..., 0]).bool()))
        clean = [self.speech.sounds(cuts, length), torch.zeros(noisy, length, device=chance.device)]
        motion, first = {}, labelled + noisy
        for name, reel in self.performers.items():
            cuts = reel.draw(moving, config.crop_seconds, chance)
            clean.append(reel.sounds(cuts, length))
            motion[name] = slice(first, first + moving), *reel.track("motion", cuts, *frames)
            lessons.append(reel.track("whisper", cuts, *frames))
            first += moving
        sounds = torch.cat(clean)
        heard = augmentation.augment(sounds, self._babble(len(sounds)), self.tunes, chance)
        heard[labelled:labelled + noisy] = self._noise(noisy)
        heard = augmentation.normalize(heard) * 10 ** (chance.uniform(-8, 6, len(heard), 1) / 20)
        heard[:labelled] *= self._gates(labels[:labelled])
        levels = augmentation.band_levels(sounds, self.filters, (self.middles * SAMPLE_RATE).round().long(), BAND_WINDOW)
        features, known = (torch.cat(values) for values in zip(*lessons))
        return Batch(sounds, heard, labels, levels, motion, features[known], known)

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


def load_performances(folder: str, teacher: WhisperTeacher, device: torch.device) -> dict[str, SoundReel]:
    """A reel for every performer; curves in units of their deviation."""
    reels = {}
    for path in sorted(Path(folder).glob("*.npz")) if folder else ():
        file = read_arrays(path, "samples", "lengths", "motion", "frames")
        sounds = np.split(file["samples"], np.cumsum(file["lengths"])[:-1])
        curves = file["motion"].astype(np.float32)
        std = curves.std(0)
        moving = std > 0.05 * std.max()
        curves = ((curves - curves.mean(0)) / np.maximum(std, 1e-9))[:, moving]
        motion = np.split(curves, np.cumsum(file["frames"])[:-1])
        lessons = listen_to_all(teacher, sounds, path.stem)
        reels[path.stem] = SoundReel(sounds, [float(len(item)) for item in sounds], device, tracks={
            "motion": Track(motion, FPS, 0.5, device), "whisper": Track(lessons, TOKEN_RATE, 0, device)})
    return reels


def train_reading(config: Config, utterances: list[Utterance], lessons: list[np.ndarray], weights: Tensor) -> VisemeReading:
    """Visemes read in Whisper's features `lessons` ([tokens, width] of each utterance); `weights` [15] of the classes."""
    device = weights.device
    features = torch.from_numpy(np.concatenate(lessons))
    labels = torch.from_numpy(np.concatenate([token_labels(item, len(values)) for item, values in zip(utterances, lessons)]))
    counts = torch.tensor([len(values) for values in lessons])
    chances = torch.tensor(utterance_weights(utterances, config.source_weights), dtype=torch.float64)
    firsts = counts.cumsum(0) - counts
    reading = VisemeReading(features.shape[1]).to(device)
    optimizer = torch.optim.AdamW(reading.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, config.reading_steps + 1)
    for _ in tqdm(range(config.reading_steps), desc="Visemes in Whisper's features"):
        index = torch.multinomial(chances, 512, replacement=True)
        place = firsts[index] + (torch.rand(len(index)) * counts[index]).long()
        logits = reading(features[place].float().to(device))
        soft_cross_entropy(logits, labels[place].to(device), weights).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return reading.requires_grad_(False).eval()


def unlabelled_utterances(folder: Path) -> list[Utterance]:
    """The recordings of a folder (`load_sounds`), without segments as yet."""
    return [Utterance(f"{folder.name}_{number}", "unlabelled", samples, [])
            for number, samples in enumerate(load_sounds(folder, _SHORTEST_UNLABELLED))]


@torch.no_grad()
def labelled_by(reading: VisemeReading, items: list[Utterance], lessons: list[np.ndarray]) -> list[Utterance]:
    """With segments of the viseme that is most likely in each token, by what `reading` says of its features `lessons`, [tokens, width] of
    each of the items."""
    device = next(reading.parameters()).device
    labelled = []
    for item, features in zip(items, lessons):
        visemes = reading(torch.from_numpy(features).float().to(device)).argmax(-1).tolist()
        segments = [Segment((token - 0.5) / TOKEN_RATE, (token + 0.5) / TOKEN_RATE, viseme) for token, viseme in enumerate(visemes)]
        labelled.append(item._replace(segments=segments))
    return labelled


def token_labels(item: Utterance, count: int) -> np.ndarray:
    """Share of each viseme around the times of Whisper's tokens, [count, 15]."""
    return coverage(item.segments, count, 1 / TOKEN_RATE, -0.5 / TOKEN_RATE)


@torch.no_grad()
def reading_figures(reading: VisemeReading, teacher: WhisperTeacher, validation: list[Utterance]) -> dict[str, float]:
    """Agreement with the labels at the times of the tokens, by source."""
    right: dict[str, list[bool]] = {}
    for item in validation:
        features = torch.from_numpy(teacher.listen(item.samples)).float()
        told = reading(features.to(teacher.filters.device)).argmax(-1).cpu().numpy()
        right.setdefault(item.source, []).extend(told == token_labels(item, len(told)).argmax(1))
    return {f"whisper_{source}_accuracy": float(np.mean(values)) for source, values in right.items()}


def ear_losses(ear: Ear, reading: VisemeReading, batch: Batch, crops: CropMaker, weights: Tensor) -> Losses:
    config, count, known = crops.config, len(batch.labels), batch.known
    logits, hidden = ear(batch.heard)
    told = reading(batch.features).float().softmax(-1)
    losses = {
        "visemes": soft_cross_entropy(logits[:count], batch.labels, weights),
        "teacher": soft_cross_entropy(logits[known], told, weights),
        "features": F.mse_loss(ear.features(hidden[known]).float(), batch.features),
        "levels": F.mse_loss(ear.levels(hidden).float(), batch.levels),
    }
    loss = (config.label_weight * losses["visemes"] + config.teacher_weight * losses["teacher"]
            + config.feature_weight * losses["features"] + config.level_weight * losses["levels"])
    for name, (rows, motion, known) in batch.motion.items():
        error = (ear.motion[name](hidden[rows].transpose(1, 2)).transpose(1, 2).float() - motion).square().mean(-1)
        losses[name] = (error * known).sum() / known.sum().clamp(min=1)
        loss = loss + config.lips_weight * losses[name]
    return {"loss": loss, **losses}


def without_dropout(classifier: VisemeClassifier) -> VisemeClassifier:
    """As it is saved: its configuration is for use, not for training."""
    classifier = copy.deepcopy(classifier)
    for name in ("hidden_dropout", "activation_dropout", "attention_dropout"):
        setattr(classifier.config, name, 0.0)
    return classifier


def train(config: Config) -> dict[str, float]:
    if config.unlabelled and not config.source_weights.get("unlabelled"):
        raise InvalidInputError("unlabelled: source_weights does not say how often it is drawn")
    unlabelled = [item for path in config.unlabelled for item in unlabelled_utterances(Path(path))]
    accelerator = make_accelerator(config)
    device, folder = accelerator.device, Path(config.data)
    utterances = [item for item in load_utterances(folder / "train.npz") if item.source in config.source_weights]
    validation = load_utterances(folder / "validation.npz")
    teacher = WhisperTeacher.from_pretrained(config.whisper, config.whisper_layer).to(device)
    lessons = listen_to_all(teacher, [item.samples for item in utterances], "the corpus")
    more_lessons = listen_to_all(teacher, [item.samples for item in unlabelled], "what has no labels")
    performers = load_performances(config.lips, teacher, device) if config.lips_weight else {}
    classifier = grown_classifier(config)
    weights = class_weights(utterances, config.class_weight_power, config.closure_weight).to(device)
    reading = train_reading(config, utterances, lessons, weights)
    utterances += labelled_by(reading, unlabelled, more_lessons)
    crops = CropMaker(config, utterances, lessons + more_lessons, performers, classifier, device)
    print({name: round(value, 3) for name, value in reading_figures(reading, teacher, validation).items()}, file=sys.stderr)
    model = Ear(classifier, teacher.width, {name: reel.tracks["motion"].values.shape[1] for name, reel in performers.items()})

    def validate(average: Ear) -> dict[str, float]:
        scores = {source: score_visemes(average.classifier, [item for item in validation if item.source == source]).figures()
                  for source in ("grid", "read")}
        return {f"{source}_{name}": value for source in scores for name, value in scores[source].items()}

    return train_loop(config, accelerator, model, copy.deepcopy(model),
                      lambda ear, progress: ear_losses(ear, reading, crops.draw(), crops, weights), validate,
                      lambda average: save_weights(without_dropout(average.classifier), Path(config.output) / "viseme_classifier"))
