"""Devices that do not exist or hold no data are refused before a model is read."""

from __future__ import annotations

import pytest
import torch

from fuse_index.cli.main import main
from fuse_index.errors import OptionError
from fuse_index.models import load_model

ABSENT = ["meta", "cuda:99", "cuda:-1", "vulkan", "lazy", "hpu", "a device", "cpu:9999999999999999"]


@pytest.mark.parametrize("device", ABSENT)
def test_a_device_that_cannot_be_used_is_named(device):
    with pytest.raises(OptionError) as caught:
        load_model("no/model", device=device, local_files_only=True)
    message = str(caught.value)
    assert message.startswith(f"device {device!r}: ")
    assert "expected one of cpu" in message
    assert "\n" not in message
    assert len(message) < 500


def test_a_device_object_is_tried_as_well():
    with pytest.raises(OptionError, match="device 'meta'"):
        load_model("no/model", device=torch.device("meta"))


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_the_cpu_is_there(lm, device):
    assert load_model(lm.name, device=device).device == torch.device("cpu")


@pytest.mark.parametrize("device", ["meta", "nowhere"])
def test_the_command_line_says_it_in_one_line(capsys, device):
    lm = ["--model", f"lm={{model: 'demo:lm', device: '{device}'}}", "--initial", "a"]
    assert main(["optimize", *lm, "--objective", "fluency"]) == 2
    lm = ["--model", "lm=demo:lm", "--models.lm.device", device, "--initial", "a"]
    assert main(["optimize", *lm, "--objective", "fluency"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 2
    assert error.splitlines()[-1].startswith(f"fuse-index: error: device '{device}': ")
