"""Content credentials (C2PA): a signed statement inside the mp4 or GIF that says who made it and with what; a re-encoding loses it.

They need `pip install 'temposync-pipeline[provenance]'` (c2pa-python and cryptography). Nothing is fetched, and no thumbnail is made: it
would be the user's face. Without a certificate of one's own the statement is signed with a test certificate, made on first use and kept in
the user's cache folder: it proves that the file was not changed since, not who made it.
"""

import importlib.util
import logging
import os
import warnings
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from .. import __version__
from ..errors import InvalidInputError
from ..files import cache_folder, read_bounded, unfinished
from ..interrupts import interrupts_held
from ..limits import MAX_CONFIG_BYTES

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from .origin import Origin

logger = logging.getLogger(__name__)

PRODUCT = "temposync-pipeline"
TEST_NAME = "TempoSync test certificate"
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# What a video's credentials may say of how it came about that makes it AI-generated: as a whole, or in part, as where a video was dubbed.
GENERATED, EDITED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
_SETTINGS = {"version": 1, "builder": {"thumbnail": {"enabled": False}}, "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_TEST_DAYS = 3650
_SOURCE = {"title": "source", "relationship": "parentOf"}
# Containers in which C2PA looks for credentials, by their first bytes: a name may be any.
_SIGNATURES = ((4, b"ftyp", "video/mp4"), (8, b"AVI ", "video/x-msvideo"), (0, b"GIF8", "image/gif"))
OUT_OF_DATE = "Out of date"
# What c2pa finds at fault in a file that is as it was signed, by a certificate that was valid then: nobody it knows, or not valid today.
_UNTRUSTED, _EXPIRED = "signingCredential.untrusted", "signingCredential.expired"
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


class OutOfDateError(InvalidInputError):
    """A certificate that is not valid today."""


class SigningKey(NamedTuple):
    """Files in PEM: a certificate, followed by those that it was issued by, and its private key without a password."""

    certificate: str | PathLike
    key: str | PathLike


class Credentials(NamedTuple):
    """What signs: certificates and private key in PEM, and the algorithm by C2PA's name."""

    certificates: bytes
    key: bytes
    algorithm: str

    @interrupts_held()
    def sign(self, path: Path, origin: "Origin", source: Path | None = None) -> None:
        """Put content credentials into an mp4 or a GIF.

        The signed copy takes the file's place once it has been read back; on any error the file stays as it was.

        Args:
            source: the video that this one was made from, if any: its own credentials stay readable inside.

        Raises OSError where that fails.
        """
        import c2pa

        signed = unfinished(path)
        try:
            with c2pa.Signer.from_info(c2pa.C2paSignerInfo(self.algorithm.encode(), self.certificates, self.key, None)) as signer, \
                    _builder(origin, source) as builder:
                builder.sign_file(path, signed, signer)
            if not (report := read_credentials(signed))["found"]:
                raise OSError(f"the content credentials read back as {report['state']}")
            os.replace(signed, path)
        except c2pa.C2paError as error:
            if isinstance(cause := error.__cause__, OSError) and cause.errno:  # without the hidden names, of which the user knows nothing
                raise OSError(cause.errno, cause.strerror) from error
            raise OSError(f"the video cannot be signed: {error}") from error
        finally:
            signed.unlink(missing_ok=True)


class LocalCredentials:
    """The test certificate (`local_credentials`), looked for when something is to be signed: until then its libraries take no memory."""

    def sign(self, path: Path, origin: "Origin", source: Path | None = None) -> None:
        """See `Credentials.sign`."""
        local_credentials().sign(path, origin, source)


def is_available() -> bool:
    """Whether the libraries are installed that content credentials need."""
    return all(importlib.util.find_spec(name) is not None for name in ("c2pa", "cryptography"))


def choose_credentials(provenance: bool | SigningKey) -> Credentials | LocalCredentials | None:
    """What signs a video: a certificate of the user's own, or the test certificate; None where nothing is to be signed, or nothing can be.

    Raises InvalidInputError for anything else, for a certificate or key that cannot be used, or where the libraries are missing that
    would use them.
    """
    if not isinstance(provenance, (bool, SigningKey)):  # a mere pair of files would be signed with the test certificate
        raise InvalidInputError(f"provenance: a {type(provenance).__name__}, expected True, False or a SigningKey")
    if not is_available():
        if isinstance(provenance, SigningKey):
            raise InvalidInputError("signing needs c2pa-python and cryptography: pip install 'temposync-pipeline[provenance]'")
        return None
    if isinstance(provenance, SigningKey):
        return load_credentials(provenance)
    return LocalCredentials() if provenance else None


def load_credentials(files: SigningKey) -> Credentials:
    """Read and check a certificate and its key; raises InvalidInputError and OSError."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificate, key = map(_checked, files)
    written, secret = read_bounded(certificate, MAX_CONFIG_BYTES), read_bounded(key, MAX_CONFIG_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later version will refuse
            chain = x509.load_pem_x509_certificates(written)
            public = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise InvalidInputError(f"{certificate.name}: not a certificate in PEM") from error
    try:
        private = load_pem_private_key(secret, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(f"{key.name}: not a private key in PEM without a password") from error
    if private.public_key() != public:
        raise InvalidInputError(f"{key.name}: not the key of {certificate.name}")
    _check_validity(chain[0], certificate.name)
    return _credentials(chain, private, _algorithm(private, key.name))


def _checked(path: str | PathLike) -> Path:
    """Raises InvalidInputError for what can be no file's name."""
    if not isinstance(path, (str, PathLike)):
        raise InvalidInputError(f"provenance: a SigningKey of a {type(path).__name__}, expected two files' names")
    if "\0" in os.fsdecode(path):
        raise InvalidInputError("provenance: no file's name has a NUL in it")
    return Path(os.fsdecode(path))


def _credentials(chain: "list[Certificate]", private: Any, algorithm: str) -> Credentials:
    """In the one form of PEM that c2pa reads."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Credentials(b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
                       private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), algorithm)


def _check_validity(certificate: "Certificate", name: str) -> None:
    now, begins, ends = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= now <= ends:
        raise OutOfDateError(f"{name}: valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}, today is {now:%Y-%m-%d}")


def _check_issued(credentials: Credentials, name: str) -> None:
    """Raises InvalidInputError unless each certificate is as its issuer signed it, the last one by itself."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    chain = x509.load_pem_x509_certificates(credentials.certificates)
    try:
        for certificate, issuer in zip(chain, (*chain[1:], chain[-1]), strict=True):
            certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise InvalidInputError(f"{name}: damaged") from error


def _algorithm(private: Any, name: str) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in _CURVES:
        return _CURVES[private.curve.name]
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= 2048:
        return "ps256"
    raise InvalidInputError(f"{name}: neither P-256, P-384, P-521, Ed25519 nor RSA of 2,048 bits or more")


def local_credentials() -> Credentials:
    """The test certificate, made where there is none that is whole and valid; where it cannot be kept, one for this process alone."""
    path = cache_folder() / "test-certificate.pem"
    try:
        kept = load_credentials(SigningKey(path, path))
        _check_issued(kept, path.name)
        return kept
    except OutOfDateError as error:
        logger.warning("%s: another test certificate is made; if the clock is wrong, what it signs will be out of date later", error)
        _make_test_credentials.cache_clear()
    except (InvalidInputError, OSError):
        pass
    made = _make_test_credentials()
    temporary = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made.key + made.certificates)
        os.replace(temporary, path)
    except OSError as error:
        logger.debug("the test certificate is not kept: %s", error)
        with suppress(OSError):
            temporary.unlink()
    return made


@lru_cache(maxsize=1)
def _make_test_credentials() -> Credentials:
    """A root and a leaf that name nobody, as C2PA wants them: P-256, for signatures and e-mail protection."""
    from cryptography.hazmat.primitives.asymmetric import ec

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    return _credentials([_certificate(TEST_NAME, leaf, root), _certificate(f"{TEST_NAME}, root", root, root)], leaf, "es256")


def _certificate(name: str, key: Any, root: Any) -> "Certificate":
    """A certificate of `key`, issued by `root`, which may be the same."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def called(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "TempoSync"), x509.NameAttribute(NameOID.COMMON_NAME, text)])

    is_root, now = key is root, datetime.now(UTC)
    usage = x509.KeyUsage(digital_signature=not is_root, key_cert_sign=is_root, crl_sign=False, content_commitment=False,
                          key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False)
    builder = (
        x509.CertificateBuilder(called(f"{TEST_NAME}, root"), called(name), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=_TEST_DAYS))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=0 if is_root else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False))
    if not is_root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(root, SHA256())


def _context() -> Any:
    import c2pa

    return c2pa.Context.from_dict(_SETTINGS)


def _builder(origin: "Origin", source: Path | None) -> Any:
    """The statement: created by this model, or edited by it out of `source`."""
    import c2pa

    builder = c2pa.Builder({"claim_generator_info": [{"name": PRODUCT, "version": __version__}]}, context=_context())
    model = {"name": origin.model} | ({"version": origin.revision} if origin.revision else {})
    action = {"action": "c2pa.created", "digitalSourceType": _SOURCE_TYPES + GENERATED, "softwareAgent": model}
    if source is None:
        builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA)
    else:
        builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
        _add_source(builder, source)
        action |= {"action": "c2pa.edited", "digitalSourceType": _SOURCE_TYPES + EDITED}
    builder.add_action(action)
    return builder


def _add_source(builder: Any, source: Path) -> None:
    """What the video was edited out of; of a format that C2PA cannot read, or a damaged file, without credentials that it may hold."""
    import c2pa

    with open(source, "rb") if source.is_file() else BytesIO() as file:  # it may be gone by now
        if kind := _kind_of(file):
            with suppress(c2pa.C2paError):
                builder.add_ingredient(_SOURCE, kind, file)
                return
        file.seek(0)
        builder.add_ingredient(_SOURCE, "application/octet-stream", file)


def _kind_of(file: BinaryIO) -> str | None:
    """The media type by which c2pa knows a container; None for those that hold no credentials."""
    head = file.read(12)
    file.seek(0)
    return next((kind for place, mark, kind in _SIGNATURES if head[place:].startswith(mark)), None)


@interrupts_held()
def read_credentials(path: str | PathLike) -> dict[str, Any]:
    """What the content credentials in a video say, without asking any server.

    Returns {"found": whether they are whole and say that the video is AI-generated, "state": "Trusted", "Valid" (whole, by a signer whom
    this machine does not know), "Out of date" (whole, by a certificate that is not valid today), "Invalid" (the file was changed), "none",
    "unreadable" or "not looked for" (c2pa-python is not installed), and where there are some "signer", "test_certificate", "generator",
    "model", "source_type" and "sources", how many videos or pictures it was made from}. Raises OSError.
    """
    if importlib.util.find_spec("c2pa") is None:
        return {"found": False, "state": "not looked for"}
    import c2pa

    try:
        with open(path, "rb") as file, _context() as context:
            kind = _kind_of(file)
            reader = kind and c2pa.Reader.try_create(kind, file, context=context)
            if not reader:
                return {"found": False, "state": "none"}
            with reader:
                return _summary(reader.get_active_manifest() or {}, _state(reader))
    except c2pa.C2paError as error:
        logger.debug("content credentials: %s", error)
        return {"found": False, "state": "unreadable"}


def _state(reader: Any) -> str:
    """By c2pa's word, which calls invalid what was signed by a certificate that has expired since, too."""
    active = (reader.get_validation_results() or {}).get("activeManifest", {})
    faults = {fault.get("code") for fault in active.get("failure", [])}
    return OUT_OF_DATE if _EXPIRED in faults and faults <= {_EXPIRED, _UNTRUSTED} else reader.get_validation_state()


def _summary(manifest: dict[str, Any], state: str) -> dict[str, Any]:
    actions = [action for assertion in manifest.get("assertions", []) if assertion.get("label", "").startswith("c2pa.actions")
               for action in assertion.get("data", {}).get("actions", [])]
    types = [action["digitalSourceType"].rpartition("/")[2] for action in actions if action.get("digitalSourceType")]
    source_type = next((name for name in types if name in (GENERATED, EDITED)), types[0] if types else None)
    agents = [action["softwareAgent"] for action in actions if isinstance(action.get("softwareAgent"), dict)]
    signer = manifest.get("signature_info", {}).get("common_name") or manifest.get("signature_info", {}).get("issuer")
    return {"found": state in ("Valid", "Trusted", OUT_OF_DATE) and source_type in (GENERATED, EDITED), "state": state, "signer": signer,
            "test_certificate": signer == TEST_NAME, "generator": _named(manifest.get("claim_generator_info", [])),
            "model": _named(agents), "source_type": source_type, "sources": len(manifest.get("ingredients", []))}


def _named(programs: list[dict[str, Any]]) -> str | None:
    """Name and version of the first program in a list of C2PA's."""
    return f"{programs[0].get('name', '')} {programs[0].get('version', '')}".strip() if programs else None
