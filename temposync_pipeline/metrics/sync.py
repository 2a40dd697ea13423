"""Proxies of SyncNet's LSE-D, LSE-C and offset (Chung and Zisserman 2016; Prajwal et al., "A lip sync expert", 2020) by our SyncExpert.

The numbers are not comparable with SyncNet's: another network, unit vectors.  They compare rows of one table.
"""

import numpy as np
import torch
from torch.nn import functional as F

from ..data.sync_corpus import SyncClip
from ..data.sync_sampler import cut_speech
from ..errors import InvalidInputError
from ..models.sync_expert import SAMPLES_PER_FRAME, SyncExpert, offset_distances
from ..models.viseme_classifier import normalize_loudness

MAX_OFFSET = 15
WINDOW = 25
SHIFT = 5
# A frame is speech where its power lies within 20 dB of the loudest frame's.
_SPEECH_DECIBEL = 20.0


@torch.inference_mode()
def sync_curve(expert: SyncExpert, latents: torch.Tensor, samples: np.ndarray, max_offset: int = MAX_OFFSET) -> np.ndarray:
    """Mean distance [2·max_offset + 1] of mouths to the speech `offset` frames earlier, for offset in -max_offset … max_offset.

    latents [T, C, 10, 12] of all frames at 25 a second (`models.conditioning.latent_window`); samples [N] at 16 kHz from frame 0 on.
    Each mean is over the frames that have a partner.  Raises InvalidInputError for fewer than `max_offset` + 10 frames with sound.
    """
    length, heard = len(latents), len(samples) // SAMPLES_PER_FRAME
    if min(length, heard) < max_offset + 10:
        raise InvalidInputError(f"synchrony needs at least {max_offset + 10} frames with sound, got {min(length, heard)}")
    speech = torch.from_numpy(cut_speech(normalize_loudness(samples), 0, length))
    speech = F.pad(expert.embed_speech(speech[None].to(expert.device)), (0, 0, max_offset, max_offset))
    distances = offset_distances(expert.embed_mouth(latents[None].to(expert.device, expert.dtype)), speech, max_offset)[0].cpu().numpy()
    partner = np.arange(length) - np.arange(-max_offset, max_offset + 1)[:, None]
    return np.array([row[inside].mean() for row, inside in zip(distances, (partner >= 0) & (partner < heard))])


def sync_figures(expert: SyncExpert, latents: torch.Tensor, samples: np.ndarray, max_offset: int = MAX_OFFSET) -> dict[str, float]:
    """Three figures of a clip, arguments as in `sync_curve`.

    `proxy_lse_d` is the smallest mean distance over the offsets, in [0, 2], lower = lips fit the speech; `proxy_lse_c` the median minus
    the smallest, higher = surer; `offset` the offset of the smallest in frames, > 0: the lips come late.
    """
    curve = sync_curve(expert, latents, samples, max_offset)
    return {"proxy_lse_d": float(curve.min()), "proxy_lse_c": float(np.median(curve) - curve.min()),
            "offset": int(curve.argmin()) - max_offset}


def _frames_with_sound(clip: SyncClip) -> int:
    return min(len(clip.latents), len(clip.samples) // SAMPLES_PER_FRAME - clip.start)


def _windows(clip: SyncClip) -> tuple[torch.Tensor, list[torch.Tensor], np.ndarray]:
    """All one-second windows whose shifted partners exist too: latents [W, 25, C, 10, 12], speech [W, 25·640] in sync, `SHIFT` frames
    later and earlier, and which windows hold at least half a second of speech."""
    starts = range(SHIFT, _frames_with_sound(clip) - WINDOW - SHIFT + 1)
    speech = [torch.from_numpy(np.stack([cut_speech(clip.samples, clip.start + start + shift, WINDOW) for start in starts]))
              for shift in (0, SHIFT, -SHIFT)]
    power = np.square(cut_speech(clip.samples, 0, len(clip.samples) // SAMPLES_PER_FRAME)).reshape(-1, SAMPLES_PER_FRAME).mean(1)
    spoken = np.stack([(power > power.max() * 10 ** (-_SPEECH_DECIBEL / 10))[clip.start + start:][:WINDOW] for start in starts])
    return torch.stack([clip.latents[start:start + WINDOW] for start in starts]), speech, spoken.mean(1) >= 0.5


@torch.inference_mode()
def window_accuracy(expert: SyncExpert, clips: list[SyncClip]) -> dict[str, float]:
    """Share of one-second windows in which speech in sync lies closer to the mouth than speech five frames off.

    Nothing outside the window is seen or heard.  `all_pairs` counts the comparisons with later and with earlier speech one by one
    (chance 0.5), `all_both` the windows that win both (chance 1/3); `speech_*` are of the windows with at least half a second of
    speech, the others being hard to judge for anyone.  `windows` and `speech_windows` count them.  Clips too short for a window and its
    shifted partners are left out; raises InvalidInputError where nothing is left.
    """
    clips = [clip for clip in clips if _frames_with_sound(clip) >= WINDOW + 2 * SHIFT]
    if not clips:
        raise InvalidInputError(f"no clip of at least {WINDOW + 2 * SHIFT} frames with sound")
    wins, spoken = [], []
    for clip in clips:
        latents, speech, has_speech = _windows(clip)
        mouth = expert.embed_mouth(latents.to(expert.device, expert.dtype))
        in_sync, later, earlier = ((mouth - expert.embed_speech(samples.to(expert.device))).norm(dim=-1).mean(1) for samples in speech)
        wins.append(torch.stack([in_sync < later, in_sync < earlier], 1).cpu().numpy())
        spoken.append(has_speech)
    won, spoken = np.concatenate(wins), np.concatenate(spoken)
    figures = {"windows": len(won), "speech_windows": int(spoken.sum())}
    for name, part in (("all", won), ("speech", won[spoken])):
        figures |= {f"{name}_later": part[:, 0].mean(), f"{name}_earlier": part[:, 1].mean(), f"{name}_pairs": part.mean(),
                    f"{name}_both": part.all(1).mean()}
    return {name: float(value) for name, value in figures.items()}
