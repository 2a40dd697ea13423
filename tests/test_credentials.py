"""Content credentials: what a file says of itself, who signs it, and that nothing is lost or leaked on the way."""

import base64
import importlib.util
import os
import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from temposync_pipeline.cli import main
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.files import cache_folder
from temposync_pipeline.media.video import VideoWriter
from temposync_pipeline.provenance import credentials
from temposync_pipeline.provenance.credentials import Credentials, SigningKey, choose_credentials, local_credentials, read_credentials
from temposync_pipeline.provenance.origin import Origin
from temposync_pipeline.provenance.verify import verify_video

from .test_bad_inputs import clip
from .tiny_components import picture, spoken, tiny_pipeline

c2pa = pytest.importorskip("c2pa")
ORIGIN = Origin("somebody/model", "0a1b2c", picture(), np.eye(2, 3))


def write(path: Path, provenance: bool | SigningKey = True) -> Path:
    with VideoWriter(path, complete=ORIGIN.signing(choose_credentials(provenance))) as writer:
        for _ in range(3):
            writer.write(picture(64, 96))
    return path


@pytest.fixture
def own_key(tmp_path) -> SigningKey:
    """What an authority would issue."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    root, leaf = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    chain = [credentials._certificate("Anna's studio", leaf, root), credentials._certificate("An authority", root, root)]
    files = SigningKey(tmp_path / "anna.pem", tmp_path / "anna.key")
    files.certificate.write_bytes(b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain))
    files.key.write_bytes(leaf.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def test_a_video_says_who_made_it_and_with_what(tmp_path):
    found = read_credentials(write(tmp_path / "a.mp4"))
    assert found == {
        "found": True, "state": "Valid", "signer": "TempoSync test certificate", "test_certificate": True,
        "generator": f"temposync-pipeline {credentials.__version__}", "model": "somebody/model 0a1b2c",
        "source_type": "trainedAlgorithmicMedia", "sources": 0}
    with c2pa.Reader(tmp_path / "a.mp4", context=credentials._context()) as reader:
        assert "thumbnail" not in reader.detailed_json()
    assert 0 < (tmp_path / "a.mp4").stat().st_size - write(tmp_path / "b.mp4", False).stat().st_size < 6000
    assert read_credentials(tmp_path / "b.mp4") == {"found": False, "state": "none"}


def test_a_changed_file_is_no_longer_vouched_for(tmp_path):
    content = bytearray(write(tmp_path / "a.mp4").read_bytes())
    content[-100] ^= 1
    (tmp_path / "a.mp4").write_bytes(content)
    found = read_credentials(tmp_path / "a.mp4")
    assert (found["found"], found["state"]) == (False, "Invalid")
    (tmp_path / "cut.mp4").write_bytes(content[:40])
    assert read_credentials(tmp_path / "cut.mp4") == {"found": False, "state": "unreadable"}
    assert read_credentials(clip(tmp_path / "a.mkv")) == {"found": False, "state": "none"}  # none can be in such a file


def test_the_test_certificate_is_made_once_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPOSYNC_CACHE", str(tmp_path / "new" / "cache"))
    first = local_credentials()
    kept = tmp_path / "new" / "cache" / "test-certificate.pem"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name] and kept.stat().st_mode & 0o777 == 0o600
    assert local_credentials() == first and first.key in kept.read_bytes()
    kept.write_text("damaged")
    credentials._make_test_credentials.cache_clear()
    assert local_credentials().key != first.key and local_credentials().key in kept.read_bytes()
    monkeypatch.setenv("TEMPOSYNC_CACHE", "/dev/null/nowhere")
    assert read_credentials(write(tmp_path / "a.mp4"))["found"]


def test_a_test_certificate_that_the_disk_damaged_is_made_again(tmp_path, monkeypatch):
    """In a bit that still reads, too: signed with it, no video would be whole, and none would be made until somebody removes it."""
    monkeypatch.setenv("TEMPOSYNC_CACHE", str(tmp_path))
    kept = tmp_path / "test-certificate.pem"
    for part, (place, bit) in [(0, (-3, 1)), (1, (-3, 1)), (0, (12, 8)), (0, (-3, 0))]:
        credentials._make_test_credentials.cache_clear()
        whole = local_credentials()
        written = [changed(one, place, bit) if number == part else one for number, one in enumerate(split(whole.certificates))]
        kept.write_bytes(whole.key + b"".join(written[:1] if not bit else written))
        credentials._make_test_credentials.cache_clear()
        assert local_credentials().key != whole.key and local_credentials() == local_credentials()


def test_a_certificate_that_is_out_of_date_is_no_change_of_the_file(tmp_path, monkeypatch, caplog, capsys):
    """As after the machine's clock was wrong; and what is signed then has another certificate, in the same process, too."""
    monkeypatch.setenv("TEMPOSYNC_CACHE", str(tmp_path / "cache"))
    credentials._make_test_credentials.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(credentials, "_TEST_DAYS", 4 / 86400)
        video, first = write(tmp_path / "a.mp4"), local_credentials()
    while read_credentials(video)["state"] == "Valid":
        time.sleep(0.2)
    found = read_credentials(video)
    assert (found["found"], found["state"]) == (True, "Out of date")
    with pytest.raises(SystemExit):
        main(["verify", str(video)])
    assert "out of date (the file is as it was signed, but today the certificate is not valid), signed by a test" in capsys.readouterr().out
    content = bytearray(video.read_bytes())
    content[-100] ^= 1
    video.write_bytes(content)
    found = read_credentials(video)
    assert (found["found"], found["state"]) == (False, "Invalid")
    assert not caplog.records
    assert read_credentials(write(tmp_path / "b.mp4"))["state"] == "Valid" and local_credentials().key != first.key
    assert [record.getMessage().split(" to ")[0] for record in caplog.records] == [
        f"test-certificate.pem: valid from {datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"]


def test_certificates_and_keys_of_an_unknown_kind_are_told(own_key, tmp_path):
    """Libraries have errors of their own for a version, a curve and a point that they do not know."""
    curve = bytes.fromhex("06052b81040022")  # P-384
    certificate, issuer = split(own_key.certificate.read_bytes())
    der, key = base64.b64decode(b"".join(certificate.split(b"\n")[1:-2])), base64.b64decode(
        b"".join(own_key.key.read_bytes().split(b"\n")[1:-2]))
    version, point = der.index(bytes.fromhex("a003020102")) + 4, der.index(curve) + len(curve) + 3
    other = SigningKey(tmp_path / "other.pem", tmp_path / "other.key")
    for place, value in ((version, 11), (der.index(curve) + 3, 0x01), (point, 9), (point + 5, der[point + 5] ^ 1)):
        other.certificate.write_bytes(pem(der[:place] + bytes([value]) + der[place + 1:], "CERTIFICATE") + issuer)
        with pytest.raises(InvalidInputError, match="^other.pem: not a certificate in PEM$"):
            choose_credentials(SigningKey(other.certificate, own_key.key))
    other.key.write_bytes(pem(key.replace(curve, bytes.fromhex("06052b81040122")), "PRIVATE KEY"))
    with pytest.raises(InvalidInputError, match="^other.key: not a private key in PEM"):
        choose_credentials(SigningKey(own_key.certificate, other.key))


def split(certificates: bytes) -> list[bytes]:
    end = b"-----END CERTIFICATE-----\n"
    return [part + end for part in certificates.split(end)[:-1]]


def pem(der: bytes, kind: str) -> bytes:
    return f"-----BEGIN {kind}-----\n".encode() + base64.encodebytes(der) + f"-----END {kind}-----\n".encode()


def changed(certificate: bytes, place: int, bits: int) -> bytes:
    der = bytearray(base64.b64decode(b"".join(certificate.split(b"\n")[1:-2])))
    der[place] ^= bits
    return pem(bytes(der), "CERTIFICATE")


def test_a_user_without_a_home_has_a_certificate_for_the_process(tmp_path, monkeypatch):
    """As with `docker run --user 54321`."""
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("TEMPOSYNC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert not cache_folder().exists() and not (cache_folder() / "openvino").is_dir()
    assert read_credentials(write(tmp_path / "a.mp4"))["found"]


def test_a_key_of_ones_own(own_key, tmp_path):
    found = read_credentials(write(tmp_path / "a.mp4", own_key))
    assert found["found"] and found["signer"] == "Anna's studio" and not found["test_certificate"]


def test_keys_that_cannot_be_used(own_key, tmp_path, monkeypatch):
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key

    other = tmp_path / "other.key"
    other.write_bytes(local_credentials().key)
    secret = tmp_path / "secret.key"
    secret.write_bytes(load_pem_private_key(own_key.key.read_bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")))
    empty = tmp_path / "empty.pem"
    empty.touch()
    for files, said in ((SigningKey(own_key.certificate, other), "other.key: not the key of anna.pem"),
                        (SigningKey(own_key.certificate, secret), "secret.key: not a private key in PEM without a password"),
                        (SigningKey(own_key.certificate, empty), "empty.pem: not a private key"),
                        (SigningKey(empty, own_key.key), "empty.pem: not a certificate")):
        with pytest.raises(InvalidInputError, match=said):
            choose_credentials(files)

    class Later(datetime):
        @classmethod
        def now(cls, zone):
            return datetime.now(zone) + timedelta(days=4000)

    monkeypatch.setattr(credentials, "datetime", Later)
    with pytest.raises(InvalidInputError, match=f"anna.pem: valid from {datetime.now(UTC) - timedelta(days=1):%Y-%m-%d} to "):
        choose_credentials(own_key)


def test_a_video_made_of_a_signed_one_keeps_its_credentials(tmp_path):
    source, edited = write(tmp_path / "source.mp4"), write(tmp_path / "edited.mp4", False)
    local_credentials().sign(edited, ORIGIN, source)
    found = read_credentials(edited)
    assert found["found"] and found["sources"] == 1 and found["source_type"] == "compositeWithTrainedAlgorithmicMedia"
    context = credentials._context()
    with c2pa.Reader(source, context=context) as before, c2pa.Reader(edited, context=context) as after:
        assert before.get_active_manifest()["label"] in after.json() and "thumbnail" not in after.detailed_json()


@pytest.mark.parametrize(("name", "codec"), [("a.mov", "mpeg4"), ("a.mkv", "mpeg4"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9"),
                                             ("a.mpg", "mpeg1video"), ("damaged.mp4", "mpeg4"), ("in truth an mkv.mp4", "mpeg4")])
def test_a_source_of_any_format_is_named(tmp_path, name, codec):
    """And the video is never said to be made by a model alone, nor is it lost for its source's sake."""
    source = clip(tmp_path / ("a.mkv" if "mkv" in name else name), codec).rename(tmp_path / name)
    if "damaged" in name:
        source.write_bytes(source.read_bytes() + b"\0\0\xff\xffuuid")
    edited = write(tmp_path / "edited.mp4", False)
    local_credentials().sign(edited, ORIGIN, source)
    found = read_credentials(edited)
    assert found["found"] and found["sources"] == 1 and found["source_type"] == "compositeWithTrainedAlgorithmicMedia"


def test_credentials_of_a_quicktime_source_are_kept(tmp_path):
    source, edited = write(tmp_path / "source.mp4").rename(tmp_path / "source.mov"), write(tmp_path / "edited.mp4", False)
    local_credentials().sign(edited, ORIGIN, source)
    context = credentials._context()
    with open(source, "rb") as file, c2pa.Reader("video/mp4", file, context=context) as before:
        label = before.get_active_manifest()["label"]
    with c2pa.Reader(edited, context=context) as after:
        assert label in after.json()


@pytest.mark.parametrize("fault", ["signing", "reading back"])
def test_nothing_is_lost_where_signing_fails(fault, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_text("the old video")
    if fault == "reading back":
        monkeypatch.setattr(credentials, "read_credentials", lambda path: {"found": False, "state": "Invalid"})
    else:
        whole = local_credentials()
        monkeypatch.setattr(credentials, "local_credentials", lambda: Credentials(whole.certificates, b"no key", whole.algorithm))
    with pytest.raises(OSError, match="read back as Invalid" if fault == "reading back" else "cannot be signed"):
        write(tmp_path / "a.mp4")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old video"]


def test_a_folder_that_went_before_signing_is_told_by_the_name_asked_for(tmp_path):
    output = tmp_path / "videos" / "a.mp4"
    output.parent.mkdir()

    def sign(path):
        shutil.rmtree(path.parent)
        local_credentials().sign(path, ORIGIN)

    with pytest.raises(FileNotFoundError) as found, VideoWriter(output, complete=sign) as writer:
        writer.write(picture(64, 96))
    assert found.value.filename == str(output) and ".temposync-" not in str(found.value)


def test_no_address_in_a_file_is_ever_asked(tmp_path):
    """A file may say that its credentials are elsewhere: by default, c2pa would fetch them."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    plain, own = write(tmp_path / "plain.mp4", False), local_credentials()
    with credentials._builder(ORIGIN, None) as builder:
        builder.set_no_embed()
        builder.set_remote_url(f"http://127.0.0.1:{server.server_port}/a.c2pa")
        builder.sign_file(plain, tmp_path / "a.mp4", c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", own.certificates, own.key, None)))
    assert not read_credentials(tmp_path / "a.mp4")["found"]
    local_credentials().sign(tmp_path / "plain.mp4", ORIGIN, tmp_path / "a.mp4")
    assert asked == []
    with pytest.raises(c2pa.C2paError):
        c2pa.Reader(tmp_path / "a.mp4")
    assert asked == ["/a.c2pa"]
    server.shutdown()


@pytest.mark.makes_videos
def test_without_the_libraries_the_other_marks_stay(own_key, tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "c2pa" else found(name, *rest))
    output = tiny_pipeline()(picture(), spoken(), num_inference_steps=1)
    output.save(tmp_path / "a.mp4")
    with pytest.raises(InvalidInputError, match=r"pip install 'temposync-pipeline\[provenance\]'"):
        output.save(tmp_path / "b.mp4", provenance=own_key)
    assert verify_video(tmp_path / "a.mp4")["metadata"]["found"]
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "a.mp4")])
    assert ended.value.code == 0 and "content credentials: not looked for" in capsys.readouterr().out


@pytest.mark.makes_videos
def test_pipelines_and_commands_sign(own_key, tmp_path, capsys):
    output = tiny_pipeline()(picture(), spoken(), num_inference_steps=1)
    output.save(tmp_path / "a.mp4", provenance=own_key)
    with pytest.raises(SystemExit):
        main(["verify", str(tmp_path / "a.mp4")])
    assert "content credentials: valid, signed by Anna's studio: trainedAlgorithmicMedia, temposync-pipeline" in capsys.readouterr().out
    shutil.copy(tmp_path / "a.mp4", tmp_path / "audio.wav")
    command = ["generate", "--image", str(own_key.key), "--audio", str(tmp_path / "audio.wav"), "--output", str(tmp_path / "o.mp4")]
    for options, said in ((["--signing-cert", str(own_key.certificate)], "go together"),
                          (["--signing-cert", str(own_key.key), "--signing-key", str(own_key.key)], "anna.key: not a certificate"),
                          (["--signing-cert", "x", "--signing-key", "y", "--no-provenance"], "--no-provenance")):
        with pytest.raises(SystemExit) as ended:
            main(command + options)
        assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("provenance", [None, 1, "yes", ("anna.pem", "anna.key"), ["anna.pem", "anna.key"]])
def test_what_is_no_provenance_is_told(provenance):
    """A pair of files that is no SigningKey would be signed with the test certificate, None would take the marks off."""
    with pytest.raises(InvalidInputError, match=f"^provenance: a {type(provenance).__name__}, expected True, False or a SigningKey$"):
        choose_credentials(provenance)


def test_keys_are_files_of_a_keys_size(own_key, tmp_path):
    os.mkfifo(tmp_path / "pipe.pem")
    (tmp_path / "large.pem").write_bytes(own_key.certificate.read_bytes())
    os.truncate(tmp_path / "large.pem", 2**33)
    for name, message in (("pipe.pem", "pipe.pem: a pipe or a device, not a file"), (".", "a folder, not a file"),
                              ("large.pem", "8589934592 bytes, above the limit")):
        for files in (SigningKey(tmp_path / name, own_key.key), SigningKey(own_key.certificate, tmp_path / name)):
            with pytest.raises(InvalidInputError, match=message):
                choose_credentials(files)


@pytest.mark.parametrize(("path", "said"), [
    (None, "a SigningKey of a NoneType, expected two files' names"), (3, "a SigningKey of a int, expected two files' names"),
    (b"anna.pem", "a SigningKey of a bytes, expected two files' names"), ("anna\0.pem", "no file's name has a NUL in it"),
])
def test_keys_that_are_no_names_of_files_are_told(own_key, path, said):
    for files in (SigningKey(path, own_key.key), SigningKey(own_key.certificate, path)):
        with pytest.raises(InvalidInputError, match=f"^provenance: {said}$"):
            choose_credentials(files)
