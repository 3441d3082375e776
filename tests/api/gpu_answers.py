"""What the API answers about one GPU, and about one profile."""

from typing import Any

from tests.conftest import Bench


def gpu(bench: Bench, index: int = 0) -> Any:
    return bench.client.get("/gpus").json["gpus"][index]


def offer(bench: Bench, profile: str) -> Any:
    return {one["name"]: one for one in bench.client.get("/gpus/profiles").json["profiles"]}[profile]
