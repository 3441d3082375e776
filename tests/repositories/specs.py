"""Variations of the container specification that the tests of Docker start from."""

from dataclasses import replace

from gateway.repositories.host_parts import ContainerSpec


def of_session(spec: ContainerSpec, session_id: str) -> ContainerSpec:
    return replace(spec, request=replace(spec.request, session_id=session_id))
