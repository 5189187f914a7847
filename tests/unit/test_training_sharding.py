"""What accelerate's config file may ask for; training with it is in tests/pipeline/test_pipeline_processes.py."""

from __future__ import annotations

import pytest
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

from mllmu.core.errors import ModelError, ProcessError
from mllmu.models.loading import Loaded, add_trainable
from mllmu.parallel import team as processes
from mllmu.training.sharding import settings_of_launch, spread

LAUNCHED = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_FSDP": "true"}


def test_without_fsdp_or_with_one_process_nothing_is_spread(monkeypatch: pytest.MonkeyPatch, loaded: Loaded) -> None:
    assert settings_of_launch() is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert settings_of_launch() is None, "one process has nobody to share with"
    spread(loaded, loaded.model)
    assert type(loaded.model.model.language_model.layers[0]).__name__ == "LlamaDecoderLayer"


def test_the_config_file_of_accelerate_is_read_from_what_it_hands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match=r"got FSDP 1, expected fsdp_version: 2"):
        settings_of_launch()
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert settings_of_launch() == {"reshard_after_forward": True, "offload_policy": OffloadPolicy()}
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    assert settings_of_launch() == {"reshard_after_forward": False, "offload_policy": CPUOffloadPolicy()}
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    with pytest.raises(ProcessError, match=r"model\.gradient_checkpointing: true in the recipe"):
        settings_of_launch()


def test_weights_that_are_trained_themselves_are_not_spread(monkeypatch: pytest.MonkeyPatch, loaded: Loaded) -> None:
    for name, value in {**LAUNCHED, "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    model = add_trainable(loaded.model, loaded.encoder.family, None, seed=0)
    with pytest.raises(ModelError, match="lora: null trains the weights themselves"):
        spread(loaded, model)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed is not supported. FSDP2 spreads weights as well"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM is not supported"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed_precision: fp16, but precision is the recipe's"),
    ],
)
def test_what_a_run_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    processes.check_launch()
    monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match=message):
        processes.check_launch()
