"""Limits that the server in front of the API knows, too. It imports nothing else of the API."""

LARGEST_BODY = 512 * 1024  # bytes; 20 of the largest keys and some
