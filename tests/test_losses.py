import cv2
import numpy as np
import pytest
import torch

from temposync_pipeline.metrics.optical_flow import optical_flow, visible_mask
from temposync_pipeline.training import losses
from temposync_pipeline.training.latent_cache import latent_mouth_weight


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Float64 for finite differences, with gradients."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def texture(height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """Smooth random shades, uint8 [height, width, 3]: flow has something to hold on to everywhere."""
    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.repeat((255 * smooth).astype(np.uint8)[..., None], 3, axis=2)


def to_frames(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_noise_prediction_and_distillation_are_weighted_squares():
    """Equations 5 and 7."""
    prediction, target = torch.tensor([[[[3.0, 1.0]]]]), torch.tensor([[[[1.0, 1.0]]]])
    assert losses.noise_prediction(prediction, target).item() == 2
    assert losses.noise_prediction(prediction, target, torch.tensor([3.0, 1.0])).item() == 3
    assert losses.distillation(prediction, target).item() == 2
    student, teacher = numbers(2, 3, 4, 4), numbers(2, 3, 4, 4, seed=1)
    losses.distillation(student, teacher).backward()
    assert teacher.grad is None and torch.allclose(student.grad, 2 * (student - teacher).detach() / student.numel())


def test_mouth_weight_counts_the_lips_more():
    weight = latent_mouth_weight(floor=0.2, lips=3.0)
    zero = torch.zeros(1, 32, *weight.shape[-2:])
    lips, corner = zero.clone(), zero.clone()
    lips[:, :, 4, 5], corner[:, :, 0, 0] = 1, 1
    ratio = losses.noise_prediction(lips, zero, weight) / losses.noise_prediction(corner, zero, weight)
    assert ratio.item() == pytest.approx(3.0 / 0.2)


def test_identity_anchor_is_zero_for_the_same_person_and_two_for_the_opposite():
    """Equation 8."""
    embeddings = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
    assert losses.identity_anchor(embeddings, embeddings).item() == pytest.approx(0, abs=1e-6)
    assert losses.identity_anchor(embeddings, -3 * embeddings).item() == pytest.approx(2, abs=1e-6)
    one, other = torch.eye(2)[:1], torch.eye(2)[1:]
    assert losses.identity_anchor(one, other).item() == pytest.approx(1)


def test_warp_fetches_from_where_the_flow_points():
    columns = torch.arange(6.0).expand(1, 1, 4, 6)
    flow = torch.zeros(1, 2, 4, 6)
    assert torch.allclose(losses.warp(columns, flow), columns, atol=1e-5)
    flow[:, 0] = 1.5
    assert losses.warp(columns, flow)[0, 0, 0].tolist() == pytest.approx([1.5, 2.5, 3.5, 4.5, 5, 5], abs=1e-5)
    rows = torch.arange(4.0)[:, None].expand(1, 1, 4, 6)
    assert torch.allclose(losses.warp(rows, flow), rows, atol=1e-5)


def test_a_moving_picture_has_no_temporal_loss_where_it_can_be_followed():
    """Equation 9: the picture moves by (3, -2) pixels; what its movement uncovers is not counted."""
    still = texture(80, 112)
    before, after = still[8:72, 8:104], still[10:74, 5:101]
    flow = torch.tensor([-3.0, 2.0])[None, :, None, None].expand(1, 2, 64, 96)
    inside = torch.zeros(1, 1, 64, 96)
    inside[:, :, :-2, 3:] = 1
    frames = to_frames(before, after)
    assert losses.temporal_warp(frames, flow, inside).item() < 1e-4
    assert losses.temporal_warp(frames, torch.zeros_like(flow), inside).item() > 0.05


def test_temporal_loss_counts_only_what_is_visible():
    frames, flow = torch.zeros(2, 3, 8, 8), torch.zeros(1, 2, 8, 8)
    frames[1, :, :, :4] = 1
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    assert losses.temporal_warp(frames, flow, left).item() == pytest.approx(1)
    assert losses.temporal_warp(frames, flow, 1 - left).item() == 0
    assert losses.temporal_warp(frames, flow, torch.ones_like(left)).item() == pytest.approx(0.5)
    assert losses.temporal_warp(frames, flow, torch.zeros_like(left)).item() == 0


def test_frame_flows_find_the_movement_of_real_frames():
    still = texture(80, 112)
    frames = to_frames(still[8:72, 8:104], still[8:72, 5:101], still[8:72, 5:101])
    flow, mask = losses.frame_flows(frames)
    assert flow.shape == (2, 2, 64, 96) and mask.shape == (2, 1, 64, 96)
    middle = (slice(16, 48), slice(24, 72))
    assert flow[0, 0][middle].median().item() == pytest.approx(-3, abs=0.3)
    assert flow[1].abs().median().item() < 0.1 and mask[1].mean().item() > 0.99
    assert mask[0, 0][middle].mean().item() > 0.9
    # The left edge came in from outside.
    assert mask[0, 0, :, 0].mean().item() < 0.2
    assert losses.temporal_warp(frames, flow, mask).item() < 0.25 * losses.temporal_warp(frames, torch.zeros_like(flow), mask).item()


def test_a_patch_that_moves_hides_what_lies_behind_it():
    """A patch jumps 6 px to the right over a still picture: the strip it leaves behind cannot be found in the frame before."""
    behind, patch = texture(seed=1), texture(seed=2)[:24, :24]
    before, after = behind.copy(), behind.copy()
    before[20:44, 30:54], after[20:44, 36:60] = patch, patch
    flow = np.zeros((64, 96, 2), np.float32)
    flow[20:44, 36:60, 0] = -6
    back = np.zeros((64, 96, 2), np.float32)
    back[20:44, 30:54, 0] = 6
    mask = visible_mask(flow, back)
    assert mask[22:42, 31:35].max() == 0
    assert mask[:18].min() == 1 and mask[22:42, 38:58].min() == 1
    measured = visible_mask(optical_flow(after, before), optical_flow(before, after))
    assert measured[22:42, 31:35].mean() < measured[:14].mean()


def test_totals_are_weighted_sums():
    """Equations 10 and 11."""
    terms = {"diffusion": torch.tensor(1.0), "identity": torch.tensor(10.0), "temporal": torch.tensor(100.0)}
    assert losses.total(terms, {"identity": 0.5, "temporal": 0.2}).item() == pytest.approx(1 + 5 + 20)
    assert losses.total(terms, {"identity": 0.0, "temporal": 0.0}).item() == 1
    terms |= {"consistency": torch.tensor(1000.0), "sync": torch.tensor(10_000.0)}
    weights = {"identity": 0.5, "temporal": 0.2, "consistency": 2.0, "sync": 0.1}
    assert losses.total(terms, weights).item() == pytest.approx(1 + 5 + 20 + 2000 + 1000)
    with pytest.raises(ValueError, match="speed"):
        losses.total(terms, {"speed": 1.0})


def test_cross_identity_takes_everything_from_one_stranger():
    """Equation 12, at its limits and in between."""
    identities = torch.arange(300) // 3
    reference, context = identities.float()[:, None].expand(300, 4), 10 * identities.float()[:, None]
    (same, _), replaced = losses.cross_identity([reference, context], identities, 0.0)
    assert not replaced.any() and torch.equal(same, reference)
    (other, around), replaced = losses.cross_identity([reference, context], identities, 1.0)
    assert replaced.all() and (other[:, 0] != identities).all() and torch.equal(around[:, 0], 10 * other[:, 0])
    torch.manual_seed(0)
    (other, _), replaced = losses.cross_identity([reference, context], identities, 0.3)
    assert 45 < replaced.sum().item() < 135
    assert torch.equal(replaced, other[:, 0] != identities)


def test_cross_identity_leaves_a_batch_of_one_person_alone():
    (other,), replaced = losses.cross_identity([torch.arange(4.0)], torch.zeros(4, dtype=torch.long), 1.0)
    assert not replaced.any() and other.tolist() == [0, 1, 2, 3]


def test_sync_regulariser_is_low_for_what_belongs_together():
    mouths = torch.nn.functional.normalize(torch.randn(2, 5, 16), dim=-1)
    assert losses.sync_regulariser(mouths, mouths).item() == pytest.approx(0, abs=1e-6)
    assert losses.sync_regulariser(mouths, -mouths).item() == pytest.approx(2, abs=1e-6)


def test_supervised_contrastive_in_closed_form():
    """Two people on two axes, two pictures each: every other picture of oneself is worth e^(1/τ) against two strangers of 1."""
    embeddings, identities = torch.eye(2).repeat_interleave(2, 0), torch.tensor([0, 0, 1, 1])
    expected = -np.log(np.e**2 / (np.e**2 + 2))
    assert losses.supervised_contrastive(embeddings, identities, temperature=0.5).item() == pytest.approx(expected, rel=1e-5)
    mixed = losses.supervised_contrastive(embeddings, torch.tensor([0, 1, 0, 1]), temperature=0.5).item()
    assert mixed == pytest.approx(-np.log(1 / (np.e**2 + 2)), rel=1e-5)


def test_gradients_agree_with_finite_differences():
    """Central differences in float64, `torch.autograd.gradcheck`."""
    latents, target = numbers(2, 3, 4, 5), numbers(2, 3, 4, 5, seed=1).detach()
    weight = torch.rand(1, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.1
    check = torch.autograd.gradcheck
    assert check(lambda x: losses.noise_prediction(x, target, weight), latents)
    assert check(lambda x: losses.distillation(x, target, weight), latents)
    assert check(lambda x: losses.pseudo_huber(x, target, weight), latents)
    assert check(lambda x: losses.charbonnier(x, target, epsilon=0.1), latents)
    assert check(lambda x: losses.gradient_difference(x, target), latents)
    embeddings, reference = numbers(4, 6), numbers(4, 6, seed=1).detach()
    assert check(lambda x: losses.identity_anchor(x, reference), embeddings)
    assert check(lambda x: losses.sync_regulariser(x, reference), embeddings)
    people = torch.tensor([0, 0, 1, 1])
    assert check(lambda x: losses.supervised_contrastive(torch.nn.functional.normalize(x, dim=-1), people, 0.5), embeddings)
    flow, mask = 0.7 * numbers(2, 2, 5, 6, seed=3).detach(), (weight.new_ones(2, 1, 5, 6))
    mask[:, :, 2] = 0
    assert check(lambda x: losses.temporal_warp(x, flow, mask), numbers(3, 2, 5, 6, seed=4))
