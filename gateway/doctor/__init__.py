"""What an administrator asks when in doubt: do the places where sessions exist agree, is all there that
sessions need. It looks and changes nothing, whether a gateway serves or is dead.

With `attack` it proves instead that nobody gets out of a session.

`differences` is the judgement, `places` the looking, `checks` what else must be right on this host, and
`diagnosis` puts them together.
"""
