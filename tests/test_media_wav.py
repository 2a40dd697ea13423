"""WAV files as streaming synthesis and careless recorders write them: every sample that is there is heard."""

import struct

import numpy as np
import pytest

from temposync_pipeline.media.audio import load_audio

RATE = 16_000
PCM, FLOAT = 1, 3
LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT\x0e\0\0\0Lavf62.12.102\0"


def wav(data: bytes, *, bits: int = 16, kind: int = PCM, container: int | None = None, valid: int | None = None,
        announced: int | None = None, channels: int = 1, after: bytes = b"") -> bytes:
    """A WAV of `data`; `valid` makes it WAVE_FORMAT_EXTENSIBLE, `container` is the width of a sample in bytes."""
    block = channels * (container or bits // 8)
    form = struct.pack("<HHIIHH", kind if valid is None else 0xFFFE, channels, RATE, RATE * block, block, bits)
    if valid is not None:
        form += struct.pack("<HHIH", 22, valid, 4, kind) + bytes.fromhex("000000001000800000aa00389b71")
    size = len(data) if announced is None else announced
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + data + after
    return b"RIFF" + struct.pack("<I", min(len(chunks) - len(data) + size, 2**32 - 1)) + chunks


def pcm(samples: np.ndarray, bits: int = 16) -> bytes:
    """Left-justified in its container, as the format asks."""
    container = 32 if bits > 16 else 16
    return (np.round(samples * (2 ** (bits - 1) - 1)).astype(f"<i{container // 8}") << (container - bits)).tobytes()


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """Three seconds that repeat nowhere: a part that is lost, moved or heard twice shows."""
    return (0.5 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 3000, 3 * RATE)) / RATE)).astype(np.float32)


def heard(tmp_path, content: bytes) -> np.ndarray:
    (tmp_path / "a.wav").write_bytes(content)
    return load_audio(tmp_path / "a.wav").samples


@pytest.mark.parametrize("announced", [None, 0, 2**32 - 1, 2**31 - 1], ids=["true", "0", "unknown", "sox"])
@pytest.mark.parametrize("after", [b"", LIST], ids=["bare", "tagged"])
def test_several_wavs_in_one_are_read_one_after_the_other(tmp_path, caplog, sound, announced, after):
    if announced is not None:
        after = b""  # Who does not know the length writes nothing after the samples.
    samples = heard(tmp_path, b"".join(wav(pcm(part), announced=announced, after=after) for part in np.array_split(sound, 4)))
    np.testing.assert_allclose(samples, sound, atol=1e-4)
    assert [record.getMessage() for record in caplog.records] == ["a.wav: 4 WAV files in one; all of them were read"]


def test_parts_may_store_their_samples_differently(tmp_path, sound):
    parts = np.array_split(sound, 3)
    content = wav(pcm(parts[0])) + wav(parts[1].tobytes(), bits=32, kind=FLOAT) + wav(pcm(parts[2], 24), bits=24, container=4)
    np.testing.assert_allclose(heard(tmp_path, content), sound, atol=1e-4)


@pytest.mark.parametrize("share", [2, 4, 20])
def test_what_the_header_does_not_cover_is_read_and_said(tmp_path, caplog, sound, share):
    data = pcm(sound)
    np.testing.assert_allclose(heard(tmp_path, wav(data, announced=len(data) // share)), sound, atol=1e-4)
    assert caplog.text.count("the header speaks of") == len(caplog.records) == 1


def rf64(data: bytes, announced: int | None = None) -> bytes:
    """The same, with sizes of 64 bits (EBU Tech 3306)."""
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 0, len(data) if announced is None else announced, 0, 0)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + wav(data, announced=2**32 - 1)[12:]


@pytest.mark.parametrize(("content", "message"), [
    (rf64, ""), (lambda data: rf64(data, 0), ""), (lambda data: rf64(data, len(data) // 4), "the header speaks of 0.75 s"),
    (lambda data: rf64(data[:48_000]) + rf64(data[48_000:]), "2 WAV files in one"),
    (lambda data: b"BW64" + rf64(data, 10**12)[4:], ""),
], ids=["true", "unknown", "a quarter", "joined", "made up"])
def test_sizes_of_64_bits(tmp_path, caplog, sound, content, message):
    np.testing.assert_allclose(heard(tmp_path, content(pcm(sound))), sound, atol=1e-4)
    assert message in caplog.text and len(caplog.records) == bool(message)


def test_sound_in_several_pieces_is_read_to_its_end(tmp_path, caplog, sound):
    first, *others = (pcm(part) for part in np.array_split(sound, 5))
    pieces = b"".join(b"data" + struct.pack("<I", len(data)) + data for data in others)
    np.testing.assert_allclose(heard(tmp_path, wav(first, after=LIST + pieces)), sound, atol=1e-4)
    assert [record.getMessage() for record in caplog.records] == ["a.wav: its sound lies in 5 pieces; all of them were read"]


@pytest.mark.parametrize("size", [4, 7])
@pytest.mark.parametrize("pad", [b"", b"\0"], ids=["bare", "padded"])
def test_chunks_of_odd_length_may_lack_their_padding(tmp_path, caplog, sound, size, pad):
    content, chunk = wav(pcm(sound)), b"LIST" + struct.pack("<I", size) + b"INFOxyz"[:size] + (pad if size % 2 else b"")
    place = content.index(b"data")
    content = content[:4] + struct.pack("<I", len(content) + len(chunk) - 8) + content[8:place] + chunk + content[place:]
    np.testing.assert_allclose(heard(tmp_path, content), sound, atol=1e-4)
    assert not caplog.records


def test_where_no_header_is_true_nothing_is_missing(tmp_path, caplog, sound):
    parts = [wav(pcm(part), announced=96_000) for part in np.array_split(sound, 3)]
    np.testing.assert_allclose(heard(tmp_path, b"".join(parts)), sound, atol=1e-4)
    assert [record.getMessage() for record in caplog.records] == ["a.wav: 3 WAV files in one; all of them were read"]


@pytest.mark.parametrize("announced", [0, 2_000_000_000, 2**31 - 1, 2**31, 2**32 - 37, 2**32 - 1, 2**28 - 1, 10**9 - 1, 10**8, 10**8 - 36])
def test_placeholders_for_the_length_are_no_alarm(tmp_path, caplog, sound, announced):
    np.testing.assert_allclose(heard(tmp_path, wav(pcm(sound), announced=announced)), sound, atol=1e-4)
    assert not caplog.records


def test_what_is_cut_off_is_said(tmp_path, caplog, sound):
    assert len(heard(tmp_path, wav(pcm(sound))[:RATE])) == RATE // 2 - 22
    assert "truncated; 15956 of 96000 bytes" in caplog.text


@pytest.mark.parametrize("after", [LIST, bytes(512), b"TAG" + bytes(125), b"abcd\4\0\0\0wxyz" + LIST],
                         ids=["LIST", "padding", "ID3", "unknown"])
@pytest.mark.parametrize("bits", [16, 8])
def test_what_follows_the_samples_is_no_sound(tmp_path, caplog, sound, after, bits):
    data = pcm(sound[:-1]) if bits == 16 else np.round(128 + 127 * sound[:-1]).astype(np.uint8).tobytes() + b"\0"  # padded to even
    samples = heard(tmp_path, wav(data, bits=bits, announced=len(data) - (bits == 8), after=after))
    np.testing.assert_allclose(samples, sound[:-1], atol=1e-4 if bits == 16 else 1e-2)
    assert not caplog.records


@pytest.mark.parametrize(("bits", "header"), [
    (24, dict(bits=32, valid=24)), (20, dict(bits=32, valid=20)), (16, dict(bits=32, valid=16)), (24, dict(bits=24, valid=24, container=4)),
    (24, dict(bits=24, container=4)), (20, dict(bits=20, container=4)), (12, dict(bits=12, container=2)),
], ids=str)
def test_padded_samples_are_read_at_their_containers_width(tmp_path, caplog, sound, bits, header):
    data = pcm(sound, bits)
    if bits == 16:
        data = (np.frombuffer(data, "<i2").astype("<i4") << 16).tobytes()
    np.testing.assert_allclose(heard(tmp_path, wav(data, **header)), sound, atol=2.0 ** (2 - bits))
    assert not caplog.records


def test_padded_stereo(tmp_path, sound):
    data = np.repeat(np.frombuffer(pcm(sound, 24), "<i4"), 2).tobytes()
    np.testing.assert_allclose(heard(tmp_path, wav(data, bits=32, valid=24, channels=2)), sound, atol=1e-5)
