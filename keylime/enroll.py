"""Runs Keylime's command line tenant many times without importing it each time.

Reads one JSON object a line: {"id": N, "argv": [...]} runs `keylime_tenant argv...`, {"cancel": N} stops that run. Writes one JSON object
a line: {"ready": true, "seconds": T} once, when Keylime is imported, then {"id": N, "code": C, "output": "...", "seconds": T} for each run.

Each run is a fork of this process, so each has a tenant of its own just as from the command line (the tenant keeps its state in
a class and in globals, so threads would not do), and what runs is Keylime's own main function. Nothing of Keylime is changed.
"""

import gc
import json
import logging
import os
import selectors
import signal
import sys
import time

started = time.monotonic()
replies = os.dup(1)  # Keylime prints to standard output: keep the channel for replies apart
os.dup2(2, 1)

# pylint: disable=wrong-import-position
from keylime.cmd import tenant  # noqa: E402
from keylime.mba import mba  # noqa: E402

mba.load_imports(skip_custom_policies=True)  # each tenant does this as it starts; its modules are now imported once for all

PARALLEL = int(sys.argv[1])
OUTPUT_LIMIT = 256 * 1024


def reply(message):
    data = memoryview(json.dumps(message).encode() + b"\n")
    while data:
        data = data[os.write(replies, data) :]


def log_matching_store_file():
    """Keylime tells which file of tpm_cert_store vouches for an EK only at level debug: let that one logger say so."""
    logger = logging.getLogger("keylime.cert_utils")
    logger.setLevel(logging.DEBUG)
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: record.levelno == logging.DEBUG)  # the rest comes by the usual way
    handler.setFormatter(logging.Formatter("%(name)s - %(levelname)s - %(message)s"))
    logger.addHandler(handler)


class Run:
    def __init__(self, ident, argv):
        self.ident = ident
        self.began = time.monotonic()
        self.output = bytearray()
        self.pipe, write_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.child(write_end, argv)
        os.close(write_end)
        os.set_blocking(self.pipe, False)

    @staticmethod
    def child(write_end, argv):
        code = 1
        try:
            os.dup2(write_end, 1)
            os.dup2(write_end, 2)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)  # the requests are the parent's
            os.close(replies)
            log_matching_store_file()
            sys.argv = ["keylime_tenant", *argv]
            tenant.main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException as error:  # pylint: disable=broad-exception-caught
            print(f"keylime_tenant - ERROR - {type(error).__name__}: {error}", flush=True)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def read(self):
        """Takes what the child has printed; returns False at its end."""
        while True:
            try:
                chunk = os.read(self.pipe, 65536)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self.output += chunk
            if len(self.output) > OUTPUT_LIMIT:
                del self.output[: len(self.output) - OUTPUT_LIMIT]

    def finish(self):
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        reply(
            {
                "id": self.ident,
                "code": os.waitstatus_to_exitcode(status),
                "output": self.output.decode(errors="replace"),
                "seconds": time.monotonic() - self.began,
            }
        )


def main():
    gc.collect()
    gc.freeze()  # keeps the garbage collector of the forks from copying all pages
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    os.set_blocking(0, False)
    waiting, running, buffered, more = [], {}, b"", True
    reply({"ready": True, "seconds": time.monotonic() - started})
    while more or waiting or running:
        while waiting and len(running) < PARALLEL:
            request = waiting.pop(0)
            run = Run(request["id"], request["argv"])
            running[run.ident] = run
            selector.register(run.pipe, selectors.EVENT_READ, run)
        for key, _ in selector.select():
            if key.data is not None:
                if not key.data.read():
                    selector.unregister(key.fileobj)
                    del running[key.data.ident]
                    key.data.finish()
                continue
            chunk = os.read(0, 65536)
            if not chunk:
                selector.unregister(0)
                more = False
            *lines, buffered = (buffered + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if "cancel" not in request:
                    waiting.append(request)
                elif request["cancel"] in running:
                    os.kill(running[request["cancel"]].pid, signal.SIGKILL)
                else:
                    waiting = [w for w in waiting if w["id"] != request["cancel"]]


main()
