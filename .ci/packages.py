"""Packages of another environment, or newly installed: ``python packages.py ENVIRONMENT PIP_ARGUMENT …``.

If the environment in the folder ENVIRONMENT has pytest and PyTorch for this Python, its packages become
importable in the running one; otherwise pip installs what its arguments name.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path


def packages_of(environment: Path) -> Path | None:
    """The folder of the packages, if they are those that the tests need, for this version of Python."""
    paths = {"base": str(environment), "platbase": str(environment)}
    folder = Path(sysconfig.get_path("purelib", vars=paths))
    needed = ("pytest", "torch", "xdist", "hypothesis")
    return folder if all((folder / name).is_dir() for name in needed) else None


def main(environment: str, *arguments: str) -> int:
    """Links the packages of the environment, or installs them; the exit code of pip."""
    own = Path(sysconfig.get_path("purelib"))
    link = own / "packages_of_another_environment.pth"
    packages = packages_of(Path(environment).resolve())
    if packages is None:
        link.unlink(missing_ok=True)
        return subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *arguments])
    # `addsitedir` rather than the bare path: the folder's own .pth files are read as well.
    link.write_text(f"import site; site.addsitedir({str(packages)!r})\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
