"""What the evaluation hears in a clip: sound that comes in time, what a linear map makes of it, and when the lips must be shut."""

from dataclasses import dataclass, field

import numpy as np

from ..data.clips import load_sound
from ..data.manifest import Clip
from ..errors import InvalidInputError
from ..face.landmarks import lip_opening
from ..media.audio import SAMPLE_RATE
from ..media.video import FPS
from ..models.viseme_classifier import VisemeClassifier
from .closures import Span, find_closures
from .linear_baseline import LinearBaseline
from .offset import OffsetEstimator
from .talking_face import Figures, opening_figures


@dataclass
class Voice:
    """A clip's sound: float32 [N] at 16 kHz from its first frame on, moved by `offset`, the seconds that it was late (None: unknown); when
    p, b and m are spoken, and why that is not known."""

    samples: np.ndarray
    offset: float | None = None
    closures: list[Span] = field(default_factory=list)
    note: str | None = None

    @property
    def source(self) -> tuple[np.ndarray, int]:
        """As the pipeline takes it."""
        return self.samples, SAMPLE_RATE


@dataclass
class Listener:
    """Reads voices.

    Args:
        classifier: what `baselines`, by what they read, and `offsets` listen with; without `offsets` the sound is taken as it is.
        aligns: whether p, b and m are looked for.
    """

    classifier: VisemeClassifier | None = None
    baselines: dict[str, LinearBaseline] = field(default_factory=dict)
    offsets: OffsetEstimator | None = None
    aligns: bool = False

    def read(self, clip: Clip, landmarks: np.ndarray) -> Voice:
        """The voice of a clip whose real landmarks are [T, 131, 2]."""
        if self.offsets is not None:
            clip = self.offsets.correct(clip, landmarks)
        samples = load_sound(clip)
        # What comes after the pictures cannot be judged by them.
        voice = Voice(samples[:len(landmarks) * SAMPLE_RATE // FPS], clip.offset)
        try:
            voice.closures = find_closures(clip, samples) if self.aligns else []
        except InvalidInputError as error:
            voice.note = str(error)
        return voice

    def baseline_rows(self, voice: Voice, landmarks: np.ndarray) -> dict[str, Figures]:
        """A row for each linear baseline: how the lip opening that it expects follows that of real landmarks [T, 131, 2]."""
        if not self.baselines:
            return {}
        hearing = self.classifier.hear(voice.samples, len(landmarks), FPS)
        heard = min(len(landmarks), len(voice.samples) * FPS // SAMPLE_RATE)
        return {f"linear_baseline_{reads}": opening_figures(baseline.predict(hearing)[:heard], lip_opening(landmarks))
                for reads, baseline in self.baselines.items()}
