import numpy as np
import pytest
import torch

from temposync_pipeline.data.identity_views import augment_view, face_ellipse
from temposync_pipeline.metrics.identity import embed_crops, equal_error_rate, proxy_csim, rank_one, roc_auc
from temposync_pipeline.models.identity_encoder import IdentityEncoder
from temposync_pipeline.training import identity
from temposync_pipeline.training.identity_views import IdentityViewsWriter, add_clip, add_portrait

from .tiny_components import picture, tiny_vae


def person(number: int) -> np.ndarray:
    """A face-like pattern of its own frequency, uint8 [256, 256, 3]."""
    y, x = np.mgrid[:256, :256]
    wave = np.sin(x / (4 + 5 * number)) * np.cos(y / (30 - 6 * number))
    return np.repeat((128 + 100 * wave).astype(np.uint8)[..., None], 3, axis=2)


def speaking(crop: np.ndarray, count: int = 4) -> np.ndarray:
    """The mouth brighter from frame to frame."""
    crops = np.repeat(crop[None], count, 0)
    for index in range(count):
        crops[index, 160:200, 90:166] = 40 * index
    return crops


@pytest.fixture(scope="module")
def views_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    for split, seed in (("train", 0), ("val", 1)):
        writer = IdentityViewsWriter(tiny_vae(), seed)
        for number in (0, 1):
            add_clip(writer, f"talker {number}", speaking(person(number), 6))
            add_clip(writer, f"talker {number}", speaking(person(number), 6))
        for number in (2, 3, 4):
            add_portrait(writer, f"portrait {number}", person(number), speaking(person(number)))
        writer.write(folder / f"{split}.safetensors")
    return folder


def test_augmented_views_differ_and_keep_the_face():
    crop = picture()
    views = [augment_view(crop, np.random.default_rng(seed)) for seed in range(12)]
    assert all(view.shape == crop.shape and view.dtype == np.uint8 for view in views)
    assert np.array_equal(views[0], augment_view(crop, np.random.default_rng(0)))
    # Structure survives light and camera: the luma of the face, mirrored or not, correlates with the original's.
    face = face_ellipse(0.6) > 0.5
    original = person(2)
    for seed in range(12):
        luma = augment_view(original, np.random.default_rng(seed)).mean(-1)
        best = max(np.corrcoef(luma[face], np.roll(flipped, (dy, dx), (0, 1))[face])[0, 1]
                   for flipped in (original.mean(-1), original.mean(-1)[:, ::-1]) for dy in range(-8, 9, 4) for dx in range(-8, 9, 4))
        assert best > 0.3


def test_face_ellipse_covers_eyes_and_mouth_but_no_corner():
    face = face_ellipse()
    assert face[80, 75] > 0.9 and face[80, 181] > 0.9 and face[185, 128] > 0.99
    assert face[0, 0] == face[255, 255] == 0


def test_views_file_says_who_where_and_how(views_folder):
    views = identity.IdentityViews(views_folder / "train.safetensors")
    assert views.latents.shape == (4 * 6 + 3 * 4, 32, 16, 16)
    assert views.talkers == [0, 1] and views.portraits == [2, 3, 4]
    assert views.recording.unique().tolist() == list(range(7)) and views.plain[views.filmed].sum() == 8
    latents, who = views.draw(people=4, views=3, talker_share=0.5)
    assert latents.shape == (12, 32, 16, 16) and latents.dtype == torch.float32
    people, counts = who.unique(return_counts=True)
    assert counts.tolist() == [3] * 4 and set(people.tolist()) >= {0, 1}
    # Asked for more than there are, it brings everybody.
    assert views.draw(people=9, views=2, talker_share=0.1)[1].unique().tolist() == [0, 1, 2, 3, 4]


def test_hiding_leaves_what_it_should():
    latents = torch.randn(6, 2, 16, 16)
    nothing = identity.Config(other_background=0, hidden_block=0, lower_face_only=0, latent_noise=0)
    assert torch.equal(identity.hide(latents, nothing), latents)
    background = identity.Config(other_background=1, hidden_block=0, lower_face_only=0, latent_noise=0)
    outside = identity.outside_face().expand_as(latents)
    changed = identity.hide(latents, background)
    assert torch.equal(changed[~outside], latents[~outside]) and 0.3 < outside.float().mean() < 0.7
    lower = identity.hide(latents, identity.Config(other_background=0, hidden_block=0, lower_face_only=1, latent_noise=0))
    assert not lower[:, :, :6].any() and torch.equal(lower[:, :, 9:], latents[:, :, 9:])


def test_swapping_the_window_takes_the_neighbours_lower_face():
    latents = torch.arange(3.0)[:, None, None, None].expand(3, 1, 16, 16)
    swapped = identity.swap_window(latents)
    assert swapped[:, 0, 0, 0].tolist() == [0, 1, 2] and swapped[:, 0, 10, 8].tolist() == [2, 0, 1]


def test_verification_counts_pairs_of_different_recordings():
    embeddings = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 2]]
    who, recording = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 2, 3, 4])
    figures = identity.verification_figures(embeddings, who, recording, across=True)
    assert figures == {"auc": 1, "eer": 0, "rank1": 1, "same": 1, "different": 0}
    assert identity.verification_figures(embeddings[:2], who[:2], recording[:2], across=False) == {}
    confused = identity.verification_figures(embeddings[[0, 0, 3, 3, 0, 5]], who, recording, across=True)
    assert confused["auc"] < 0.5 and confused["rank1"] < 0.5


def test_auc_and_equal_error_rate_on_known_scores():
    assert roc_auc(np.array([0.9, 0.8]), np.array([0.1, 0.2, 0.3])) == 1
    assert roc_auc(np.array([0.5, 0.5]), np.array([0.5])) == 0.5
    assert roc_auc(np.array([0.1, 0.6]), np.array([0.4, 0.5])) == 0.5
    assert equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 0
    assert equal_error_rate(np.array([1.0, 2, 3, 5]), np.array([0.0, 1.5, 0.2, 0.3])) == 0.25


def test_rank_one_ignores_pairs_that_do_not_count():
    similarity = np.array([[1, 0.9, 0.5], [0.9, 1, 0.2], [0.5, 0.2, 1]])
    same = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool)
    everything = ~np.eye(3, dtype=bool)
    # The second person has no other picture; the first is taken for the second, the third is recognised.
    assert rank_one(similarity, same, everything) == 0.5
    apart = everything.copy()
    apart[0, 1] = False
    assert rank_one(similarity, same, apart) == 1


def test_proxy_csim_is_one_for_the_picture_itself():
    vae, encoder = tiny_vae(), IdentityEncoder(channels=(8, 8, 8)).eval()
    frames = np.stack([person(0)] * 3)
    assert proxy_csim(encoder, vae, frames, person(0)) == pytest.approx(1, abs=1e-5)
    assert proxy_csim(encoder, vae, np.stack([person(3)] * 2), person(0)) < 0.9999
    embeddings = embed_crops(encoder, vae, np.stack([person(number) for number in range(3)]), batch_size=2)
    assert embeddings.shape == (3, 128) and np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_identity_stage_learns_to_tell_people_apart(views_folder, tmp_path):
    # An untrained autoencoder's latents are small: noise for unit variance would drown them.
    config = identity.Config(data=str(views_folder), output=str(tmp_path / "run"), max_steps=40, batch_size=5, views_per_identity=4,
                             talker_share=0.4, latent_noise=0.0, learning_rate=1e-3, mixed_precision="no", warmup_steps=10,
                             tensorboard=False)
    figures = identity.train(config)
    encoder = IdentityEncoder.from_pretrained(tmp_path / "run" / "identity_encoder")
    assert encoder.config.identity_channels == 128
    # An untrained network finds everybody alike.
    untrained = identity.measure(IdentityEncoder().eval(), identity.IdentityViews(views_folder / "val.safetensors"))
    for kind in ("portraits", "talkers"):
        assert figures[f"{kind}_same"] - figures[f"{kind}_different"] > untrained[f"{kind}_same"] - untrained[f"{kind}_different"] + 0.1
