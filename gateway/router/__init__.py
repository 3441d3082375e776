"""The embedded router: serves SSHPiper's pipe file where SSHPiper itself cannot be had.

A process of its own. It shares the pipe file's format with the service, and nothing else.
"""

from gateway.router.account import Account
from gateway.router.server import prepare, serve

__all__ = ["Account", "prepare", "serve"]
