"""READ's networks: what stands for what in time, who hears what, and that a still face costs nothing."""

import pytest
import torch

from temposync_pipeline.models.autoencoder_temporal import AutoencoderTemporal, smooth_joints
from temposync_pipeline.models.speech_autoencoder import SpeechAutoencoder
from temposync_pipeline.models.transformer_talking_head import TalkingHeadTransformer, with_lips


@pytest.fixture(scope="module")
def temporal():
    torch.manual_seed(0)
    return AutoencoderTemporal(channels=4, latent_channels=6, frame_channels=8, width=8, latents_mean=[0.1] * 6,
                               latents_std=[2.0] * 6).eval()


def tiny_transformer(**settings):
    torch.manual_seed(0)
    model = TalkingHeadTransformer(latent_channels=6, reference_channels=4, channels=16, num_layers=2, num_heads=2, speech_channels=5,
                                   max_frames=4, **settings)
    for parameter in model.parameters():  # what starts at zero would hide what it does
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@torch.inference_mode()
def test_a_latent_frame_stands_for_eight_and_hears_of_none_after_them(temporal):
    frames, reference = torch.randn(1, 4, 25, 16, 16), torch.randn(1, 4, 16, 16)
    latents = temporal.encode(frames, reference).latent
    assert latents.shape == (1, 6, 4, 8, 8)
    later = frames.clone()
    later[:, :, 9:] += 1
    changed = (temporal.encode(later, reference).latent - latents).abs().amax((0, 1, 3, 4))
    assert changed[:2].max() == 0 and changed[2] > 1e-4
    assert temporal.encode(frames[:, :, :1], reference).latent.shape == (1, 6, 1, 8, 8)


@torch.inference_mode()
def test_decoding_is_causal_too(temporal):
    latents, reference = torch.randn(1, 6, 4, 8, 8), torch.randn(1, 4, 16, 16)
    frames = temporal.decode(latents, reference).sample
    assert frames.shape == (1, 4, 25, 16, 16)
    latents[:, :, 3] += 1
    changed = (temporal.decode(latents, reference).sample - frames).abs().amax((0, 1, 3, 4))
    assert changed[:17].max() == 0 and changed[17] > 1e-5


@torch.inference_mode()
def test_a_still_clip_is_nothing_and_nothing_is_a_still_clip(temporal):
    reference = torch.randn(2, 4, 16, 16)
    still = reference[:, :, None].expand(-1, -1, 17, -1, -1)
    assert temporal.encode_raw(still, reference).abs().max() == 0
    assert torch.allclose(temporal.decode_raw(torch.zeros(2, 6, 3, 8, 8), reference), still, atol=1e-6)
    assert torch.allclose(temporal(still, reference).sample, still, atol=1e-5)


def test_a_jump_between_latent_frames_is_taken_back_and_a_steady_motion_is_none():
    steady = torch.arange(25.0)[None, :, None]
    assert torch.equal(smooth_joints(steady, 1.0), steady)
    jumping = torch.zeros(1, 25, 1)
    jumping[:, 9:] = 3
    for share, (end, start) in ((1.0, (2, 2)), (0.5, (1, 2.5))):
        smooth = smooth_joints(jumping, share)[0, :, 0]
        assert smooth.tolist() == pytest.approx([0] * 8 + [end, start] + [3] * 15)
    jumping[:, 1:9] = 3  # from the first frame on, and so no joint of latent frames
    assert torch.equal(smooth_joints(jumping, 1.0), jumping)
    assert torch.equal(smooth_joints(jumping[:, :9], 1.0), jumping[:, :9]) and smooth_joints(jumping[:, :1], 1.0).shape[1] == 1


@torch.inference_mode()
def test_smoothing_is_part_of_decoding():
    torch.manual_seed(0)
    smoothing = AutoencoderTemporal(channels=4, latent_channels=6, frame_channels=8, width=8, joint_smoothing=0.5).eval()
    plain = AutoencoderTemporal(channels=4, latent_channels=6, frame_channels=8, width=8).eval()
    plain.load_state_dict(smoothing.state_dict())
    latents, reference = torch.randn(1, 6, 4, 8, 8), torch.randn(1, 4, 16, 16)
    smooth, rough = (model.decode(latents, reference).sample for model in (smoothing, plain))
    assert torch.allclose(smooth, smooth_joints(rough.transpose(1, 2), 0.5).transpose(1, 2), atol=1e-6)
    change = [frames.diff(dim=2).abs().mean((0, 1, 3, 4))[[8, 16]].mean() for frames in (smooth, rough)]
    assert change[0] < 0.8 * change[1]


def test_only_8k_plus_1_frames(temporal):
    with pytest.raises(ValueError, match="8k"):
        temporal.encode(torch.zeros(1, 4, 8, 16, 16), torch.zeros(1, 4, 16, 16))


@torch.inference_mode()
def test_a_code_of_speech_looks_back_only():
    torch.manual_seed(0)
    speech = SpeechAutoencoder(features=7, channels=8, tokens=4, code_channels=3, features_mean=[1.0] * 7, features_std=[2.0] * 7).eval()
    features = torch.randn(1, 25, 7)
    codes = speech.encode(features).latent
    assert codes.shape == (1, 4, 4, 3) and speech(features).sample.shape == features.shape
    later = features.clone()
    later[:, 9:] += 1
    changed = (speech.encode(later).latent - codes).abs().amax((0, 2, 3))
    assert changed[:2].max() == 0 and changed[2] > 1e-4
    assert torch.allclose(speech.normalise(torch.full((1, 1, 7), 3.0)), torch.ones(1, 1, 7))


@torch.inference_mode()
def test_a_frame_listens_to_its_own_speech_only():
    block = tiny_transformer().blocks[0]
    cells, speech = torch.randn(1, 3, 64, 16), torch.randn(1, 3, 4, 5)
    heard = block.hear(cells, speech)
    speech[:, 1] += 1
    changed = (block.hear(cells, speech) - heard).abs().amax((0, 2, 3))
    assert changed[0] == changed[2] == 0 and changed[1] > 1e-3


@torch.inference_mode()
def test_every_frame_has_its_own_noise_level_and_conditions_can_be_left_out():
    model = tiny_transformer()
    sample, reference, speech = torch.randn(2, 6, 3, 8, 8), torch.randn(2, 4, 16, 16), torch.randn(2, 3, 4, 5)
    level = torch.full((2, 3), 0.5)
    out = model(sample, level, reference, speech).sample
    assert out.shape == sample.shape
    assert torch.equal(model(sample, level, reference, speech, return_dict=False)[0], out)
    level[0, 1] = 0.9
    changed = (model(sample, level, reference, speech).sample - out).abs().amax((1, 3, 4))
    assert changed[0].min() > 0 and changed[1].max() == 0
    none = torch.zeros(2, dtype=torch.bool)
    blind = model(sample, level, reference, speech, given_reference=none, given_speech=none).sample
    assert torch.equal(blind, model(sample, level, 2 * reference, 3 * speech, given_reference=none, given_speech=none).sample)
    assert not torch.equal(blind, model(sample, level, reference, speech).sample)


def test_lips_join_the_eight_tokens_of_their_own_latent_frame():
    codes, lips = torch.randn(1, 3, 8, 5), torch.arange(17.0)[None, :, None].expand(1, 17, 2)
    told = with_lips(codes, lips)
    assert torch.equal(told[..., :5], codes)
    assert told[0, :, :, 5].tolist() == [[0] * 8, [*range(1, 9)], [*range(9, 17)]] and torch.equal(told[..., 5], told[..., 6])
    for wrong in (codes[:, :, :4], codes[:, :2]):
        with pytest.raises(ValueError, match="lips of 17 frames"):
            with_lips(wrong, lips)


@torch.inference_mode()
def test_lips_are_told_where_they_are_known_and_given():
    model = tiny_transformer(lip_channels=2)
    sample, reference, codes = torch.randn(2, 6, 3, 8, 8), torch.randn(2, 4, 16, 16), torch.randn(2, 3, 8, 5)
    level, lips, unknown = torch.full((2, 3), 0.5), torch.randn(2, 17, 2), torch.full((2, 17, 2), torch.nan)

    def velocity(lips, **given):
        return model(sample, level, reference, with_lips(codes, lips), **given).sample

    out, untold = velocity(lips), velocity(unknown)
    assert out.isfinite().all() and untold.isfinite().all() and not torch.allclose(out, untold, atol=1e-3)
    # A network without lips, of the same weights, does what this one does untold.
    plain = tiny_transformer()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("lips")})
    assert torch.equal(plain(sample, level, reference, codes).sample, untold)
    assert not torch.allclose(velocity(torch.zeros_like(lips)), untold, atol=1e-3)  # lips at rest are not unknown ones
    none = torch.zeros(2, dtype=torch.bool)
    assert torch.equal(velocity(lips, given_speech=none), velocity(unknown, given_speech=none))
    # One frame that is not known hides its latent frame's lips, and none else's.
    partly = lips.clone()
    partly[0, 3] = torch.nan
    apart = lips.clone()
    apart[0, 1:9] = torch.nan
    assert torch.equal(velocity(partly), velocity(apart)) and torch.equal(velocity(partly)[1], out[1])


def test_gradient_checkpointing_changes_no_gradient():
    model = tiny_transformer().train()
    given = torch.randn(1, 6, 2, 8, 8), torch.rand(1, 2), torch.randn(1, 4, 16, 16), torch.randn(1, 2, 4, 5)

    def gradient():
        model.zero_grad()
        model(*given).sample.square().mean().backward()
        return model.blocks[0].qkv.weight.grad.clone()

    plain = gradient()
    model.enable_gradient_checkpointing()
    assert torch.allclose(plain, gradient(), atol=1e-7)


@pytest.mark.parametrize("heads", [-1, 0, 3, 10**6])
def test_heads_must_divide_the_channels(heads):
    with pytest.raises(ValueError, match=f"num_heads must divide the 16 channels, got {heads}"):
        TalkingHeadTransformer(latent_channels=8, channels=16, num_layers=1, num_heads=heads, speech_channels=4)
