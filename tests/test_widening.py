import torch

from temposync_pipeline.models.denoiser_temposync import TempoSyncDenoiser
from temposync_pipeline.training.widening import widen


def test_widening_keeps_the_function_and_tells_the_copies_apart():
    torch.manual_seed(0)
    narrow = TempoSyncDenoiser(block_out_channels=(32, 64), layers_per_block=(1, 1), mid_layers=1, embedding_channels=32).eval()
    for parameter in narrow.parameters():  # the layers that start at zero would hide mistakes
        torch.nn.init.normal_(parameter, std=0.1)
    wide = widen(narrow, torch.Generator().manual_seed(0)).eval()
    assert tuple(wide.config.block_out_channels) == (64, 128)
    inputs = dict(sample=torch.randn(2, 32, 10, 12), timestep=torch.tensor([0.1, 0.5]), reference=torch.randn(2, 32, 10, 12),
                  context=torch.randn(2, 32, 10, 12), visemes=torch.rand(2, 11, 15), identity=torch.randn(2, 128))
    expected = narrow(**inputs).sample
    assert expected.std() > 0.1
    assert torch.allclose(wide(**inputs).sample, expected, atol=1e-3)
    wide(**inputs).sample.square().mean().backward()
    gradient = wide.mid_blocks[0].conv1.weight.grad
    assert not torch.allclose(gradient[0::2], gradient[1::2], rtol=1e-2)
