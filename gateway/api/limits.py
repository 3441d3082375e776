"""Limits of the API that the server in front of it and the doctor know, too. It imports nothing else."""

LARGEST_BODY = 512 * 1024  # bytes; 20 of the largest keys and some
REQUESTS_OF_A_SESSION = 60  # a minute, with a token; the gate counts those of a session with a socket
