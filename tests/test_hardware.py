"""What a report and `rabtriever doctor` say of the machine: in a container, what it may use."""

import pytest

from rabtriever import hardware
from rabtriever.doctor.machine import describe_machine
from rabtriever.evaluation import provenance


@pytest.mark.parametrize("gib", [0.5, 2])
def test_a_containers_memory_is_its_limit(monkeypatch, gib):
    monkeypatch.setattr(hardware, "memory_limit", lambda: int(gib * hardware.GB))
    assert describe_machine()["memory_gb"] <= gib
    assert provenance.describe_machine()["hardware"]["memory_gb"] == describe_machine()["memory_gb"]


def test_without_a_limit_it_is_the_machines(monkeypatch):
    monkeypatch.setattr(hardware, "memory_limit", lambda: None)
    found = hardware.describe_hardware()
    assert 0 < found["memory_free_gb"] <= found["memory_gb"]


def test_instructions_that_nobody_can_tell_are_not_denied(monkeypatch):
    monkeypatch.setattr(hardware, "why_no_llvm", lambda: "numba cannot be imported")
    assert provenance.describe_machine()["hardware"]["vnni"] is None
