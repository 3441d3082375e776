"""The setting --simulate-gpus, and the file of the state."""

import json
from pathlib import Path

import pynvml
import pytest

from gateway import simulation
from gateway.errors import StartRefused
from gateway.simulation.catalogue import KINDS, parse_spec
from tests.fakes.driver import simulated_driver, unload


def test_a_specification_lists_kinds_in_order_whatever_their_case() -> None:
    assert [kind.name for kind in parse_spec("2xa100-40gb, 1XL4")] == ["A100-40GB", "A100-40GB", "L4"]


@pytest.mark.parametrize("spec", ["", "A100-40GB", "0xL4", "65xL4", "1xV100", "-1xL4", "1xL4,", "1 x L4"])
def test_a_specification_that_makes_no_sense_is_answered_with_the_kinds(spec: str, state_file: Path) -> None:
    with pytest.raises(StartRefused) as refusal:
        simulation.install(spec, state_file)
    assert all(kind in str(refusal.value) for kind in KINDS)
    assert not state_file.exists()


def test_no_more_gpus_than_can_be_simulated() -> None:
    with pytest.raises(StartRefused, match="is 65 GPUs; at most 64"):
        parse_spec("64xA30,1xL4")


def test_a_state_of_other_gpus_is_refused_and_left_alone(state_file: Path) -> None:
    with simulated_driver("2xA100-40GB,1xL4", state_file):
        before = state_file.read_bytes()
        with pytest.raises(StartRefused, match=r"is of 2xA100-40GB,1xL4, not 1xA30; .* remove that file"):
            simulation.install("1xA30", state_file)
    assert state_file.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"gpus": [{"kind_name": "V100"}]})])
def test_a_file_that_is_no_state_is_refused_and_left_alone(content: str, state_file: Path) -> None:
    state_file.write_text(content)
    with pytest.raises(StartRefused, match="is not a state of simulated GPUs; remove it"):
        simulation.install("1xA30", state_file)
    assert state_file.read_text() == content


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartRefused, match="cannot be kept"):
        simulation.install("1xA30", tmp_path / "file" / "simulated-gpus.json")


def test_installing_again_forgets_the_functions_of_the_library_before(tmp_path: Path) -> None:
    for number, spec in enumerate(["1xA30", "3xL4"], start=1):
        simulation.install(spec, tmp_path / f"{number}.json")
        pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 3
    unload()
