"""Corpora and labels in .npz: what they claim, and what they are."""

import io
import json
import os
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from temposync_pipeline.data.aligner_data import load_portraits
from temposync_pipeline.data.arrays import read_arrays
from temposync_pipeline.data.denoised_latents import NUM_WAYS
from temposync_pipeline.data.inner_mouths import InnerMouths, portrait_faces
from temposync_pipeline.data.motion_pairs import MotionPairs
from temposync_pipeline.data.speaking_portraits import SpeakingPortrait
from temposync_pipeline.data.viseme_corpus import load_utterances
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.export.files import exported_file
from temposync_pipeline.training import aligner, autoencoder, visemes
from temposync_pipeline.training.ear import load_performances
from temposync_pipeline.training.face_latents import portrait_landmarks
from temposync_pipeline.training.lip_corpus import load_recordings

READERS = {
    "utterances": load_utterances, "a talker": SpeakingPortrait.load, "mouths": InnerMouths.load, "recordings": load_recordings,
    "portraits": lambda path: load_portraits(path.parent, path.parent, False), "faces": lambda path: next(portrait_landmarks(path)),
    "more faces": lambda path: next(portrait_faces(path.parent, path, 1, np.random.default_rng())),
    "performances": lambda path: load_performances(path.parent, None, None),
}


def claiming(*names) -> bytes:
    """An .npz whose arrays say that they have 100,000,000 rows."""
    header, packed = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**8, 4)})
    with zipfile.ZipFile(packed, "w") as file:
        for name in names:
            file.writestr(f"{name}.npy", header.getvalue())
    return packed.getvalue()


@pytest.mark.parametrize("reader", READERS)
def test_an_npz_that_is_none_is_told(tmp_path, reader):
    path = tmp_path / "portraits.npz"
    np.savez(path, other=np.zeros(3))
    with pytest.raises(InvalidInputError, match="^portraits.npz: no array '"):
        READERS[reader](path)
    names = ("names", "sources", "samples", "lengths", "segments", "counts", "jpeg", "offsets", "landmarks", "driver", "start", "motion",
             "frames", "landmarks", "kinds", "people", "tokens", "visemes", "loudness", "shapes", "hidden", "levels")
    for content in (b"", b"text", claiming(*dict.fromkeys(names))):
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match="^portraits.npz: no "):
            READERS[reader](path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InvalidInputError, match="^portraits.npz: a pipe or a device, not a file$"):
        READERS[reader](path)


def test_arrays_have_an_end(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", large=np.zeros(100_000), small=np.arange(9), name=np.array("é"), thing=np.array([{}], object))
    monkeypatch.setattr("temposync_pipeline.data.arrays.MAX_MEDIA_BYTES", 1000)
    found = read_arrays(tmp_path / "a.npz", "small", "name")
    assert found["small"].tolist() == [*range(9)] and str(found["name"]) == "é"
    for names, message in ((("small", "large"), "arrays of 800072 bytes, above the limit of 1000"),
                           (("thing",), "no readable .npz with thing")):
        with pytest.raises(InvalidInputError, match=f"^a.npz: {message}$"):
            read_arrays(tmp_path / "a.npz", *names)


@pytest.mark.parametrize("stage", [aligner, visemes])
def test_settings_of_the_stages_of_their_own_are_checked(tmp_path, monkeypatch, capsys, stage):
    config = tmp_path / "a.yaml"
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, content, message in (("a.yaml", "#" * 1_000_001, "1000001 bytes, above the limit of 1000000"), ("a.yaml", "[1", "not YAML"),
                                   ("a.yaml", "nothing: 1", "not a setting of this stage"), ("pipe.yaml", "", "a pipe or a device")):
        config.write_text(content)
        monkeypatch.setattr(sys, "argv", ["train", "--config", str(tmp_path / name)])
        with pytest.raises(SystemExit) as ended:
            stage.main()
        said = capsys.readouterr().err.splitlines()[-1]
        assert ended.value.code == 2 and message in said and str(tmp_path) not in said


@pytest.mark.parametrize("filling", ["", " " * 1_000_001, "[" * 100_000])
def test_an_index_of_exported_networks_has_an_end(tmp_path, filling):
    """Without one the network is exported again."""
    network = SimpleNamespace(name="decoder")
    (tmp_path / "decoder.onnx").touch()
    (tmp_path / "export.json").write_text(filling + json.dumps({"format": "onnx", "networks": {"decoder": {"weights": "0"}}}))
    assert (exported_file(tmp_path, network, "0") is None) == bool(filling)


@pytest.mark.parametrize("split", ["train", "val"])
def test_crops_that_are_none_are_told(tmp_path, split):
    crops = np.zeros((2, 256, 256, 3), np.uint8)
    for name in ("portraits_train", "talkers_train", "talkers_hq_train", "portraits_val", "talkers_val"):
        np.save(tmp_path / f"{name}.npy", crops)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**8, 256, 256, 3)})
    path = tmp_path / f"talkers_{split}.npy"
    config = autoencoder.Config(data=str(tmp_path), output=str(tmp_path / "run"), max_steps=1, mixed_precision="no")
    for content in (b"", b"text", header.getvalue(), np.array([None]), crops.astype(np.float32), crops[:0], crops[:, :200], crops[0]):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content, allow_pickle=True)
        with pytest.raises(InvalidInputError, match=rf"^talkers_{split}.npy: (no readable|uint8|float32)"):
            autoencoder.train(config)
    path.unlink()
    with pytest.raises(InvalidInputError, match=rf"talkers_{split}.npy: no such file; python -m temposync_pipeline.data.pack writes it"):
        autoencoder.train(config)


def test_pairs_that_do_not_fit_together_are_told(tmp_path):
    pairs = MotionPairs(
        np.zeros((2, 160, 192, 3), np.uint8), np.zeros((2, 4, 10, 12), np.int8), np.zeros((3, 160, 192, 3), np.uint8),
        np.zeros((3, NUM_WAYS, 4, 10, 12), np.int8), np.array([0, 1, 1], np.int32), np.zeros(3, np.uint8),
        np.zeros((3, 2, 80, 96), np.float16), np.zeros((3, 160, 192), np.uint8))
    pairs.save(tmp_path)
    assert np.array_equal(MotionPairs.load(tmp_path).owners, [0, 1, 1])
    for name, array, said in (("kinds", np.zeros(2, np.uint8), "2 entries, expected 3"),
                              ("latents", np.zeros((3, 4, 10, 12), np.float16), r"float16 \[3, 4, 10, 12\], expected int8"),
                              ("flow", pairs.flow[:, :1], r"float16 \[3, 1"),
                              ("owners", np.array([0, 1, 2], np.int32), "numbers outside the limits of 0 to 1")):
        pairs.save(tmp_path)
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(InvalidInputError, match=f"^{name}.npy: {said}"):
            MotionPairs.load(tmp_path)
