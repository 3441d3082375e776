"""`gateway doctor`: compares the places where sessions exist, and checks what sessions need.

It changes nothing, and works whether a gateway runs or not. `places` reads the places, `differences` compares
them, `checks` examines the host, and `diagnosis` puts these together. `attack` tries to break out of a
session.
"""
