"""Time is taken until the device has done its work, whichever device it is."""

import pytest
import torch

from lightning_bpd.timing import timed


@pytest.mark.parametrize("kind", ["cuda:1", "mps", "xpu", "mtia"])
@pytest.mark.parametrize("general", [True, False], ids=["torch.accelerator", "older torch"])
def test_every_accelerator_is_waited_for(kind, general, monkeypatch):
    device, done = torch.device(kind), []
    if general:
        monkeypatch.setattr(torch.accelerator, "synchronize", lambda of: done.append(of))
    else:
        monkeypatch.delattr(torch, "accelerator")
        module = getattr(torch, device.type)
        monkeypatch.setattr(module, "synchronize", lambda *of: done.append(*(of or [device])))
    assert timed(lambda: done.append("work"), device)[1] > 0
    assert done == [device, "work", device]


@pytest.mark.parametrize("kind", ["cpu", "meta"])
def test_what_has_no_queue_is_not(kind, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *_: pytest.fail("synchronised"))
    assert timed(lambda: 3, torch.device(kind))[0] == 3
