import cv2
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from temposync_pipeline.face.landmarks import GROUPS, NUM_LANDMARKS, lip_opening
from temposync_pipeline.metrics.image import laplacian_variance, psnr, ssim
from temposync_pipeline.metrics.lips import lip_correlation, motion_amplitude, mouth_landmark_distance
from temposync_pipeline.metrics.temporal import flicker_std, pixel_std, temporal_l1, warping_error


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)


def speech(length: int = 80) -> np.ndarray:
    """A lip-opening series that correlates with no shifted copy of itself."""
    return np.abs(np.random.default_rng(1).normal(0.05, 0.05, length))


def faces(opening: np.ndarray, offset: np.ndarray | None = None) -> np.ndarray:
    """Landmarks [T, 131, 2] of a plain face whose inner lips open by `opening` (in interocular distances of 100 px)."""
    face = np.random.default_rng(2).uniform(0, 200, (NUM_LANDMARKS, 2))
    face[GROUPS["irises"]] = (50, 80), (150, 80)
    landmarks = np.repeat(face[None], len(opening), 0)
    angles = np.linspace(np.pi, -np.pi, 20, endpoint=False)
    landmarks[:, GROUPS["inner_lips"], 0] = 100 + 30 * np.cos(angles)
    landmarks[:, GROUPS["inner_lips"], 1] = 160 + 50 * opening[:, None] * np.sin(angles)
    return landmarks if offset is None else landmarks + offset[:, None]


def test_psnr_closed_form(picture):
    shifted = picture.astype(np.float32) + 5
    assert psnr(shifted, picture) == pytest.approx(10 * np.log10(255**2 / 25), abs=1e-3)
    assert np.isinf(psnr(picture, picture))
    assert psnr(np.stack([shifted, shifted]), np.stack([picture, picture])).shape == (2,)


def test_masks_confine_the_measure(picture):
    mask = np.zeros((64, 64))
    mask[20:40, 20:40] = 1
    spoilt = picture.copy()
    spoilt[:10] = 0
    assert np.isinf(psnr(spoilt, picture, mask))
    assert ssim(spoilt, picture, mask) == pytest.approx(1)
    assert laplacian_variance(spoilt, mask) == pytest.approx(laplacian_variance(picture, mask))


def test_ssim_agrees_with_scikit_image(picture):
    gray = np.repeat(picture[..., :1], 3, -1)
    noisy = np.clip(gray + np.random.default_rng(3).normal(0, 30, (64, 64, 1)), 0, 255)
    theirs, their_map = structural_similarity(gray[..., 0].astype(float), noisy[..., 0], data_range=255, gaussian_weights=True,
                                              sigma=1.5, use_sample_covariance=False, full=True)
    inner = np.zeros((64, 64))
    inner[8:-8, 8:-8] = 1
    assert ssim(noisy, gray, inner) == pytest.approx(their_map[8:-8, 8:-8].mean(), abs=2e-3)
    assert ssim(gray, gray) == pytest.approx(1)


def test_blur_lowers_sharpness(picture):
    assert laplacian_variance(cv2.GaussianBlur(picture, (0, 0), 1.5)) < 0.1 * laplacian_variance(picture)


@pytest.mark.parametrize("delay", [-3, 0, 2])
def test_lag_and_amplitude_are_found(delay):
    real = speech()
    generated = 0.8 * np.roll(real, delay) + 0.1
    result = lip_correlation(generated, real)
    assert result.best_lag == delay
    assert result.r_at_best_lag > 0.99
    assert result.amplitude_ratio == pytest.approx(0.8, abs=1e-6)
    assert (result.r > 0.99) == (delay == 0)


def test_still_lips_do_not_correlate():
    result = lip_correlation(np.full(50, 0.1), speech(60))
    assert (result.r, result.best_lag, result.amplitude_ratio) == (0, 0, pytest.approx(0, abs=1e-9))
    with pytest.raises(ValueError, match="at least 12 frames"):
        lip_correlation(speech(8), speech(8))


def test_landmark_distance_ignores_the_pose_of_the_head():
    opening = speech()
    moving = np.random.default_rng(4).uniform(-20, 20, (len(opening), 2))
    real, same = faces(opening), faces(opening, moving)
    still = faces(np.zeros_like(opening))
    assert lip_opening(real).shape == opening.shape
    assert mouth_landmark_distance(same, real) == pytest.approx(0, abs=1e-4)
    assert mouth_landmark_distance(still, real) > 0.005
    assert motion_amplitude(still) == pytest.approx(0, abs=1e-4)
    assert motion_amplitude(same) == pytest.approx(motion_amplitude(real), abs=1e-4)


def test_temporal_measures_closed_form():
    frames = np.zeros((5, 4, 4, 3), np.uint8)
    frames[1::2, :2] = 10  # the upper half blinks by 10 levels
    upper = np.zeros((4, 4))
    upper[:2] = 1
    assert temporal_l1(frames) == pytest.approx(5)
    assert temporal_l1(frames, upper) == pytest.approx(10)
    assert pixel_std(frames, upper) == pytest.approx(np.std([0, 10, 0, 10, 0]))
    assert flicker_std(frames, upper) == pytest.approx(np.std([10, -10, 10, -10]))
    assert pixel_std(frames, 1 - upper) == flicker_std(frames, 1 - upper) == 0
    steady = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((1, 4, 4, 3), 3, np.uint8)
    assert flicker_std(steady) == 0 < pixel_std(steady)  # an even change of light is no flicker
    with pytest.raises(ValueError, match="two frames"):
        temporal_l1(frames[:1])


def test_warping_error_forgives_motion_but_not_flicker():
    texture = cv2.GaussianBlur(np.random.default_rng(5).integers(0, 256, (96, 140, 3)).astype(np.uint8), (0, 0), 3)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    mask = np.zeros((96, 96))
    mask[16:80, 16:80] = 1
    moving = np.stack([texture[:, shift:shift + 96] for shift in range(0, 12, 2)])
    flickering = np.stack([np.clip(texture[:, :96].astype(int) + (10 if t % 2 else 0), 0, 255).astype(np.uint8) for t in range(6)])
    assert warping_error(np.repeat(moving[:1], 4, 0), mask) == 0
    assert temporal_l1(moving, mask) > 3 and warping_error(moving, mask) < 0.2 * temporal_l1(moving, mask)
    assert warping_error(flickering, mask) > 5
