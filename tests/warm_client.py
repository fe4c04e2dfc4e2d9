"""The program that `warm.python()` names: hands its arguments, environment and descriptors to the server, which forks.

Run as `python -IS warm_client.py SOCKET PROGRAM ARGUMENTS...`. It passes signals on and ends as the process ended.
"""

import json
import os
import signal
import socket
import struct
import sys

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    server, program, *words = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server)
        asked = {"program": program, "words": words, "folder": os.getcwd(), "environment": dict(os.environ)}
        request = json.dumps(asked).encode()
        socket.send_fds(connection, [struct.pack("q", len(request))], [0, 1, 2])
        connection.sendall(request)
        for number in PASSED_ON:
            signal.signal(number, lambda got, _: connection.sendall(bytes([got])))
        answer = connection.recv(4, socket.MSG_WAITALL)
    (status,) = struct.unpack("i", answer) if answer else (1,)
    if status < 0:  # as it was killed
        if -status != signal.SIGKILL:  # whose effect nobody sets
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
