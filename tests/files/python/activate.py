"""Plays a service manager with socket units: activate.py SOCKET... -- PROGRAM ARGUMENT...

Runs the program with these sockets as its descriptors from 3 on: tcp:IP:PORT, udp:IP:PORT or unix:PATH.
"""
import os
import socket
import sys

end = sys.argv.index("--")
wanted, program = sys.argv[1:end], sys.argv[end + 1 :]


def opened(spec):
    kind, _, address = spec.partition(":")
    if kind == "unix":
        made = socket.socket(socket.AF_UNIX)
        made.bind(address)
    else:
        host, _, port = address.rpartition(":")
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        made.bind((host, int(port)))
    if kind != "udp":
        made.listen()
    return made


sockets = [opened(spec) for spec in wanted]
# out of the way of where they are to be
for offset, number in enumerate([os.dup(made.fileno()) for made in sockets]):
    os.dup2(number, 100 + offset, inheritable=False)
for offset in range(len(wanted)):
    os.dup2(100 + offset, 3 + offset, inheritable=True)
os.environ["LISTEN_FDS"] = str(len(wanted))
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDNAMES"] = ":".join(f"number-{n}" for n in range(len(wanted)))
os.execv(program[0], program)
