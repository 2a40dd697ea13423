"""What pyproject.toml cannot say: what the page on the package index shows, and the wheel's bill of materials."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
RELATIVE = r"\((?!https?://|#)[^)\s]*\)"


def index_page(readme: str) -> str:
    """The README without the Space's header, and without pictures and links that lead nowhere outside the source tree."""
    page = re.sub(r"\A---\n.*?\n---\n+", "", readme, flags=re.DOTALL)
    page = re.sub(rf"^!\[[^\]]*\]{RELATIVE}\n+", "", page, flags=re.MULTILINE)
    return re.sub(rf"\[([^\]]*)\]{RELATIVE}", r"\1", page)


def bill_of_materials(root: Path) -> dict:
    """CycloneDX 1.6: the versions that the tests run with, and the weights with their SHA-256."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = re.findall(r"^([\w.-]+)==([\w.]+)", (root / "requirements.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    libraries = [{"type": "library", "bom-ref": f"pkg:pypi/{name}@{version}", "name": name, "version": version,
                  "purl": f"pkg:pypi/{name}@{version}"} for name, version in pinned]
    weights = []
    for path in sorted((root / "temposync_pipeline").rglob("*.safetensors")):
        name = path.relative_to(root).as_posix()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        weights.append({"type": "machine-learning-model", "bom-ref": name, "name": name, "hashes": [{"alg": "SHA-256", "content": digest}],
                        "licenses": [{"license": {"id": project["license"]}}]})
    product = {"type": "library", "bom-ref": project["name"], "name": project["name"], "version": project["version"],
               "licenses": [{"license": {"id": project["license"]}}]}
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": product},
            "components": libraries + weights,
            "dependencies": [{"ref": project["name"], "dependsOn": [part["bom-ref"] for part in libraries + weights]}]}


class BuildWithBill(build_py):
    """Lays the bill of materials into the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "temposync_pipeline" / "sbom.cdx.json"
            target.write_text(json.dumps(bill_of_materials(ROOT), indent=1), encoding="utf-8")


setup(long_description=index_page((ROOT / "README.md").read_text(encoding="utf-8")), long_description_content_type="text/markdown",
      cmdclass={"build_py": BuildWithBill})
