import pytest
import torch

from temposync_pipeline.models.autoencoder_temposync import AutoencoderTempoSync
from temposync_pipeline.models.denoiser_temposync import TempoSyncDenoiser
from temposync_pipeline.models.identity_encoder import IdentityEncoder
from temposync_pipeline.models.precision import has_fast_bfloat16

from .tiny_components import tiny_denoiser, tiny_motion_vae, tiny_vae


def denoiser_inputs(batch: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return {"sample": torch.randn(batch, 32, 10, 12), "timestep": torch.full((batch,), 0.1), "reference": torch.randn(batch, 32, 10, 12),
            "context": torch.randn(batch, 32, 10, 12), "visemes": torch.rand(batch, 11, 15), "identity": torch.randn(batch, 128)}


def test_autoencoder_shapes_and_stride():
    vae, pixels = tiny_vae(), torch.rand(2, 3, 64, 96) * 2 - 1
    latents = vae.encode(pixels).latent
    assert latents.shape == (2, 32, 4, 6) and vae.decode(latents).sample.shape == pixels.shape
    with pytest.raises(ValueError, match="divisible by 16"):
        vae.encode(torch.zeros(1, 3, 60, 64))


def test_latents_are_normalised_by_the_config_and_decoding_undoes_it():
    vae, pixels = tiny_vae(), torch.rand(1, 3, 64, 64) * 2 - 1
    plain, decoded = vae.encode(pixels).latent, vae(pixels).sample
    vae.register_to_config(latents_mean=[0.5] * 32, latents_std=[2.0] * 32)
    assert torch.allclose(vae.encode(pixels).latent, (plain - 0.5) / 2, atol=1e-6)
    assert torch.allclose(vae(pixels).sample, decoded, atol=1e-5)


def test_a_block_of_latents_decodes_like_the_whole_away_from_its_edge():
    vae, latents = tiny_vae(), torch.randn(1, 32, 24, 24)
    whole, block = vae.decode(latents).sample, vae.decode(latents[:, :, 2:22, 3:23]).sample
    assert torch.allclose(whole[:, :, 128:256, 128:256], block[:, :, 96:224, 80:208], atol=1e-5)


@pytest.mark.parametrize("name", ["sample", "timestep", "reference", "context", "visemes", "identity"])
def test_denoiser_listens_to_every_condition(name):
    denoiser, inputs = tiny_denoiser(), denoiser_inputs()
    changed = inputs | {name: inputs[name] + 0.5}
    with torch.no_grad():
        assert not torch.allclose(denoiser(**inputs).sample, denoiser(**changed).sample, atol=1e-5)


def test_fresh_denoiser_starts_at_zero_output():
    denoiser = TempoSyncDenoiser(block_out_channels=(32, 32), layers_per_block=(1, 1), mid_layers=1, embedding_channels=32)
    output = denoiser(**denoiser_inputs()).sample
    assert output.shape == (2, 32, 10, 12) and not output.any()


def test_samples_of_a_batch_do_not_influence_each_other():
    denoiser, inputs = tiny_denoiser(), denoiser_inputs(3)
    with torch.no_grad():
        together = denoiser(**inputs).sample
        alone = denoiser(**{key: value[1:2] for key, value in inputs.items()}).sample
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_identity_embeddings_have_unit_length():
    embedding = IdentityEncoder(channels=(8, 8, 8))(torch.randn(3, 32, 16, 16))
    assert embedding.shape == (3, 128) and torch.allclose(embedding.norm(dim=1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("build", [tiny_vae, tiny_denoiser])
def test_save_and_load_are_bit_identical(build, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    for key, value in model.config.items():
        expected = list(value) if isinstance(value, tuple) else value
        assert key.startswith("_") or loaded.config[key] == expected


def test_the_denoiser_exports_with_any_batch():
    denoiser = tiny_denoiser().eval()
    names = tuple(denoiser_inputs())
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(
        denoiser, (), denoiser_inputs(2), dynamic_shapes={name: {0: batch} for name in names}, strict=False).module()
    for size in (1, 5):
        with torch.no_grad():
            expected = denoiser(**denoiser_inputs(size)).sample
        assert torch.allclose(exported(**denoiser_inputs(size)).sample, expected, atol=1e-5)


def test_gradient_checkpointing_keeps_fewer_activations_and_the_same_gradients():
    def gradients(denoiser: TempoSyncDenoiser) -> tuple[list[torch.Tensor], int]:
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
            denoiser(**denoiser_inputs()).sample.square().mean().backward()
        return [parameter.grad for parameter in denoiser.parameters()], sum(kept)

    plain, checkpointed = tiny_denoiser().train(), tiny_denoiser().train()
    checkpointed.enable_gradient_checkpointing()
    (expected, many), (found, few) = gradients(plain), gradients(checkpointed)
    assert few < 0.7 * many and all(torch.allclose(*pair, atol=1e-7) for pair in zip(expected, found))


def test_attention_takes_diffusers_backends():
    denoiser, inputs = tiny_denoiser(), denoiser_inputs()
    with torch.no_grad():
        expected = denoiser(**inputs).sample
        denoiser.set_attention_backend("_native_math")
        assert len(denoiser.attn_processors) == 1 and torch.allclose(denoiser(**inputs).sample, expected, atol=1e-5)
        with pytest.raises(ValueError, match="backend"):
            denoiser.set_attention_backend("magic")


def test_a_reference_does_not_move_and_hides_nothing():
    """Whatever the weights; and of several references, each frame is compared with its own."""
    vae, reference = tiny_motion_vae(), torch.randn(2, 32, 10, 12)
    with torch.no_grad():
        flow, visibility = vae.motion(reference.repeat_interleave(2, 0), reference)
        assert flow.shape == (4, 2, 80, 96) and visibility.shape == (4, 1, 160, 192)
        assert flow.abs().max() < 1e-3 and (visibility == 1).all()
        frames = reference[:1] + 3 * torch.randn(2, 32, 10, 12)
        moved, hidden = vae.motion(frames, reference[:1])
        for known, expected in zip(vae.motion(frames, reference[:1], vae.motion_at_rest(reference[:1])), (moved, hidden)):
            assert torch.allclose(known, expected, atol=1e-3)
        at_rest = vae.motion_at_rest(reference)
        assert all(torch.allclose(alone, both[1:], atol=1e-4) for alone, both in zip(vae.motion_at_rest(reference[1:]), at_rest))
    assert moved.abs().max() > 0.1 and 0 <= hidden.min() < hidden.max() <= 1


def test_an_autoencoder_without_motion_loads_as_it_was(tmp_path):
    tiny_vae().save_pretrained(tmp_path / "old")
    tiny_motion_vae().save_pretrained(tmp_path / "new")
    old, new = (AutoencoderTempoSync.from_pretrained(tmp_path / name) for name in ("old", "new"))
    assert not old.knows_motion and new.knows_motion
    latents = torch.randn(1, 32, 4, 4)
    assert torch.equal(old.decode(latents).sample, new.decode(latents).sample)


def test_autoencoders_give_dictionaries_or_tuples():
    pixels, vae = torch.randn(1, 3, 64, 96), tiny_vae()
    latents, = vae.encode(pixels, return_dict=False)
    assert torch.equal(latents, vae.encode(pixels).latent)
    decoded, = vae.decode(latents, return_dict=False)
    assert torch.equal(decoded, vae.decode(latents).sample) and torch.equal(decoded, vae(pixels, return_dict=False)[0])
    assert torch.equal(decoded, vae(pixels).sample)


@pytest.mark.parametrize(("limit", "able"), [
    (None, True), ("AVX512_CORE_AMX", True), ("avx512_core_bf16", True), ("DEFAULT", True), ("AVX2", False), ("AVX512_CORE_VNNI", False)])
def test_bfloat16_is_for_cpus_that_may_multiply_it(monkeypatch, limit, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    if limit is None:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    else:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert has_fast_bfloat16() is able
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    assert not has_fast_bfloat16()
