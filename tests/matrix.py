"""Does the package install and speak?  Its wheel in fresh environments, as users make them: `make test-matrix`.

A row is a Python (every one from 3.11 up that is found) with the newest, or with the oldest declared, versions of the libraries, in
which the README's script makes its video.  torch, which can be gigabytes, is installed first by pip: the pinned one, and in the rows
of the oldest versions the oldest declared one.

    python tests/matrix.py --quick    # as CI does: the pinned torch on Python 3.11; elsewhere the tests that need no torch
    python tests/matrix.py --python 3.13 --resolution lowest-direct
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
OLDEST_MINOR = 11
RESOLUTIONS = ("highest", "lowest-direct")
UV = (sys.executable, "-m", "uv", "--quiet")
# What media files, faces and pictures need is tested without these.
NEED_TORCH = {"torch", "diffusers", "transformers", "accelerate"}
PATTERNS = ("test_media_*.py", "test_video_time.py", "test_planes.py", "test_blend.py", "test_warp.py", "test_tone.py", "test_colour_*.py")
TESTS_WITHOUT_TORCH = sorted(path.name for pattern in PATTERNS for path in (ROOT / "tests").glob(pattern))
# What the video of the README's script should be: 6.54 s at 25 frames a second.
CHECK = 'import av; video = av.open("talking.mp4").streams.video[0]; assert video.frames == 164, video.frames'


def run(*command, cwd: Path | None = None, shown: bool = False) -> None:
    """Run a command; where it fails, print what it said and raise CalledProcessError."""
    # Neither the checkout nor what happens to be installed for this user may stand in for what a row installs.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONNOUSERSITE": "1"}
    output = None if shown else subprocess.PIPE
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, text=True, stdout=output, stderr=subprocess.STDOUT)
    if result.returncode:
        print(result.stdout or "", flush=True)
        raise subprocess.CalledProcessError(result.returncode, command)


def pythons() -> dict[str, Path]:
    """{"3.11": program} of every Python from 3.11 up, on the PATH or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    folders = [Path(folder) for folder in os.get_exec_path()] + sorted(pyenv.glob("versions/*/bin"))
    programs = {}
    for folder in folders:
        for program in folder.glob("python3.*"):
            version = program.name.removeprefix("python")
            minor = version.removeprefix("3.")
            if minor.isdecimal() and int(minor) >= OLDEST_MINOR and version not in programs and starts(program):
                programs[version] = program
    return dict(sorted(programs.items(), key=lambda item: int(item[0].removeprefix("3."))))


def starts(program: Path) -> bool:
    """False for the stand-ins that pyenv puts on the PATH for versions that are switched off."""
    return subprocess.run([program, "-c", "import venv"], capture_output=True).returncode == 0


def readme_script() -> str:
    """The README's program that makes a video of the example portrait."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return next(block for block in blocks if "output.save(" in block)


def torch_version(resolution: str, pinned: bool) -> str:
    """The torch of requirements.txt, or the oldest that pyproject.toml allows."""
    if resolution == "highest" or pinned:
        return re.search(r"^torch==(\S+)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)[1]
    return next(bound.version for line in declared() if line.name == "torch" for bound in line.specifier)


def declared() -> list[Requirement]:
    return [Requirement(line) for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]


def try_with_torch(python: Path, folder: Path, wheel: Path, resolution: str, torch: str) -> None:
    """The README's script, in an environment with everything."""
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile", f"torch=={torch}")
    (folder / "torch.txt").write_text(f"torch=={torch}\n")
    install(python, wheel, declared(), "--resolution", resolution, "--constraint", folder / "torch.txt")
    run(*UV, "pip", "check", "--python", python)
    (folder / "readme.py").write_text(readme_script())
    run(python, "readme.py", cwd=folder)
    run(python, "-c", CHECK, cwd=folder)


def try_without_torch(python: Path, folder: Path, wheel: Path, resolution: str) -> None:
    """The tests of media, faces and pictures, in an environment without torch."""
    install(python, wheel, [line for line in declared() if line.name not in NEED_TORCH], "--resolution", resolution)
    run(*UV, "pip", "install", "--python", python, "pytest")
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__", "artifacts"))
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in TESTS_WITHOUT_TORCH), cwd=folder)


def install(python: Path, wheel: Path, requirements: list[Requirement], *options) -> None:
    """The requirements first, by their names: uv counts what a wheel asks for as indirect, of which it would take the newest."""
    run(*UV, "pip", "install", "--python", python, *options, *requirements)
    run(*UV, "pip", "install", "--python", python, "--no-deps", wheel)


def installed(python: Path) -> str:
    """Versions of what differs most between rows."""
    listed = subprocess.run([*UV, "pip", "list", "--python", python, "--format", "json"], capture_output=True, text=True, check=True)
    versions = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    names = ("torch", "diffusers", "transformers", "numpy", "av", "opencv-python-headless", "pillow")
    return ", ".join(f"{name} {versions[name]}" for name in names if name in versions)


def try_row(version: str, program: Path, wheel: Path, resolution: str, quick: bool) -> bool:
    """One line on how the row went; the environment is gone afterwards."""
    started, with_torch = time.monotonic(), not quick or version == f"3.{OLDEST_MINOR}"
    name = f"Python {version}, {resolution}{'' if with_torch else ', without torch'}"
    with TemporaryDirectory(prefix="matrix-") as folder:
        folder = Path(folder)
        python = folder / "environment" / "bin" / "python"
        try:
            run(program, "-m", "venv", folder / "environment")
            shutil.copytree(ROOT / "examples" / "media", folder / "examples" / "media")
            if with_torch:
                try_with_torch(python, folder, wheel, resolution, torch_version(resolution, pinned=quick))
            else:
                try_without_torch(python, folder, wheel, resolution)
        except subprocess.CalledProcessError as error:
            print(f"FAILED  {name}: {' '.join(map(str, error.cmd))[:200]}", flush=True)
            return False
        print(f"ok      {name}: {installed(python)}; {time.monotonic() - started:.0f} s", flush=True)
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="torch on Python 3.11 alone, the pinned one")
    parser.add_argument("--python", help="this version alone, such as 3.12")
    parser.add_argument("--resolution", choices=RESOLUTIONS, help="these rows alone")
    options = parser.parse_args()
    programs = {version: program for version, program in pythons().items() if options.python in (None, version)}
    if f"3.{OLDEST_MINOR}" not in programs and options.python is None:
        sys.exit(f"no Python 3.{OLDEST_MINOR} found, the oldest that is supported")
    rows = [(version, program, resolution) for version, program in programs.items() for resolution in RESOLUTIONS
            if options.resolution in (None, resolution)]
    with TemporaryDirectory(prefix="wheel-") as folder:
        run(*UV, "build", "--wheel", "--out-dir", folder, ROOT)
        wheel = next(Path(folder).glob("*.whl"))
        with ThreadPoolExecutor(2 if options.quick else 1) as pool:  # two at once of those without gigabytes of torch
            passed = sum(pool.map(lambda row: try_row(row[0], row[1], wheel, row[2], options.quick), rows))
    print(f"matrix: {passed} passed, {len(rows) - passed} failed")
    sys.exit(passed != len(rows) or not rows)


if __name__ == "__main__":
    main()
