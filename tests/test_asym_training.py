"""AsymTalker's stages learn, on faces made up of moving blobs, and their terms have the gradients that the formulas say."""

import pytest
import torch

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.models.transformer_talking_head import TalkingHeadTransformer
from temposync_pipeline.training import asym_student, asym_teacher
from temposync_pipeline.training.asym_student import AsymModel, student_terms
from temposync_pipeline.training.checkpointing import load_checkpoint
from temposync_pipeline.training.chunk_terms import adjacent_differences, distribution_matching, facial, flow_matching
from temposync_pipeline.training.chunks import chunk_sources, roll_out

from .test_read_training import COMMON, losses, runs  # noqa: F401

SHAPE = (2, 3, 4, 2, 2)


def random(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same_gradient(term, at: torch.Tensor) -> bool:
    """Whether autograd and central differences agree."""
    return torch.autograd.gradcheck(term, (at.clone().requires_grad_(True),), eps=1e-5, atol=1e-6)


def test_terms_in_closed_form_and_by_finite_differences():
    noise, clean, other, weight = random(0), random(1), random(2), torch.tensor([[0.5, 1.5], [1.0, 1.0]], dtype=torch.float64)
    assert flow_matching(noise - clean, noise, clean) == 0 and flow_matching(noise - clean + 2, noise, clean) == pytest.approx(4)
    assert adjacent_differences(clean + 3, clean) == pytest.approx(0, abs=1e-12)
    ramp = clean + torch.arange(4.0)[None, None, :, None, None]
    assert adjacent_differences(ramp, clean) == pytest.approx(1)
    assert facial(clean + 2, clean, weight) == pytest.approx(4)
    for term in (lambda x: flow_matching(x, noise, clean), lambda x: adjacent_differences(x, clean), lambda x: facial(x, clean, weight)):
        assert same_gradient(term, other)


def test_the_gradient_of_distribution_matching_is_the_scaled_difference_of_the_scores():
    made, real, fake = random(0).requires_grad_(True), random(1), random(2)
    distribution_matching(made, real, fake).backward()
    size = (made.detach() - real).abs().mean((1, 2, 3, 4), keepdim=True)
    assert torch.allclose(made.grad, (fake - real) / size / made.numel())
    still = random(0).requires_grad_(True)
    distribution_matching(still, real, real).backward()
    assert (still.grad == 0).all()


def config(stage, runs, name, **changes):  # noqa: F811
    extra = {"channels": 16, "num_layers": 1, "num_heads": 2} if stage is asym_teacher else {"critic_updates": 2, "max_chunks": 2}
    return stage.Config(data=str(runs), temporal_vae=str(runs / "temporal"), speech_autoencoder=str(runs / "speech"), chunk_frames=3,
                        kernel_frames=2, output=str(runs / name), validation_steps=2, **COMMON | extra | changes)


@pytest.fixture(scope="module")
def teacher(runs):  # noqa: F811
    asym_teacher.train(config(asym_teacher, runs, "asym_teacher", max_steps=50, learning_rate=1e-2, batch_size=16, cold_share=0.5))
    return runs / "asym_teacher"


def test_the_teacher_learns_to_go_on(teacher, runs):  # noqa: F811
    last = losses(teacher)[-1]
    assert float(last["ev"]) > 0.1 and 0.2 < float(last["std"]) < 1.5
    model = TalkingHeadTransformer.from_pretrained(teacher / "transformer")
    assert model.config.portrait_channels == 8 and (teacher / "scheduler" / "scheduler_config.json").is_file()


def test_the_student_is_trained_in_turns_with_its_critic_and_goes_on_where_it_stopped(teacher, runs):  # noqa: F811
    settings = {"teacher": str(teacher), "max_steps": 6}
    figures = asym_student.train(config(asym_student, runs, "student", **settings))
    assert set(figures) == {"ev", "std"}
    begun = TalkingHeadTransformer.from_pretrained(teacher / "transformer").state_dict()
    ended = TalkingHeadTransformer.from_pretrained(runs / "student" / "transformer").state_dict()
    assert any(not torch.equal(begun[name], ended[name]) for name in begun)
    assert int(load_checkpoint(runs / "student" / "checkpoint")["model"]["steps"]) == 6
    asym_student.train(config(asym_student, runs, "student", **settings | {"max_steps": 8}, resume=True))
    assert int(load_checkpoint(runs / "student" / "checkpoint")["model"]["steps"]) == 8


@pytest.fixture
def source(runs):  # noqa: F811
    return chunk_sources(config(asym_teacher, runs, "none", feature_noise=0.0), torch.device("cpu"))[0]


def test_chunks_follow_one_another_as_the_pipeline_makes_them(source):
    clips = source.draw(2, chunks=3)
    assert source.window == 17 and source.frames_of(3) == 33 == clips.frames.shape[2]
    second = source.chunk(clips, 1)
    assert second.latents.shape == (2, 8, 3, 8, 8) and second.codes.shape[:2] == (2, 3)
    assert torch.equal(second.latents, source.temporal.encode(clips.frames[:, :, 8:25], clips.reference).latent)


def test_a_gradient_reaches_the_last_chunk_alone_and_the_asymmetry_can_be_turned_off(source, teacher, runs):  # noqa: F811
    model = AsymModel(TalkingHeadTransformer.from_pretrained(teacher / "transformer"), 2).requires_grad_(True)
    assert [model.students_turn() for _ in range(6)] == [False, False, True, False, False, True]
    clips, cold = source.draw(2, chunks=2), torch.tensor([True, False])
    calls = []
    model.student.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    rolled = roll_out(model.student, source, clips, 2, 4, 1, cold)
    assert calls == [False] * 4 + [False, True]
    camera = rolled.chunk.latents[:, :, :2]
    assert rolled.made.requires_grad and torch.equal(rolled.made[:, :, :2], rolled.kernel) and not torch.allclose(rolled.kernel, camera)
    started = roll_out(model.student, source, clips, 1, 4, 0, cold)
    assert (started.kernel[0] == 0).all() and torch.equal(started.kernel[1], started.chunk.latents[1, :, :2])
    told = []
    frozen = TalkingHeadTransformer.from_pretrained(teacher / "transformer")
    frozen.register_forward_hook(lambda _, given, __: told.append(given[0][:, :, :2].clone()))
    for kernels in ("camera", "generated"):
        terms = student_terms(rolled, frozen, model.critic, source, config(asym_student, runs, "x", teacher="x", kernels=kernels))
        terms["matching"].backward(retain_graph=True)
    assert torch.allclose(told[0], camera) and torch.allclose(told[1], rolled.kernel)
    assert model.critic.leave.weight.grad is None and model.student.leave.weight.grad.abs().max() > 0
    with pytest.raises(InvalidInputError, match="expected camera or generated"):
        config(asym_student, runs, "x", kernels="none")
