"""Speech to visemes: a small wav2vec 2.0 with a frame head, or a Hub CTC phoneme recogniser read through an IPA map."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..bases import ModelOutput, PreTrainedModel, Wav2Vec2Config, Wav2Vec2Model, Wav2Vec2PreTrainedModel, strict
from ..checkpoints.schema import read_json
from ..errors import InvalidInputError
from ..media.loudness import hear_voice, normalize_loudness
from ..terminal import shown
from .devices import execution_device
from .visemes import NUM_VISEMES, VISEME_INDEX, VISEMES, ipa_parts

__all__ = ["Hearing", "PreTrainedModel", "VISEMES", "VisemeClassifier", "VisemeClassifierConfig", "VisemeOutput", "joined",
           "normalize_loudness", "warn_without_speech"]

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
# Long audio is read in windows whose margins are thrown away, so that memory does not grow and no seam shows.
_CHUNK_SECONDS, _MARGIN_SECONDS = 8.0, 1.0
# Of a recording that takes several of them the first is short: somebody waits for it.
_FIRST_SECONDS = 2.0
TAPS = 4  # moments of a video frame whose mean it gets
# CTC fires once per phone: an emission is held over the blanks around it with this decay, and gives way to silence after
# the pause length.
_HOLD_SECONDS, _PAUSE_SECONDS = 0.05, 0.25


@strict
@dataclass(repr=False)
class VisemeClassifierConfig(Wav2Vec2Config):
    """Wav2Vec2Config of a small model (0.02 s hop) that learns from scratch on a CPU.

    num_visemes: classes of the output.
    phoneme_tokens: for a CTC recogniser, its vocabulary in the order of its ids; None for a model with a viseme head.
    conv_kernel and conv_stride: three layers instead of seven, the first one a filter bank (mel-spaced at initialisation), which
    learns faster from little data and costs a third of the usual stack.
    """

    model_type = "temposync_viseme_classifier"

    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 640
    hidden_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    final_dropout: float | int = 0.1
    layerdrop: float | int = 0.0
    feat_extract_norm: str = "layer"
    conv_dim: list[int] | tuple[int, ...] = (64, 128, 192)
    conv_stride: list[int] | tuple[int, ...] = (32, 5, 2)
    conv_kernel: list[int] | tuple[int, ...] = (256, 10, 4)
    feat_extract_activation: str = "relu"
    conv_bias: bool = True
    num_conv_pos_embeddings: int = 31
    num_conv_pos_embedding_groups: int = 12
    do_stable_layer_norm: bool = True
    apply_spec_augment: bool = False
    num_visemes: int = NUM_VISEMES
    phoneme_tokens: list[str] | None = None


@dataclass
class VisemeOutput(ModelOutput):
    """logits [B, frames, 15], or [B, frames, vocabulary] for a CTC recogniser; hidden [B, frames, hidden_size], what they are read from."""

    logits: torch.Tensor | None = None
    hidden: torch.Tensor | None = None


@dataclass
class Hearing:
    """What was heard during each of T video frames, float32.

    visemes: probabilities, [T, 15]. hidden: the classifier's hidden state, [T, hidden_size]. loudness: ln of the root mean square of the
    sound as the classifier gets it (`normalize_loudness`), [T].
    """

    visemes: np.ndarray
    hidden: np.ndarray
    loudness: np.ndarray

    def __getitem__(self, frames: slice) -> "Hearing":
        return Hearing(self.visemes[frames], self.hidden[frames], self.loudness[frames])


def joined(pieces: Sequence[Hearing]) -> Hearing:
    """What was heard piece by piece."""
    return Hearing(*(np.concatenate([getattr(piece, track) for piece in pieces]) for track in ("visemes", "hidden", "loudness")))


def warn_without_speech(name: str, visemes: np.ndarray) -> None:
    """Say so in one line if probabilities [T, 15] never call for anything but closed lips; `name` is what messages call the recording."""
    if (visemes.argmax(1) == VISEME_INDEX["sil"]).all():
        logger.warning("%s: no speech was heard in it; the lips will rest", name)


def mel_filter_bank(num_filters: int, length: int) -> torch.Tensor:
    """Gabor filters in cosine/sine pairs, mel-spaced from 80 Hz to 7.4 kHz: float32 [num_filters, length].

    A rectified pair, smoothed by the next layer, is close to a band of a mel spectrogram.  The gain puts speech of unit
    variance well above the epsilon of the layer norm that follows and its pauses below, so that the norm keeps silence small.
    """
    pairs = num_filters // 2
    mel = np.linspace(1127 * math.log1p(80 / 700), 1127 * math.log1p(7400 / 700), pairs + 2)
    hertz = 700 * np.expm1(mel / 1127)
    centre, width = hertz[1:-1], (hertz[2:] - hertz[:-2]) / 2
    time = (np.arange(length) - (length - 1) / 2) / SAMPLE_RATE
    # No filter longer than the kernel, i.e. none narrower than it can resolve.
    sigma = np.minimum(0.5 / width, length / SAMPLE_RATE / 5)
    envelope = np.exp(-0.5 * (time / sigma[:, None]) ** 2)
    envelope /= np.sqrt((envelope**2).sum(1, keepdims=True))
    phase = 2 * np.pi * centre[:, None] * time
    bank = np.stack([np.cos(phase), np.sin(phase)], 1).reshape(2 * pairs, length) * np.repeat(envelope, 2, 0)
    return torch.from_numpy(0.05 * bank).float()


class VisemeClassifier(Wav2Vec2PreTrainedModel):
    """Waveform [B, N] (16 kHz, loudness-normalised) to viseme logits every 20 ms; `predict` gives them per video frame."""

    config: VisemeClassifierConfig
    config_class = VisemeClassifierConfig

    def __init__(self, config: VisemeClassifierConfig):
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.dropout = nn.Dropout(config.final_dropout)
        self.head = nn.Linear(config.hidden_size, len(config.phoneme_tokens) if config.phoneme_tokens else config.num_visemes)
        self.post_init()

    @torch.no_grad()
    def reset_filter_bank(self) -> None:
        """Start the first convolution as `mel_filter_bank`: from there a small corpus suffices, from noise it does not."""
        conv = self.wav2vec2.feature_extractor.conv_layers[0].conv
        conv.weight.zero_()
        bank = mel_filter_bank(conv.out_channels, conv.kernel_size[0])
        conv.weight[: len(bank), 0].copy_(bank)
        conv.bias.zero_()

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> VisemeOutput:
        hidden = self.wav2vec2(input_values, attention_mask=attention_mask).last_hidden_state
        return VisemeOutput(logits=self.head(self.dropout(hidden)), hidden=hidden)

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return math.prod(self.config.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples one frame of the convolutional encoder sees; frame n is centred on sample n * hop + (receptive_field - 1) / 2."""
        field, stride = 1, 1
        for kernel, step in zip(self.config.conv_kernel, self.config.conv_stride):
            field += (kernel - 1) * stride
            stride *= step
        return field

    @property
    def frame_offset(self) -> float:
        """Seconds from the start of the waveform to the start of frame 0's own 20 ms, which surround its centre."""
        return ((self.receptive_field - self.hop) / 2) / SAMPLE_RATE

    # --- inference ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, samples: np.ndarray, num_frames: int, fps: float = 25, voice_only: bool = True) -> np.ndarray:
        """P(viseme) per video frame, float32 [num_frames, 15]: the mean over each frame's own time, i / fps to (i + 1) / fps.

        samples: float [N], 16 kHz mono.  Frames beyond the end of the audio, and digital silence, are `sil`, and so is all in which
        nobody speaks (`media.voice_activity`), unless `voice_only` is False: then anything is taken for a voice.
        Raises ValueError for samples that are not one-dimensional or not finite.
        """
        return self.hear(samples, num_frames, fps, voice_only).visemes

    def hear(self, samples: np.ndarray, num_frames: int, fps: float = 25, voice_only: bool = True) -> Hearing:
        """All that is heard in a recording, by the arguments of `predict`."""
        return joined(list(self.listen(samples, num_frames, fps, voice_only)))

    @torch.no_grad()
    def listen(self, samples: np.ndarray, num_frames: int, fps: float = 25, voice_only: bool = True) -> Iterator[Hearing]:
        """`hear`, piece by piece: what is heard in the next few seconds, as soon as it is."""
        samples = np.asarray(samples)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise ValueError("samples must be one-dimensional and finite")
        # Half a receptive field on each side: the first and last 20 ms get frames of their own.
        pad = self.receptive_field // 2
        voice = hear_voice(samples) if voice_only else normalize_loudness(samples)
        signal = np.pad(voice, (pad, pad + self.hop))
        total = (len(signal) - self.receptive_field) // self.hop + 1
        times = np.arange(total) * self.hop / SAMPLE_RATE + ((self.receptive_field - 1) / 2 - pad) / SAMPLE_RATE
        silent = _digitally_silent(samples, times, self.hop) | _digitally_silent(voice, times, self.hop)
        del voice  # as long as the recording, and no longer needed while it is listened to
        loudness = _frame_loudness(signal, self.hop, self.receptive_field)
        silence = np.eye(NUM_VISEMES, dtype=np.float32)[0]
        known, begin, done = 0, 0, 0  # windows up to `known` and video frames up to `done`; of the windows from `begin` on more is to come
        kept = None
        for new in self._viseme_windows(signal):
            new[0][silent[known:known + len(new[0])]] = silence
            known += len(new[0])
            probabilities, hidden = new if kept is None else (np.concatenate(pair) for pair in zip(kept, new))
            end = num_frames if known == total else min(num_frames, max(done, _frames_within(times[known - 1], fps)))
            frames, near = range(done, end), times[begin:known]
            yield Hearing(
                _to_video_frames(probabilities, near, frames, fps, len(samples) / SAMPLE_RATE, silence),
                _to_video_frames(hidden, near, frames, fps), _to_video_frames(loudness[begin:known, None], near, frames, fps)[:, 0])
            gone = max(0, int(np.searchsorted(near, end / fps)) - 1)
            kept, begin, done = (probabilities[gone:], hidden[gone:]), begin + gone, end

    def _viseme_windows(self, signal: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Probabilities of visemes [frames, 15] and hidden state [frames, hidden_size] of a padded, normalised signal, some at a time."""
        outputs = self._window_outputs(signal)
        if self.config.phoneme_tokens:  # an emission holds over a long blank
            tokens, hidden = (torch.cat(values) for values in zip(*outputs))
            outputs = iter([(hold_emissions(tokens @ self._token_visemes().to(tokens), self.hop / SAMPLE_RATE), hidden)])
        for probabilities, hidden in outputs:
            yield probabilities.cpu().numpy(), hidden.cpu().numpy()

    def _window_outputs(self, signal: np.ndarray) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Probabilities [frames, classes] and hidden state [frames, hidden_size] of a padded, normalised signal, window by window."""
        chunk, margin, begin = (int(seconds * SAMPLE_RATE) // self.hop for seconds in (_CHUNK_SECONDS, _MARGIN_SECONDS, _FIRST_SECONDS))
        total = (len(signal) - self.receptive_field) // self.hop + 1
        for start, end in pairwise([0, *range(begin if total > chunk else chunk, total, chunk), total]):
            first, last = max(0, start - margin), min(total, end + margin)
            window = signal[first * self.hop : (last - 1) * self.hop + self.receptive_field]
            if was_training := self.training:
                self.eval()
            output = self(torch.from_numpy(window)[None].to(execution_device(self), self.dtype))
            if was_training:
                self.train()
            own = slice(start - first, end - first)
            yield output.logits[0, own].float().softmax(-1), output.hidden[0, own].float()

    # --- CTC phoneme recognisers --------------------------------------------------------------------------------------

    @classmethod
    def from_ctc_checkpoint(cls, path_or_id: str, use_safetensors: bool | None = True, **kwargs) -> "VisemeClassifier":
        """A `Wav2Vec2ForCTC` phoneme recogniser (IPA vocabulary in `vocab.json`), e.g. facebook/wav2vec2-lv-60-espeak-cv-ft.

        use_safetensors: None also accepts a checkpoint that exists as a pickle only; transformers then reads tensors and nothing else.
        kwargs go to the loaders of transformers and huggingface_hub (`revision`, `cache_dir`, `local_files_only`, ...).
        Raises ValueError where no token of the vocabulary is a phoneme we know.
        """
        from transformers import Wav2Vec2ForCTC
        from transformers.utils import cached_file

        recogniser = Wav2Vec2ForCTC.from_pretrained(path_or_id, use_safetensors=use_safetensors, **kwargs)
        vocabulary = read_json(Path(cached_file(path_or_id, "vocab.json", **kwargs)))
        tokens = [""] * recogniser.config.vocab_size
        for token, index in vocabulary.items():
            if type(index) is not int or not 0 <= index < len(tokens):
                raise InvalidInputError(f"vocab.json: {shown(token)} is {shown(index)}, expected a number below {len(tokens)}")
            tokens[index] = token
        own = ("model_type", "architectures", "_name_or_path")
        settings = {key: value for key, value in recogniser.config.to_dict().items() if key not in own}
        model = cls(VisemeClassifierConfig(**settings | {"phoneme_tokens": tokens}))
        if not model._token_visemes().any():
            raise ValueError(f"{path_or_id}: the vocabulary holds no IPA phonemes")
        model.wav2vec2.load_state_dict(recogniser.wav2vec2.state_dict())
        model.head.load_state_dict(recogniser.lm_head.state_dict())
        return model.eval()

    def _token_visemes(self) -> torch.Tensor:
        """[vocabulary, 15]: each phoneme's viseme shares; zero rows for blank, special tokens and aspirates."""
        table = torch.zeros(len(self.config.phoneme_tokens), NUM_VISEMES)
        for index, token in enumerate(self.config.phoneme_tokens):
            if token == "|":
                table[index, VISEME_INDEX["sil"]] = 1
            elif not (token.startswith("<") or index == self.config.pad_token_id):
                for viseme, share in ipa_parts(token):
                    table[index, VISEME_INDEX[viseme]] += share
        return table


def hold_emissions(emissions: torch.Tensor, frame_seconds: float) -> torch.Tensor:
    """Viseme probabilities from CTC emissions [frames, 15] whose rows sum to 1 minus the blank's probability.

    CTC marks a phone with one spike and writes blanks around it.  Each frame takes the emissions e_s near it, weighted by
    exp(-|t - s| / h): in effect the nearest one is held.  Silence enters with the weight an emission has at a distance of the
    pause length, so that long blanks become silence.
    """
    reach = math.ceil(2 * _PAUSE_SECONDS / frame_seconds)
    distance = torch.arange(-reach, reach + 1, device=emissions.device).abs() * frame_seconds
    kernel = torch.exp(-distance / _HOLD_SECONDS).expand(emissions.shape[1], 1, -1)
    held = F.conv1d(emissions.T[None], kernel.to(emissions.dtype), padding=reach, groups=emissions.shape[1])[0].T
    held[:, 0] += math.exp(-_PAUSE_SECONDS / _HOLD_SECONDS)
    return held / held.sum(-1, keepdim=True)


def _digitally_silent(samples: np.ndarray, times: np.ndarray, hop: int) -> np.ndarray:
    """Frames whose own `hop` samples are all the same value (or lie outside the audio); a bool per time in `times`."""
    changes = np.concatenate([[0], np.cumsum(np.abs(np.diff(samples.astype(np.float32), prepend=samples[:1])) > 1e-7)])
    first = np.clip(np.round(times * SAMPLE_RATE - hop / 2).astype(int), 0, len(samples))
    last = np.clip(np.round(times * SAMPLE_RATE + hop / 2).astype(int), 0, len(samples))
    return changes[last] == changes[first]


def _frame_loudness(signal: np.ndarray, hop: int, length: int) -> np.ndarray:
    """ln of the root mean square of each `length` samples of a signal, one every `hop`, not below that of -60 dB; float32 [frames]."""
    energy = np.concatenate([[0], np.cumsum(signal.astype(np.float64) ** 2)])
    first = np.arange(0, len(signal) - length + 1, hop)
    return (0.5 * np.log(np.maximum((energy[first + length] - energy[first]) / length, 1e-6))).astype(np.float32)


def _frames_within(seconds: float, fps: float) -> int:
    """How many video frames' means `_to_video_frames` takes of values up to that moment."""
    return max(0, math.floor(seconds * fps - (TAPS - 0.5) / TAPS) + 1)


def _to_video_frames(
    values: np.ndarray, times: np.ndarray, frames: range, fps: float, duration: float = math.inf, silence: np.ndarray | None = None
) -> np.ndarray:
    """Mean of the linear interpolation of `values` [N, C] at `times` [N] over each of the video frames, [n, C]; `silence` [C] after
    `duration` seconds."""
    wanted = (np.asarray(frames)[:, None] + (np.arange(TAPS) + 0.5) / TAPS).reshape(-1) / fps
    right = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    span = np.maximum(times[right] - times[left], 1e-9)
    weight = np.clip((wanted - times[left]) / span, 0, 1)[:, None]
    taken = (1 - weight) * values[left] + weight * values[right]
    if silence is not None:
        taken[wanted > duration] = silence
    return taken.reshape(len(frames), TAPS, values.shape[1]).mean(1).astype(np.float32)
