"""Runs Python programs that need not import their libraries: a fork server.

    python forkserver.py LIBRARIES

Imports the modules that the file LIBRARIES names, then forks for each request; each fork becomes the program that was asked for, just as
`python PROGRAM ARGUMENT...` would have: with its own arguments, environment, working folder, files and namespaces, in a process group of its own.
What is shared is libraries alone. A program's own modules are imported in its fork, where they find its environment.

Requests and answers are messages of a socket of packets (AF_UNIX, SOCK_SEQPACKET), descriptor 3, each a JSON object:

    {"id": N, "argv": [PROGRAM, ...], "env": {...}, "dir": "..."}   with descriptors: standard input, output and error, then namespaces to enter
    {"id": N, "pid": P}                                             it has begun
    {"id": N, "pid": P, "code": C}                                  it has ended, with this exit status, or minus the number of a signal

The end of the socket is the server's end.
"""

import ctypes
import functools
import gc
import importlib
import json
import logging.config
import os
import runpy
import selectors
import socket
import sys

MESSAGE_LIMIT = 256 * 1024
DESCRIPTOR_LIMIT = 16


def preload(path):
    with open(path, encoding="utf-8") as names:
        for name in names.read().split():
            try:
                importlib.import_module(name)
            except ImportError:
                pass  # whoever needs it says so, in words of its own
    # Python's logging turns off all loggers that are there when a program configures it. Those of the libraries used to come later.
    logging.config.fileConfig = functools.partial(logging.config.fileConfig, disable_existing_loggers=False)
    gc.collect()
    gc.freeze()  # keeps the garbage collector of the forks from copying all pages


def serve(channel):
    """Forks for each request. Returns in the forks alone, what they shall become; otherwise the process ends in here."""

    def answer(message):
        channel.send(json.dumps(message).encode())

    selector = selectors.DefaultSelector()
    selector.register(channel, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:  # a fork has ended
                ident, pid = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(pid, 0)
                answer({"id": ident, "pid": pid, "code": os.waitstatus_to_exitcode(status)})
                continue
            message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_LIMIT, DESCRIPTOR_LIMIT)
            if not message:
                sys.exit()
            request = json.loads(message)
            pid = os.fork()
            if pid == 0:
                for other in list(selector.get_map().values()):
                    if other.data is not None:
                        os.close(other.fd)
                selector.close()
                channel.close()
                return request, descriptors
            os.setpgid(pid, pid)  # here too: whoever reads the answer may signal the group at once
            for descriptor in descriptors:
                os.close(descriptor)
            answer({"id": request["id"], "pid": pid})
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (request["id"], pid))


def enter(namespace, libc=ctypes.CDLL(None, use_errno=True)):
    if libc.setns(namespace, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, "enter a namespace: " + os.strerror(number))


def become(request, descriptors):
    """Makes of this process what the request says, up to the program itself."""
    os.setpgid(0, 0)
    for descriptor in descriptors[3:]:
        enter(descriptor)
    for standard, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, standard)
    for descriptor in descriptors:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["dir"])
    sys.argv = request["argv"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    show([sys.executable, *sys.argv])
    return sys.argv[0]


def show(command):
    """Has ps and its like show a command instead of the server's, as far as that one leaves room for it."""
    with open("/proc/self/stat", encoding="utf-8") as stat:
        fields = stat.read().rpartition(")")[2].split()  # from the third on, of proc(5)
    start, end = int(fields[48 - 3]), int(fields[49 - 3])
    text = b"".join(os.fsencode(word) + b"\0" for word in command)[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
    with open("/proc/self/comm", "w", encoding="utf-8") as name:
        name.write(os.path.basename(command[1])[:15])


preload(sys.argv[1])
# Beyond this line a fork is the program: whatever it raises, and its end, are those of a Python of its own.
runpy.run_path(become(*serve(socket.socket(fileno=3))), run_name="__main__")
