"""Scripts that run inside a session, with nothing but Python's standard library at hand."""
