"""Attempts at the API and at the SSH entry point, by an attacker who has no session, or one of its own."""
