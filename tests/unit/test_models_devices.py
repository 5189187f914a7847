"""Which device 'auto' means, and the line that says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_models import make_base
from safetensors.torch import save_file

from mllmu.core.errors import ModelError
from mllmu.models import devices
from mllmu.models.loading import choose_device, source_of


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one GPU that is never used."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "H9000")


@pytest.mark.usefixtures("gpu")
def test_auto_leaves_a_small_model_on_the_cpu_and_puts_others_on_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_device("auto", source_of("tiny")).type == "cpu"
    assert choose_device("auto", str(make_base(tmp_path / "base"))).type == "cpu"
    assert choose_device("auto", "llava-hf/llava-1.5-7b-hf").type == "cuda"
    assert choose_device("auto").type == "cuda"
    assert choose_device("auto", str(tmp_path)).type == "cuda", "no weights there"
    for dtype in (torch.float32, torch.bfloat16):  # weights count, not bytes
        save_file({"a": torch.zeros(100, 60, dtype=dtype)}, tmp_path / "one.safetensors")
        save_file({"b": torch.zeros(4000, dtype=dtype)}, tmp_path / "two.safetensors")
        monkeypatch.setattr(devices, "SMALL", 10_001)
        assert choose_device("auto", str(tmp_path)).type == "cpu"
        monkeypatch.setattr(devices, "SMALL", 10_000)
        assert choose_device("auto", str(tmp_path)).type == "cuda"
    (tmp_path / "one.safetensors").write_bytes(b"damaged")
    assert devices.num_weights(tmp_path / "one.safetensors") == 0


@pytest.mark.usefixtures("gpu")
def test_processes_that_share_the_work_keep_their_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", source_of("tiny")) == torch.device("cuda", 1)


def test_without_a_gpu_everything_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", "llava-hf/llava-1.5-7b-hf") == torch.device("cpu")
    assert devices.why("auto", torch.device("cpu"), torch.float32) == (
        "models run on the CPU in float32 (model.device: auto; no GPU is visible)"
    )
    with pytest.raises(ModelError, match="no GPU is visible"):
        choose_device("cuda")


@pytest.mark.usefixtures("gpu")
def test_the_line_says_where_and_why() -> None:
    assert devices.why("auto", torch.device("cuda"), torch.bfloat16) == (
        "models run on the GPU (H9000) in bfloat16 (model.device: auto takes a GPU where there is one)"
    )
    assert "CPU in float32 (model.device: auto; a GPU is slower for models of less than 10 million" in devices.why(
        "auto", torch.device("cpu"), torch.float32
    )
    assert devices.why("cpu", torch.device("cpu"), torch.float32).endswith("(model.device: cpu)")
