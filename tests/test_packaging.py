"""Library manners: what is in the wheel and the source archive, and what an import does not do."""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import temposync_pipeline

from .matrix import NEED_TORCH, TESTS_WITHOUT_TORCH

ROOT = Path(__file__).parent.parent


def run(code: str, cwd: Path = ROOT, **environment: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "SECURITY.md", "model_card.md", "LICENSE", "Makefile", "app.py",
         "requirements.txt", "requirements.lock", "requirements-dev.txt")
FOLDERS = ("temposync_pipeline", "tests", "examples")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of a wheel and a source archive, both built from a copy whose weights are a few bytes (compression takes long)."""
    folder = tmp_path_factory.mktemp("source")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, copy_function=_copy_small, ignore=shutil.ignore_patterns("__pycache__"))
    run("from setuptools import build_meta; build_meta.build_wheel('out'); build_meta.build_sdist('out')", cwd=folder)
    return folder / "out"


@pytest.fixture(scope="module")
def archives(built) -> dict[str, set[str]]:
    """Names in the wheel and the source archive."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel, tarfile.open(next(built.glob("*.tar.gz"))) as source:
        return {"wheel": set(wheel.namelist()), "source": {name.partition("/")[2] for name in source.getnames()}}


def _copy_small(source: str, target: str) -> str:
    if source.endswith(".safetensors"):
        return str(Path(target).write_bytes(b"weights"))
    return shutil.copyfile(source, target)


@pytest.mark.parametrize("kind", ["wheel", "source"])
def test_code_weights_and_type_marker_are_packed(archives, kind):
    package = [path for path in (ROOT / "temposync_pipeline").rglob("*") if path.suffix in (".py", ".json", ".safetensors", ".typed")]
    needed = {path.relative_to(ROOT).as_posix() for path in package}
    assert sum(name.endswith(".safetensors") for name in needed) >= 6 and "temposync_pipeline/py.typed" in needed
    assert needed <= archives[kind]


def pinned(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / name).read_text(), flags=re.MULTILINE))


def test_every_library_but_torch_is_locked_by_its_hash():
    entry = re.compile(r"^([\w.-]+)==([\w.]+)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", re.MULTILINE)
    locked = entry.findall((ROOT / "requirements.lock").read_text())
    wanted = pinned("requirements.txt")
    assert wanted.pop("torch") and {name: version for name, version, _ in locked} == wanted
    assert all(hashes for *_, hashes in locked)
    assert "--require-hashes -r requirements.lock" in (ROOT / "Makefile").read_text()


def test_what_is_installed_is_what_was_locked():
    """The audit of what the tests run with: everything that the package, the page and the signatures need, theirs included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = {canonicalize_name(name): version for name, version in pinned("requirements.txt").items()}
    open_ends, seen = [*map(Requirement, project["dependencies"] + extras["app"] + extras["provenance"])], set()
    while open_ends:
        needed = open_ends.pop()
        name, wanted = canonicalize_name(needed.name), needed.extras or {""}
        if (name, *sorted(wanted)) in seen or needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        seen.add((name, *sorted(wanted)))
        assert locked.get(name) == version(name).partition("+")[0], name
        for line in requires(name) or []:
            each = Requirement(line)
            if name == "torch" and canonicalize_name(each.name) not in locked:  # what a build for some accelerator brings along
                continue
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in wanted):
                each.marker = None
                open_ends.append(each)
    assert len(seen) > 50


def test_the_bill_of_materials_names_all_that_is_in_the_wheel(built, archives):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        bill = json.loads(wheel.read("temposync_pipeline/sbom.cdx.json"))
    parts = {part["name"]: part for part in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX" and bill["metadata"]["component"]["name"] == "temposync-pipeline"
    assert {name: parts[name]["version"] for name in pinned("requirements.txt")} == pinned("requirements.txt")
    weights = {name for name in archives["wheel"] if name.endswith(".safetensors")}
    assert weights == {name for name, part in parts.items() if part["type"] == "machine-learning-model"}
    of_a_copy = hashlib.sha256(b"weights").hexdigest()
    assert {parts[name]["hashes"][0]["content"] for name in weights} == {of_a_copy}


def test_the_wheel_has_nothing_beside_the_package(archives):
    assert {name.split("/")[0].split("-")[0] for name in archives["wheel"]} == {"temposync_pipeline"}


def test_the_source_archive_has_all_that_its_tests_need(archives, built, tmp_path):
    """And they run there, by themselves."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    needed = {path.relative_to(ROOT).as_posix() for path in files if not {"__pycache__", "artifacts"} & set(path.parts)}
    assert {*FILES, *needed} <= archives["source"]
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        source.extractall(tmp_path, filter="data")
    root = next(tmp_path.iterdir())
    # A sample that is soon done; `python -m pytest` there runs all.
    result = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_blend.py", "tests/test_media_image.py"],
                            cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_page_on_the_index(built):
    """No header of a Space, no picture that is not there, no link that leads nowhere; the programs and the rest as in the README."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        metadata = message_from_bytes(wheel.read(next(name for name in wheel.namelist() if name.endswith("METADATA"))))
    page, readme = metadata.get_payload(decode=True).decode(), (ROOT / "README.md").read_text()
    assert metadata["Description-Content-Type"] == "text/markdown" and metadata["Author"] == "The TempoSync authors"
    assert metadata.get_all("Project-URL") == ["Paper, https://arxiv.org/abs/2603.06057"]
    assert page.startswith("# TempoSync\n") and "sdk_version" not in page
    assert all(target.startswith(("https://", "#")) for target in re.findall(r"\]\(([^)]*)\)", page))
    program = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
    assert program.findall(page) == program.findall(readme)
    lost = set(readme.split("---\n", 2)[2].splitlines()) - set(page.splitlines())
    assert lost and all("](" in line for line in lost)


def test_media_and_faces_need_no_torch():
    """So that they, and their tests, can be tried on Pythons for which torch is gigabytes (`matrix.py`)."""
    run(f"""
import importlib, sys

class NotInstalled:
    def find_spec(name, *_):
        if name.split(".")[0] in {sorted(NEED_TORCH)}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled)
for name in {[f"tests.{Path(name).stem}" for name in TESTS_WITHOUT_TORCH]}:
    importlib.import_module(name)
""")


def test_import_is_quick_and_changes_nothing(tmp_path):
    """No torch, no socket, no file; then every public name, without a connection, a thread of Python's or a changed setting of torch.

    (urllib3, which diffusers brings along, binds one local socket to see whether there is IPv6.)
    """
    code = """
import sys, threading, time
events = []
sys.addaudithook(lambda name, arguments: events.append(name) if name.startswith("socket.") else None)
started = time.perf_counter()
import temposync_pipeline
seconds = time.perf_counter() - started
assert not events
assert not {"torch", "diffusers", "transformers", "huggingface_hub", "cv2", "av"} & set(sys.modules)
import torch
def settings():
    return (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision(),
            torch.random.get_rng_state().tolist())
before = settings()
for name in temposync_pipeline.__all__:
    getattr(temposync_pipeline, name)
assert settings() == before
assert not [name for name in events if name in ("socket.connect", "socket.getaddrinfo")], events
assert threading.active_count() == 1, threading.enumerate()
print(seconds)
"""
    home = tmp_path / "home"
    home.mkdir()
    seconds = float(run(code, HF_HOME=str(home / "hub"), HOME=str(home), XDG_CACHE_HOME=str(home)))
    assert seconds < 3
    assert not list(home.rglob("*"))


def test_public_names_are_written_out():
    assert temposync_pipeline.__all__ == sorted(temposync_pipeline.__all__)
    assert set(temposync_pipeline.__all__) <= set(dir(temposync_pipeline))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        temposync_pipeline.Nothing  # noqa: B018


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """requirements.txt: {name: version}."""
    lines = [Requirement(line) for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(line.name): re.fullmatch(r"==(\S+)", str(line.specifier))[1] for line in lines}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def imported(*files: Path) -> set[str]:
    """Distributions whose modules the files import, at their top or inside functions; the standard library and the package left out."""
    modules = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.partition(".")[0])
    modules -= sys.stdlib_module_names | {"temposync_pipeline"}
    distributions = packages_distributions()
    return {canonicalize_name(distributions.get(module, [module])[0]) for module in modules}


def test_requirements_hold_all_that_a_space_needs(pins, project):
    """A Space installs requirements.txt and the Gradio of the README's front matter, and brings `spaces` along."""
    front = yaml.safe_load((ROOT / "README.md").read_text().split("---\n")[1])
    assert front["sdk"] == "gradio" and front["sdk_version"] == pins["gradio"]
    assert front["app_file"] == "app.py" and front["python_version"] in SpecifierSet(project["requires-python"])
    assert imported(ROOT / "app.py", *(ROOT / "temposync_pipeline/app").glob("*.py")) - {"spaces"} <= set(pins)
    for line in project["dependencies"] + project["optional-dependencies"]["app"] + project["optional-dependencies"]["provenance"]:
        needed = Requirement(line)
        assert pins[canonicalize_name(needed.name)] in needed.specifier, line


def test_every_import_is_declared(project):
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *(lines for name, lines in extras.items() if name != "test")]
    declared = {canonicalize_name(Requirement(line).name) for group in groups for line in group}
    assert imported(*(ROOT / "temposync_pipeline").rglob("*.py")) <= declared


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["mypy", "--no-incremental"]])
def test_the_code_is_clean_and_its_public_types_hold(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
