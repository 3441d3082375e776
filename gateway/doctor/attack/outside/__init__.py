"""Attempts at the API and at the SSH entry point, by an attacker with no session, or only with one of its own."""
