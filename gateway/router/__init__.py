"""The embedded router: serves SSHPiper's pipe file where SSHPiper itself cannot be had.

A process of its own. It shares only the formats of a few files with the service: the pipe file, the notices
for users without a route, and the reports about logins.
"""

from gateway.router.account import Account
from gateway.router.server import prepare, serve

__all__ = ["Account", "prepare", "serve"]
