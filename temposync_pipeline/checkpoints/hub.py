"""Checkpoints from the Hugging Face Hub: safetensors only, kept in the Hub's own cache, every file checked against its published hash."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

from ..errors import InvalidInputError
from .files import INDEX, weight_files
from .schema import read_json

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


def download_checkpoint(
    repo_id: str,
    components: Iterable[str],
    *,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Fetch what is missing of a repository's components; returns the folder in the cache.

    When the Hub cannot be reached, a complete cache is enough.  Hashes are checked at every load (SHA-256 for weights, git's own for
    small files), so that a cache that went bad on disk is found, too.

    Args:
        repo_id: "org/name". components: folders to fetch, such as "vae" or "teacher". revision: branch, tag or commit.
        variant: "fp16" takes `*.fp16.safetensors` where a component has them and the plain weights where it has not.
        cache_dir, token, local_files_only, force_download: as everywhere in huggingface_hub.

    Raises:
        InvalidInputError: no such repository, revision, component or variant, pickled weights only, or a damaged file, which is removed
            from the cache.
        ConnectionError: the Hub cannot be reached and the cache is incomplete, or the download broke off.
    """
    cache = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    components = sorted(components)
    try:
        with _one_sentence(repo_id, revision):
            folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=INDEX, tqdm_class=_NoBar, **cache))
            try:
                tree = {file.path: file for file in get_cached_repo_tree(repo_id, revision=folder.name, cache_dir=cache_dir)}
            except CachedRepoTreeNotFoundError:
                return _without_listing(repo_id, folder, components, variant)
            wanted = [name for name in (INDEX,) if name in tree] + select_files(repo_id, tree, components, variant)
            snapshot_download(repo_id, revision=folder.name, allow_patterns=wanted, force_download=force_download, **cache)
    except ConnectionError:
        if not local_files_only:
            with suppress(ConnectionError):
                return download_checkpoint(
                    repo_id, components, revision=revision, variant=variant, cache_dir=cache_dir, token=token, local_files_only=True)
        raise
    _verify(repo_id, folder, {name: tree[name].lfs.sha256 if tree[name].lfs else tree[name].blob_id for name in wanted})
    return folder


def _without_listing(repo_id: str, folder: Path, components: Iterable[str], variant: str | None) -> Path:
    """For a cache that was filled file by file, and so has no listing of the repository: checks that what is there is whole by itself.

    The cache names files by their published hashes, so these are checked, too.
    """
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    missing = [component for component in components if not any(re.fullmatch(f"{component}/.*config.json", name) for name in names)]
    wanted = [] if missing else [INDEX] * (INDEX in names) + select_files(repo_id, names, components, variant)
    for component in components:
        own = [name for name in wanted if name.startswith(f"{component}/")]
        if f"{component}/config.json" in own and not any(name.endswith(".safetensors") for name in own):
            missing.append(f"{component}'s weights")
        for index in (name for name in own if ".index." in name):
            shards = set(read_json(folder / index).get("weight_map", {}).values())
            missing += sorted({f"{component}/{shard}" for shard in shards} - set(names))
    if missing:
        raise LocalEntryNotFoundError(f"not in the cache: {', '.join(missing)}")
    _verify(repo_id, folder, {name: (folder / name).resolve().name for name in wanted if (folder / name).is_symlink()})
    return folder


def select_files(source: str, names: Iterable[str], components: Iterable[str], variant: str | None = None) -> list[str]:
    """Of a checkpoint's files ("vae/config.json", …) those that its components are loaded from; raises `InvalidInputError`."""
    names, selected, found_variant = list(names), [], variant is None
    for component in components:
        own = [name for name in names if re.fullmatch(rf"{re.escape(component)}/[\w.-]+", name)]
        if not any(name.endswith("config.json") for name in own):
            raise InvalidInputError(f"{source}: it has no component {component!r}")
        weights = weight_files(own, variant)
        found_variant |= bool(weights)
        weights = weights or weight_files(own)
        if not weights and any(name.endswith(PICKLES) for name in own):
            raise InvalidInputError(f"{source}: the weights of {component!r} are pickled, and only safetensors are ever loaded")
        selected += [name for name in own if name.endswith(".json")] + weights
    if not found_variant:
        raise InvalidInputError(f"{source}: no component has weights of the variant {variant!r}")
    return selected


def _verify(repo_id: str, folder: Path, published: Mapping[str, str]) -> None:
    """Raises InvalidInputError, and removes from the cache, where a file has not its published hash: SHA-256, or git's own."""
    damaged = [name for name, digest in published.items() if _digest(folder / name, sha256=len(digest) == 64) != digest]
    for name in damaged:
        (folder / name).resolve().unlink()  # the cache's blob; where there are no symlinks, the file itself
        (folder / name).unlink(missing_ok=True)
    if damaged:
        raise InvalidInputError(f"{repo_id}: {', '.join(damaged)}: not the published SHA-256; removed from the cache, so try again")


def _digest(path: Path, sha256: bool) -> str:
    with path.open("rb") as stream:
        if sha256:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        content = stream.read()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _NoBar(tqdm):
    """For one small file."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **{**settings, "disable": True})


@contextmanager
def _one_sentence(repo_id: str, revision: str | None) -> Iterator[None]:
    """Everything that can go wrong on the way, as one sentence that names the repository."""
    try:
        yield
    except InvalidInputError:
        raise
    except GatedRepoError as error:
        raise InvalidInputError(f"{repo_id}: ask for access at {constants.ENDPOINT}/{repo_id} first, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise InvalidInputError(
            f"{repo_id}: neither a directory here nor a repository on the Hub; if it is private, `hf auth login` first") from error
    except RevisionNotFoundError as error:
        raise InvalidInputError(f"{repo_id}: it has no revision {revision!r}") from error
    except HFValidationError as error:
        raise InvalidInputError(f"{repo_id}: not a possible name of a repository on the Hub") from error
    except LocalEntryNotFoundError as error:
        raise ConnectionError(f"{repo_id}: not completely in the cache, and the Hub ({constants.ENDPOINT}) cannot be reached") from error
    except HfHubHTTPError as error:
        raise ConnectionError(f"{repo_id}: the Hub answered with error {error.response.status_code}; try again later") from error
    except Exception as error:  # the HTTP client's own errors, whose classes differ between versions of huggingface_hub
        if isinstance(error, OSError) and error.errno:
            raise  # the disk's, which say what is wrong themselves
        raise ConnectionError(f"{repo_id}: the download broke off ({type(error).__name__}); try again") from error
