"""Fetches the Datastar bundle that the browser tests serve, once, into the ignored folder `.cache/datastar`.

It is taken from a wheel on the Python package index, so that no test needs a CDN. Run it again at will: it
does nothing when the file is there. It prints the path of the bundle.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REQUIREMENT = "starhtml==0.7.0"
MEMBER = "starhtml/static/js/datastar-core.js"
ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / ".cache" / "datastar" / "datastar.js"
_IMPORT = re.compile(r"""(?:^|[;}\s])(?:import|export)\b[^;'"`()]*\bfrom\s*["']|(?:^|[;}\s])import\s*["'(]""")


def download_wheel(folder: Path) -> Path:
    """Returns the wheel, downloaded into `folder`; it is only read as an archive, for whatever Python."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--python-version", "3.12", "--dest", str(folder), REQUIREMENT], check=True)
    return next(folder.glob("*.whl"))


def read_bundle(wheel: Path) -> bytes:
    """Returns the bundle's bytes.

    Raises:
        ValueError: it imports other modules, so that one file would not be enough.
    """
    with zipfile.ZipFile(wheel) as archive:
        code = archive.read(MEMBER)
    if _IMPORT.search(code.decode()):
        raise ValueError(f"{MEMBER} of {REQUIREMENT} imports other modules: it cannot be served alone")
    return code


def fetch(target: Path = BUNDLE) -> Path:
    """Returns the path of the bundle, which is complete or absent at every moment."""
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        code = read_bundle(download_wheel(Path(folder)))
        part = Path(folder) / target.name
        part.write_bytes(code)
        part.replace(target)
    return target


if __name__ == "__main__":
    print(fetch())
