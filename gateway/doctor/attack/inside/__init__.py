"""Scripts that run inside a session. They use only Python's standard library."""
