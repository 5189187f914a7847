"""Ed25519 signatures with key files that the user makes; nothing of a private key is copied, kept or printed.

    openssl genpkey -algorithm ed25519 -out private.pem && openssl pkey -in private.pem -pubout -out public.pem

What is signed is a purpose, a line break, and a text, so that a signature of one thing is none of another.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mllmu.core.errors import DataError, needs_extra

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Purpose = Literal["mllmu ledger entry", "mllmu ledger head", "mllmu certificate"]
PASSPHRASE = "MLLMU_KEY_PASSPHRASE"  # noqa: S105 - the name of the variable
"""Environment variable with the passphrase of an encrypted key, where nobody can be asked."""
HOW_TO = (
    "Make one with: openssl genpkey -algorithm ed25519 -out private.pem && chmod 600 private.pem && "
    "openssl pkey -in private.pem -pubout -out public.pem"
)


class Signer:
    """Signs with the private key of a file, in PEM or OpenSSH format.

    Args:
        path: the file; readable by its owner only, and outside of ``apart_from``.
        apart_from: the folder that is handed over, in which no private key may lie.

    Raises:
        DataError: no file, no Ed25519 key, readable by others, or inside of ``apart_from``.
    """

    def __init__(self, path: Path, *, apart_from: Path) -> None:
        if path.resolve().is_relative_to(apart_from.resolve()):
            raise DataError(
                f"{path}: a private key must not lie in {apart_from}, which is shown to others. Move it elsewhere."
            )
        self._key = _private_key(path)
        self.public = encoded(self._key.public_key())

    def sign(self, purpose: Purpose, text: str) -> str:
        """The signature of a text, in base64."""
        return base64.b64encode(self._key.sign(_message(purpose, text))).decode()


def _message(purpose: Purpose, text: str) -> bytes:
    return f"{purpose}\n{text}".encode()


def _private_key(path: Path) -> Ed25519PrivateKey:
    with needs_extra("--key", "sign"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
    content = _read(path, "private")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise DataError(f"{path}: others can read this private key. Close it first: chmod 600 {path}")
    read = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in content else load_pem_private_key
    try:
        try:
            key = read(content, None)
        except TypeError:  # it is encrypted
            key = read(content, _passphrase(path))
    except Exception:  # noqa: BLE001 - the library's many errors may quote the file
        raise DataError(f"{path}: no private key, or not with this passphrase. {HOW_TO}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise DataError(f"{path}: a private key, but none of Ed25519. {HOW_TO}")
    return key


def _passphrase(path: Path) -> bytes:
    if PASSPHRASE in os.environ:
        return os.environ[PASSPHRASE].encode()
    if not sys.stdin.isatty():
        raise ValueError
    return getpass.getpass(f"passphrase of {path}: ").encode()


def _read(path: Path, kind: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Expected the file of a {kind} key.") from None


def encoded(key: Ed25519PublicKey) -> str:
    """The 32 bytes of a public key in base64, as entries name it."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def read_public(path: Path) -> str:
    """The public key in a file, in PEM or OpenSSH format or as 44 characters of base64, in base64.

    Raises:
        DataError: no file, or no public key of Ed25519.
    """
    with needs_extra("--public-key", "sign"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key
    content = _read(path, "public").strip()
    if b"PRIVATE KEY" in content:
        raise DataError(f"{path}: a private key. Never hand it over; --public-key takes the public one.")
    try:
        if content.startswith(b"-----BEGIN"):
            key = load_pem_public_key(content)
        elif content.startswith(b"ssh-"):
            key = load_ssh_public_key(content)  # type: ignore[assignment]
        else:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(content, validate=True))
    except Exception:  # noqa: BLE001 - as above
        raise DataError(f"{path}: no public key. {HOW_TO}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise DataError(f"{path}: a public key, but none of Ed25519. {HOW_TO}")
    return encoded(key)


def is_signed(purpose: Purpose, text: str, signature: str, public: str) -> bool:
    """Whether a signature of a text was made with the private key that belongs to a public one, both in base64."""
    with needs_extra("verifying signatures", "sign"):
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public, validate=True))
        key.verify(base64.b64decode(signature, validate=True), _message(purpose, text))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
