"""Attacks that must fail. The tests and `gateway doctor --attack` run the same ones.

`inside/` has what the user of a session can try, as small scripts with one function for each attempt. A
function that raises an `OSError` was stopped, and the error says by what. A function that returns has
succeeded, and its result is the evidence. A function that cannot try anything here raises
`NotImplementedError`.

`outside/` has what an attacker can try at the API and at the SSH entry point. `catalogue` lists both.
"""
