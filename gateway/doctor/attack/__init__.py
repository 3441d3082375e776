"""Attacks that must fail: the tests and the administrator's check run the same ones.

`inside/` holds what a session's user would try, as small scripts, one function an attempt. A function that
raises an `OSError` was stopped, and the error says by what; one that returns has got through, and its result
is the evidence. One that has nothing to try here raises `NotImplementedError`. `catalogue.INSIDE` lists them.

`outside/` holds what a stranger would try at the API and at the SSH entry point; `catalogue.OUTSIDE` lists
them.
"""
