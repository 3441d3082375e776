"""The part of SSH that a router needs: transport and public-key authentication, on `cryptography` alone.

It implements RFC 4252 and 4253 for both roles. Packets of the connection protocol (RFC 4254) pass
through unread.
"""
