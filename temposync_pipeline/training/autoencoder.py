"""Stage `autoencoder`: AutoencoderTempoSync on aligned crops.

Reads `DATA/{portraits,talkers,talkers_hq}_{train,val}.npy` (uint8 [N, 256, 256, 3], made by
`temposync_pipeline.data.pack`) and trains on 128 px windows of them: the network is fully
convolutional, so what it learns there holds at 256 px.

    temposync train autoencoder --data DATA --output runs/autoencoder --set max_minutes=40
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..data.arrays import map_array
from ..errors import InvalidInputError
from ..face.crop import CROP_SIZE, mouth_mask
from ..models.autoencoder_temposync import AutoencoderTempoSync
from .checkpointing import save_weights
from .loop import LoopConfig, Losses, make_accelerator, train_loop
from .losses import charbonnier, gradient_difference


@dataclass
class Config(LoopConfig):
    output: str = "runs/autoencoder"
    batch_size: int = 20
    learning_rate: float = 1.2e-3
    window: int = 128
    # Share of each source in a batch: portraits bring identities, the high-resolution talker sharp teeth.
    sources: dict[str, float] = field(default_factory=lambda: {"portraits": 0.4, "talkers": 0.4, "talkers_hq": 0.2})
    gradient_weight: float = 0.5
    latent_noise: float = 0.03
    # Only the decoder: latents, and so everything trained on them, stay as they are.
    freeze_encoder: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not 16 <= self.window <= 128 or self.window % 16:
            raise InvalidInputError(f"window: {self.window}, expected a multiple of 16 from 16 to 128")


class CropSampler:
    """Random 128 px windows of aligned crops, half of them around the mouth, with light and mirror augmentation."""

    def __init__(self, config: Config):
        folder = Path(config.data)
        self.arrays = [np.array(_crops(folder / f"{name}_train.npy")) for name in config.sources]
        self.weights = np.array(list(config.sources.values())) / sum(config.sources.values())
        self.window, self.batch_size = config.window, config.batch_size
        self.rng = np.random.default_rng(config.seed)

    def draw(self) -> torch.Tensor:
        """Pixels float32 [B, 3, window, window] in [-1, 1]."""
        size = int(self.rng.integers(self.window * 4 // 5, self.window * 5 // 4))
        batch = np.stack([self._window(size) for _ in range(self.batch_size)])
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1
        if size != self.window:
            pixels = F.interpolate(pixels, (self.window, self.window), mode="bicubic", antialias=True).clamp(-1, 1)
        return self._light(pixels)

    def _window(self, size: int) -> np.ndarray:
        array = self.arrays[self.rng.choice(len(self.arrays), p=self.weights)]
        crop = array[self.rng.integers(len(array))]
        if self.rng.random() < 0.5:
            top, left = self.rng.integers(90, 256 - size + 1 if size < 160 else 97), self.rng.integers(30, 226 - size + 1)
        else:
            top, left = self.rng.integers(0, 256 - size + 1, 2)
        window = crop[top:top + size, left:left + size]
        return np.ascontiguousarray(window[:, ::-1] if self.rng.random() < 0.5 else window)

    def _light(self, pixels: torch.Tensor) -> torch.Tensor:
        count = len(pixels)
        gain = 1 + 0.15 * (2 * torch.rand(count, 1, 1, 1) - 1) + 0.06 * (2 * torch.rand(count, 3, 1, 1) - 1)
        offset = 0.12 * (2 * torch.rand(count, 1, 1, 1) - 1)
        return (pixels * gain + offset).clamp(-1, 1)


def _crops(path: Path) -> np.ndarray:
    if not path.exists():
        raise InvalidInputError(f"{path}: no such file; python -m temposync_pipeline.data.pack writes it")
    return map_array(path, np.uint8, None, CROP_SIZE, CROP_SIZE, 3)


def validation_crops(folder: Path, count: int = 48) -> torch.Tensor:
    """Held-out crops float32 [N, 3, 256, 256] in [-1, 1], spread evenly over portraits and talkers."""
    crops = []
    for name in ("portraits", "talkers"):
        array = _crops(folder / f"{name}_val.npy")
        crops.append(array[np.linspace(0, len(array) - 1, min(len(array), count // 2)).astype(int)])
    return torch.from_numpy(np.concatenate(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def reconstruction_psnr(vae: AutoencoderTempoSync, crops: torch.Tensor) -> dict[str, float]:
    """Mean PSNR in dB over pictures, of the whole crop and of the mouth region."""
    mask = torch.from_numpy(mouth_mask() > 0)
    whole, mouth = [], []
    for crop in crops.split(8):
        error = ((vae(crop.to(vae.device, vae.dtype)).sample.float().cpu().clamp(-1, 1) - crop) / 2).square()
        whole += (-10 * error.mean((1, 2, 3)).log10()).tolist()
        mouth += (-10 * error[:, :, mask].mean((1, 2)).log10()).tolist()
    return {"psnr": float(np.mean(whole)), "psnr_mouth": float(np.mean(mouth))}


@torch.no_grad()
def measure_latents(vae: AutoencoderTempoSync, crops: torch.Tensor) -> None:
    """Set `latents_mean` and `latents_std` in the config from raw latents of `crops`."""
    raw = torch.cat([vae.encoder(crop.to(vae.device)).float() for crop in crops.split(8)])
    vae.register_to_config(latents_mean=raw.mean((0, 2, 3)).tolist(), latents_std=raw.std((0, 2, 3)).tolist())


def train(config: Config) -> dict[str, float]:
    accelerator = make_accelerator(config)
    vae = AutoencoderTempoSync.from_pretrained(config.init) if config.init else AutoencoderTempoSync()
    vae.to(memory_format=torch.channels_last)
    vae.encoder.requires_grad_(not config.freeze_encoder)
    ema = copy.deepcopy(vae)
    sampler = CropSampler(config)
    held_out = validation_crops(Path(config.data))

    def compute_losses(model: torch.nn.Module, progress: float) -> Losses:
        pixels = sampler.draw().to(accelerator.device, memory_format=torch.channels_last)
        latents = accelerator.unwrap_model(model).encode(pixels).latent
        noise = config.latent_noise * latents.detach().float().std((0, 2, 3), keepdim=True) * torch.randn_like(latents)
        decoded = accelerator.unwrap_model(model).decode(latents + noise).sample.float()
        value, gradient = charbonnier(decoded, pixels), gradient_difference(decoded, pixels)
        return {"loss": value + config.gradient_weight * gradient, "l1": value}

    def save(model: AutoencoderTempoSync) -> None:
        if not config.freeze_encoder:
            measure_latents(model, torch.cat([sampler.draw() for _ in range(16)]))
        save_weights(model, Path(config.output) / "vae")

    return train_loop(config, accelerator, vae, ema, compute_losses, lambda model: reconstruction_psnr(model, held_out), save,
                      generators=[sampler.rng])
