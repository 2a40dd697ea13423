"""Everything that can happen to a picture of a face, and pictures of nothing: augmentation for `training.aligner`.

All functions take and give uint8 RGB [H, W, 3] and draw from the numpy generator they are handed.
"""

import cv2
import numpy as np


def photometric(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random light, colour, blur, resolution, noise and JPEG artefacts."""
    if rng.random() < 0.8:
        image = _tone(image, rng)
    if rng.random() < 0.3:
        image = _directional_light(image, rng)
    if rng.random() < 0.12:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.3:
        image = _blur(image, rng)
    if rng.random() < 0.25:
        image = _low_resolution(image, rng)
    if rng.random() < 0.3:
        noise = rng.standard_normal((64, 64, 3), np.float32) * rng.uniform(2, 16)
        tiles = [-(-side // 64) for side in image.shape[:2]]
        noise = np.tile(noise, (*tiles, 1))[:image.shape[0], :image.shape[1]]
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.3:
        _, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 90))])
        image = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return image


def _tone(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gamma, contrast, brightness and a cast of colour, as one table a channel."""
    ramp = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.normal(0, 0.3))
    gain = np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.07, 3))
    table = ((ramp - 0.5) * gain + 0.5 + rng.normal(0, 0.1)) * 255
    return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[None])


def _directional_light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One side lighter than the other, linearly across the picture."""
    height, width = image.shape[:2]
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8)
    ramp = (np.linspace(-1, 1, width, dtype=np.float32) * np.float32(np.cos(angle))
            + np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(np.sin(angle)))
    return cv2.multiply(image, cv2.merge([1 + np.float32(strength) * ramp] * 3), dtype=cv2.CV_8U)


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Out of focus or moved, by up to 2 % of the picture."""
    reach = image.shape[0] * rng.uniform(0.003, 0.02)
    if rng.random() < 0.7:
        return cv2.GaussianBlur(image, (0, 0), max(0.3, reach * 0.7))
    length = max(2, int(2 * reach)) | 1
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    middle = (length - 1) / 2
    offset = np.array([np.cos(angle), np.sin(angle)]) * middle
    start, end = np.round(middle - offset).astype(int), np.round(middle + offset).astype(int)
    cv2.line(kernel, tuple(start.tolist()), tuple(end.tolist()), 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def _low_resolution(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    factor = rng.uniform(0.3, 0.8)
    small = cv2.resize(image, (max(8, int(width * factor)), max(8, int(height * factor))), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_CUBIC)


def occlude(image: np.ndarray, centre: tuple[float, float], size: float, texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Something of `texture` in front of a face of `size` px around `centre`, covering up to about a third of it."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    angle = rng.uniform(0, 2 * np.pi)
    reach = rng.uniform(0.15, 0.65) * size
    middle = (centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle))
    axes = (rng.uniform(0.04, 0.28) * size, rng.uniform(0.04, 0.28) * size)
    shape = ((float(middle[0]), float(middle[1])), (float(2 * axes[0]), float(2 * axes[1])), float(rng.uniform(0, 180)))
    if rng.random() < 0.5:
        cv2.ellipse(mask, shape, 255, -1)
    else:
        cv2.fillPoly(mask, [np.round(cv2.boxPoints(shape)).astype(np.int32)], 255)
    texture = cv2.resize(texture, (width, height)) if rng.random() < 0.7 else np.full_like(image, rng.integers(0, 256, 3))
    return np.where(mask[..., None] > 0, texture, image)


def procedural(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A picture of nothing: clouds, stripes, shapes, writing or a plain colour."""
    kind = rng.integers(5)
    first, second = rng.integers(0, 256, (2, 3)).astype(np.float32)
    if kind == 0:
        return np.broadcast_to(first.astype(np.uint8), (height, width, 3)).copy()
    if kind == 1:
        image = sum(cv2.resize(rng.random((cells, cells, 3), np.float32), (width, height), interpolation=cv2.INTER_CUBIC) * 2 / cells**0.5
                    for cells in (2, 4, 8, 16, 32))
        image = cv2.normalize(image, None, 0, 1, cv2.NORM_MINMAX)
        return np.clip(first + (second - first) * image, 0, 255).astype(np.uint8)
    if kind == 2:
        across = np.arange(width, dtype=np.float32) * rng.normal(0, 0.2) + np.arange(height, dtype=np.float32)[:, None] * rng.normal(0, 0.2)
        wave = (np.sin(across) * rng.uniform(0.5, 4)).clip(-1, 1)[..., None] * 0.5 + 0.5
        return np.clip(first + (second - first) * wave, 0, 255).astype(np.uint8)
    image = np.broadcast_to(first.astype(np.uint8), (height, width, 3)).copy()
    for _ in range(rng.integers(3, 25)):
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        if kind == 3:
            radius = int(rng.integers(2, max(3, width // 3)))
            shape = rng.integers(3)
            if shape == 0:
                axes = (radius, int(radius * rng.uniform(0.3, 1.5)) + 1)
                cv2.ellipse(image, (x, y), axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
            elif shape == 1:
                corners = np.array([x, y]) + rng.normal(0, radius, (rng.integers(3, 6), 2))
                cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)
            else:
                end = (int(rng.integers(0, width)), int(rng.integers(0, height)))
                cv2.line(image, (x, y), end, colour, int(rng.integers(1, 6)), cv2.LINE_AA)
        else:
            letters = "".join(chr(c) for c in rng.integers(33, 127, rng.integers(1, 12)))
            font, scale, thickness = int(rng.integers(0, 8)), float(rng.uniform(0.3, 2)), int(rng.integers(1, 4))
            cv2.putText(image, letters, (x - width // 4, y), font, scale, colour, thickness, cv2.LINE_AA)
    return image
