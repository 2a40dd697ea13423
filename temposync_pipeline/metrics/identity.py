"""Is it still the same person?  Figures of our own identity encoder, hence `proxy_` before the field's name CSIM."""

import numpy as np
import torch

from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.identity_encoder import IdentityEncoder


@torch.inference_mode()
def embed_crops(encoder: IdentityEncoder, vae: AutoencoderTempoSync, crops: np.ndarray, batch_size: int = 8) -> np.ndarray:
    """Unit vectors float32 [N, D] of aligned crops uint8 [N, 256, 256, 3] in RGB."""
    embeddings = []
    for start in range(0, len(crops), batch_size):
        pixels = torch.from_numpy(np.ascontiguousarray(crops[start:start + batch_size])).permute(0, 3, 1, 2)
        latents = vae.encode(pixels.to(vae.device, vae.dtype).div(127.5).sub(1)).latent
        embeddings.append(encoder(latents.to(encoder.device, encoder.dtype)).float().cpu())
    return torch.cat(embeddings).numpy()


def proxy_csim(encoder: IdentityEncoder, vae: AutoencoderTempoSync, frames: np.ndarray, reference: np.ndarray) -> float:
    """CSIM with our own encoder: mean over frames of cos(E_id(frame), E_id(reference)), in [-1, 1], 1 = the same face.

    CSIM proper uses ArcFace, and its values cannot be compared with these.  Read it beside two rows: the real frames of the same
    clip (the ceiling) and another person's (the floor).

    Args:
        frames: aligned crops, uint8 [T, 256, 256, 3].
        reference: the aligned crop of the portrait, uint8 [256, 256, 3].
    """
    embeddings = embed_crops(encoder, vae, np.concatenate([np.asarray(reference)[None], frames]))
    return float((embeddings[1:] @ embeddings[0]).mean())


def roc_auc(same: np.ndarray, different: np.ndarray) -> float:
    """Area under the ROC curve: P(a same-person pair scores above a different-person pair), ties count half; 0.5 = chance."""
    scores = np.concatenate([same, different])
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Mean rank of tied scores (Mann-Whitney U).
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse[:len(same)]]
    return float((ranks.sum() - len(same) * (len(same) + 1) / 2) / (len(same) * len(different)))


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """Error at the threshold where as many same-person pairs are rejected as different-person pairs accepted; 0.5 = chance."""
    thresholds = np.sort(np.concatenate([same, different]))
    rejected = np.searchsorted(np.sort(same), thresholds, side="left") / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), thresholds, side="left") / len(different)
    crossing = np.abs(rejected - accepted).argmin()
    return float((rejected[crossing] + accepted[crossing]) / 2)


def rank_one(similarity: np.ndarray, same_person: np.ndarray, comparable: np.ndarray) -> float:
    """Share of probes whose most similar comparable picture shows the same person.

    All [N, N]: cosine similarities, whether two pictures show one person, and which pairs count (not a picture with itself, not two
    frames of one recording).  Probes without a comparable picture of the same person are left out.
    """
    answerable = (same_person & comparable).any(1)
    nearest = np.where(comparable, similarity, -np.inf).argmax(1)
    return float(same_person[np.arange(len(nearest)), nearest][answerable].mean())
