"""Picture quality of one frame against another: PSNR, SSIM, and sharpness without a reference.

Pictures are RGB [..., H, W, 3] in 0..255, uint8 or float.  `mask` [H, W] in [0, 1] weighs pixels; None weighs all alike.
"""

import cv2
import numpy as np


def _weighted_mean(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Mean over the last two axes."""
    if mask is None:
        return values.mean((-2, -1))
    return (values * mask).sum((-2, -1)) / mask.sum()


def psnr(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, 10·log10(255² / MSE), shape [...]; infinite for equal pictures."""
    error = np.square(np.asarray(image, np.float32) - np.asarray(reference, np.float32)).mean(-1)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / _weighted_mean(error, mask))


def ssim(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity in [-1, 1] of two pictures [H, W, 3], 1 = equal.

    Wang et al. 2004, eq. 13, on luma, with the paper's Gaussian window (11 × 11, sigma 1.5) and constants
    C1 = (0.01·255)², C2 = (0.03·255)²; the map is averaged over `mask`.
    """
    x, y = (cv2.cvtColor(np.asarray(picture, np.float32), cv2.COLOR_RGB2GRAY) for picture in (image, reference))

    def local_mean(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x, variance_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return float(_weighted_mean(similarity, mask))


def laplacian_variance(image: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Sharpness of a picture [H, W, 3]: variance of the Laplacian of its luma (Pech-Pacheco et al. 2000), levels²; 0 = flat.

    Noise counts as sharpness, so it is read as a ratio to a reference of the same scene.
    """
    gray = cv2.cvtColor(np.asarray(image, np.float32), cv2.COLOR_RGB2GRAY)
    laplacian = cv2.Laplacian(gray, cv2.CV_32F)
    return float(_weighted_mean((laplacian - _weighted_mean(laplacian, mask)) ** 2, mask))
