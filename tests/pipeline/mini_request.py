"""A request to delete two of five people from a small adapter, in seconds: what a user has, and the folder of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mini_run
import pytest

from mllmu.core.process import SilentProgress
from mllmu.evaluation import gate
from mllmu.models.loading import ADAPTER_FILE, CONFIG_NAME
from mllmu.requests import auto, check, order
from mllmu.requests.evidence import Evidence
from mllmu.requests.forget import Outcome, forget
from mllmu.requests.order import ForgetOrder
from mllmu.requests.signing import read_public

METHOD = "{name: npo, batch_size: 8, modality: both}"


class Place:
    """What a user has: an adapter, its data, a list of people, keys; and the folder of requests."""

    outcome: Outcome
    facts: Path
    stopped: dict[str, int]

    def __init__(self, folder: Path, base: Path, finished: Path) -> None:
        from cryptography.hazmat.primitives import serialization as forms
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self.adapter, self.out, self.key, self.public = (folder / n for n in ("adapter", "out", "key.pem", "key.pub"))
        self.adapter.mkdir()
        for name in (ADAPTER_FILE, CONFIG_NAME):
            shutil.copyfile(finished / "models/target" / name, self.adapter / name)
        self.data = mini_run.write_recipe(
            folder / "data.yaml", base, "data.splits.holdout=2", "data.splits.calibration=2"
        )
        self.people = folder / "ids.csv"
        self.people.write_text("id\n002\n004\n")
        key = Ed25519PrivateKey.generate()
        pem = forms.Encoding.PEM
        self.key.write_bytes(key.private_bytes(pem, forms.PrivateFormat.PKCS8, forms.NoEncryption()))
        self.key.chmod(0o600)
        self.public.write_bytes(key.public_key().public_bytes(pem, forms.PublicFormat.SubjectPublicKeyInfo))

    def order(self, **changes: object) -> ForgetOrder:
        asked = {"model": str(self.adapter), "people": self.people, "data": self.data, "method": METHOD}
        return ForgetOrder(**{**asked, **changes})  # type: ignore[arg-type]

    def forget(self, **changes: object) -> Outcome:
        return forget(self.order(**changes), self.out, key=self.key, progress=SilentProgress())

    def verified(self) -> list[str]:
        path = self.out / "certificates/r001.json"
        return list(check.verify_certificate(path, SilentProgress(), public=read_public(self.public)))


def interrupted(_: Evidence) -> list[str]:
    """Somebody presses Ctrl-C when all is measured."""
    raise KeyboardInterrupt


@contextmanager
def quick() -> Iterator[None]:
    """One attack, two settings, and a target that need not know the people: it was trained for a moment only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "check", lambda *_: None)
        patch.setattr(order, "ATTACKS", ("prefix_injection",))
        patch.setattr(auto, "TRIALS", ((0.75, 1), (0.4, 1)))
        patch.setattr("mllmu.requests.forget.check_first", None)
        yield


def copy_of(place: Place, out: Path) -> Place:
    """The same user with a copy of the folder of requests, which a test may change."""
    shutil.copytree(place.out, out)
    twin = object.__new__(Place)
    twin.__dict__.update(place.__dict__)
    twin.out = out
    return twin
