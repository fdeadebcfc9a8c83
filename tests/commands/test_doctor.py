"""What `tagseg doctor` says of a machine."""

from typing import Any

import pytest
from typer.testing import CliRunner

import tagseg
from tagseg.cli import app
from tagseg.commands import doctor

SMALL = {"backbone": "test_resnet", "weights": "random", "encoder.name": "test_vit", "encoder.weights": "random"}


def test_what_is_there():
    found = {finding.what: finding for finding in tagseg.doctor("photos/cam", SMALL)}
    assert {"Python", "torch", "cores", "memory", "device", "gradio", "test_resnet", "test_vit"} <= set(found)
    assert all(finding.good for finding in found.values() if finding.needed)
    assert "test_vit" not in {finding.what for finding in tagseg.doctor("cam", SMALL)}


def test_weights_that_nobody_can_have(monkeypatch: pytest.MonkeyPatch):
    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(doctor.urllib.request, "urlopen", fails)
    found = tagseg.doctor("cam", {"backbone": "test_resnet.r160_in1k", "weights": "pretrained"})[-1]
    assert not found.good
    assert "no route to host" in found.text
    assert "give a file with --weights" in found.text


def test_networks_that_there_are_not():
    found = tagseg.doctor("cam", {"backbone": "resnet5000", "weights": "random"})[-1]
    assert not found.good
    done = CliRunner().invoke(app, ["doctor", "--recipe", "cam", "--backbone", "resnet5000"])
    assert done.exit_code == 1
    assert "--  resnet5000" in done.output


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    for finding in doctor._extras():
        assert not finding.good
        assert not finding.needed
        assert "pip install 'tagseg[" in finding.text
