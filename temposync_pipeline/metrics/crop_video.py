"""Videos of the aligned crop: the ways in which a row of the evaluation's table comes to its pictures.

Everything is generated as latents of the mouth's block, and the block alone is decoded: teacher, student and the real frames' own
latents thus pass the same decoder, and what differs between rows is the latents.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import FaceError, InvalidInputError
from ..face.crop import align_matrix, crop_face, mouth_mask, smooth_matrices
from ..media.audio import AudioSource, load_audio
from ..media.footage import Footage
from ..media.video import FPS
from ..models.autoencoder_temporal import FRAMES
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.conditioning import encode_crops, latent_window
from ..models.identity_encoder import IdentityEncoder
from ..pipelines import rendering
from ..pipelines.talking_head import TalkingHeadPipeline
from .optional_components import load_optional
from .talking_face import generated_block
from .whole_face import steadied

BATCH = 16
# Whose networks judge the videos of a checkpoint that has none of its own.
JUDGES = "temposync-tiny"


@dataclass
class PortraitCrop:
    """Who is to speak: photo uint8 [H, W, 3], landmarks [131, 2] in it, affine to the crop [2, 3], the crop uint8 [256, 256, 3], and the
    latents [1, C, h, w] of the crop's mouth block."""

    photo: np.ndarray
    landmarks: np.ndarray
    matrix: np.ndarray
    crop: np.ndarray
    latents: torch.Tensor


@dataclass
class CropVideo:
    """Aligned crops uint8 [T, 256, 256, 3]; the latents [T, C, h, w] of the mouth's block, None where pictures came first; the viseme
    probabilities [T, 15] that were followed, None where there was no voice.

    Of a head that moves `moving` are the frames in the portrait's own crop [T, 256, 256, 3], `crops` the same with the head held, and
    `joints` the frames that clips begin with.
    """

    crops: np.ndarray
    latents: torch.Tensor | None = None
    visemes: np.ndarray | None = None
    moving: np.ndarray | None = None
    joints: np.ndarray | None = None


def crops_like(portrait: PortraitCrop, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The real frames [T, H, W, 3] with landmarks [T, 131, 2], cropped such that the first of them lies as `portrait`'s crop does.

    Landmarks of one picture differ by a fraction of a pixel between trackers, and such a shift would count in every PSNR.
    """
    matrices = smooth_matrices(np.stack([align_matrix(points) for points in landmarks]))
    homogeneous = np.concatenate([matrices, np.broadcast_to(np.float32([[0, 0, 1]]), (len(matrices), 1, 3))], 1)
    aligned = portrait.matrix @ np.linalg.inv(homogeneous[0]) @ homogeneous
    return np.stack([crop_face(frame, matrix.astype(np.float32)) for frame, matrix in zip(frames, aligned, strict=True)])


def encode_block(vae: AutoencoderTempoSync, crops: np.ndarray) -> torch.Tensor:
    """Latents float32 [T, C, h, w] of the mouth's block of crops uint8 [T, 256, 256, 3]."""
    return latent_window(encode_crops(vae, crops, BATCH)).float()


@torch.inference_mode()
def decode_block(vae: AutoencoderTempoSync, latents: torch.Tensor, canvas: np.ndarray) -> np.ndarray:
    """Crops uint8 [T, 256, 256, 3]: latents [T, C, h, w] decoded into `canvas`, one crop for all frames or [T, 256, 256, 3].

    Only the mouth region (`mouth_mask`) is taken: nothing else is ever delivered, and a block decoded alone is wrong at its edges.
    """
    crops, block = np.broadcast_to(canvas, (len(latents), *canvas.shape[-3:])).copy(), generated_block()
    mask = mouth_mask()[block][..., None]
    for start in range(0, len(latents), BATCH):
        pixels = vae.decode(latents[start:start + BATCH].contiguous().to(vae.device, vae.dtype)).sample.float().clamp(-1, 1)
        patches = pixels.add(1).mul(127.5).permute(0, 2, 3, 1).cpu().numpy()
        place = crops[start:start + BATCH, *block]
        place[:] = np.rint(place + mask * (patches - place))
    return crops


@torch.inference_mode()
def decode_crops(vae: AutoencoderTempoSync, latents: torch.Tensor) -> np.ndarray:
    """Whole crops uint8 [T, 256, 256, 3] of latents [T, C, 16, 16]."""
    batches = [rendering.decode_block(vae, latents[start:start + BATCH].to(vae.dtype), False) for start in range(0, len(latents), BATCH)]
    return np.rint(np.concatenate(batches)).astype(np.uint8)


class VideoMaker:
    """Makes the videos of one checkpoint; `teacher` is the same pipeline around the teacher, None where there is none; `options` are
    further arguments of its calls."""

    def __init__(
        self, pipe: TalkingHeadPipeline, teacher: TalkingHeadPipeline | None = None, mouth_amplitude: float | None = None, **options: Any
    ):
        self.pipe, self.teacher, self.mouth_amplitude, self.options = pipe, teacher, mouth_amplitude, options
        self.moves_heads = getattr(pipe, "default_composition", "mouth") == "face"
        own = getattr(pipe, "identity_encoder", None)
        self.identity_encoder = own or load_optional(IdentityEncoder, JUDGES, "identity_encoder", str(pipe.device))

    def portrait(self, photo: np.ndarray) -> PortraitCrop:
        """The largest face of a photo uint8 [H, W, 3], aligned as the pipeline aligns it; raises FaceError where there is none."""
        faces = self.pipe.face_aligner.detect(photo)
        if not faces:
            raise FaceError("no face found in the portrait")
        matrix = align_matrix(faces[0].landmarks)
        crop = crop_face(photo, matrix)
        return PortraitCrop(photo, faces[0].landmarks, matrix, crop, encode_block(self.pipe.vae, crop[None]))

    def student(self, portrait: PortraitCrop, voice: AudioSource, steps: int, **changes: Any) -> CropVideo:
        """The student speaks with the voice of a sound file or clip; `changes` take the place of `options`."""
        return self._speak(self.pipe, portrait, voice, steps, self.mouth_amplitude, **self.options | changes)

    def followed(self, voice: AudioSource) -> np.ndarray:
        """Viseme probabilities [T, 15] of a sound file or clip, as the student follows them."""
        return self.pipe._hear(load_audio(voice)).visemes

    def speaking_teacher(self, portrait: PortraitCrop, voice: AudioSource, steps: int) -> CropVideo:
        """The teacher speaks, with the motion scale of its own weights."""
        return self._speak(self.teacher, portrait, voice, steps, 1.0)

    def _speak(
        self, pipe: TalkingHeadPipeline, portrait: PortraitCrop, voice: AudioSource, steps: int, amplitude: float | None, **options: Any
    ) -> CropVideo:
        output = pipe(image=portrait.photo, audio=voice, num_inference_steps=steps, generator=torch.Generator().manual_seed(0),
                      output_type="latent", mouth_amplitude=amplitude, **options)
        latents, visemes = latent_window(output.frames).float(), np.asarray(output.visemes)
        if self.moves_heads:
            return self.whole_face(decode_crops(self.pipe.vae, output.frames.float()), latents, visemes)
        return CropVideo(decode_block(self.pipe.vae, latents, portrait.crop), latents, visemes)

    def whole_face(self, moving: np.ndarray, latents: torch.Tensor | None = None, visemes: np.ndarray | None = None) -> CropVideo:
        """Of crops uint8 [T, 256, 256, 3] in which the head moves."""
        landmarks = self.pipe.face_aligner.track(moving)
        held = moving if not np.isfinite(landmarks).all() else steadied(moving, landmarks)
        return CropVideo(held, latents, visemes, moving, self.pipe.joints(len(moving)))

    def in_photo(self, portrait: PortraitCrop, voice: AudioSource, steps: int) -> Iterator[np.ndarray]:
        """The student's frames as users get them, pasted into the photo: uint8 [H, W, 3] each, of the photo's own size."""
        generator = torch.Generator().manual_seed(0)
        for chunk in self.pipe.stream(
                portrait.photo, voice, steps, generator, mouth_amplitude=self.mouth_amplitude, max_size=0, **self.options):
            yield from chunk

    def dubbed(self, film: Path, voice: AudioSource, steps: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """A film as it is, and as the student speaks in it: at most `most` frames at 25 a second, uint8 [T, H, W, 3] each.

        Raises InvalidInputError for a model that dubs no films.
        """
        if not hasattr(self.pipe, "dub"):
            raise InvalidInputError("this model dubs no films")
        output = self.pipe.dub(film, voice, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), output_type="np",
                               mouth_amplitude=self.mouth_amplitude, end="cut")
        footage = Footage(film)
        real = [footage.picture(frame.planes) for frame in islice(footage.frames(output.times[-1] + 1, "cut"), len(output.frames))]
        # The frame that is shown in the middle of each twenty-fifth of a second.
        moments = (np.arange(round(FPS * output.times[-1]) + 1)[:most] + 0.5) / FPS
        shown = np.searchsorted(output.times, moments, side="right") - 1
        return np.stack([real[index] for index in shown]), np.rint(255 * output.frames[shown]).astype(np.uint8)

    def still(self, portrait: PortraitCrop, length: int) -> CropVideo:
        """The portrait, which never moves, through the decoder."""
        latents = portrait.latents.expand(length, -1, -1, -1)
        crop = decode_block(self.pipe.vae, portrait.latents, portrait.crop)
        return CropVideo(np.broadcast_to(crop, (length, *crop.shape[1:])), latents)

    def reconstruction(self, crops: np.ndarray, latents: torch.Tensor) -> CropVideo:
        """The autoencoder's reconstruction D(E(I)) of real frames, the most that a generator in its latent space can reach."""
        return CropVideo(decode_block(self.pipe.vae, latents, crops), latents)

    @torch.inference_mode()
    def coded(self, crops: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, CropVideo]:
        """Crops uint8 [T, 256, 256, 3] in which the head moves, as the picture autoencoder alone gives them back, and as the temporal
        autoencoder does, which is told of the `reference` [256, 256, 3]: the most that a model of whole faces can reach."""
        vae, temporal = self.pipe.vae, self.pipe.temporal_vae
        latents = encode_crops(vae, np.concatenate([reference[None], crops]), BATCH).float().to(vae.device)
        portrait, frames = latents[:1], latents[1:]
        missing = -(len(frames) - 1) % FRAMES
        clip = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]).transpose(0, 1)[None]
        again = temporal(clip.to(temporal.dtype), portrait.to(temporal.dtype)).sample[0].transpose(0, 1)[:len(frames)].float()
        video = self.whole_face(decode_crops(vae, again), latent_window(again))
        return decode_crops(vae, frames), replace(video, joints=np.arange(0))

    def noisy(self, crops: np.ndarray, latents: torch.Tensor) -> CropVideo:
        """What sampling starts from: the real frames' latents z + σ_max·s·ε, with fresh ε each frame and s the residual's deviation."""
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        corrupted = latents + self.pipe.scheduler.config.sigma_max * self.pipe.denoiser.config.residual_scale * noise
        return CropVideo(decode_block(self.pipe.vae, corrupted, crops), corrupted)
