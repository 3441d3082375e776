"""GPU SSH Gateway: hardened containers with a MIG slice each, behind one SSH entry point."""

__version__ = "0.1.0"
