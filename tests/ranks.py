"""Several processes of one run, as a launcher would start them, but forked: a fresh interpreter loads for seconds."""

import os
import signal
import socket
import sys
import threading
import traceback
import warnings

SECONDS = 90  # after which what still runs hangs


def forked(size, work, folder, **environment):
    """Exit codes of `size` processes that did `work(rank)`, and what each wrote to stdout and stderr.

    A code is what `work` returned, 99 if it raised, or minus the signal that ended the process.
    """
    folder.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    around = dict(WORLD_SIZE=size, LOCAL_WORLD_SIZE=size, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    around |= {"TOKENIZERS_PARALLELISM": "false"} | environment  # its threads are not copied
    children = []
    for rank in range(size):
        with warnings.catch_warnings(action="ignore"):  # of threads that are not copied; none is at work
            child = os.fork()
        if child == 0:
            os.environ.update(
                {name: str(value) for name, value in (around | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            )
            _child(rank, work, folder)
        children.append(child)
    over = threading.Timer(SECONDS, lambda: [os.kill(child, signal.SIGKILL) for child in children])
    over.start()
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    over.cancel()
    return codes, [((folder / f"{rank}.out").read_text(), (folder / f"{rank}.err").read_text()) for rank in range(size)]


def _child(rank, work, folder):
    code = 99
    try:
        for number, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{rank}.{stream}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        code = work(rank) or 0
    except BaseException:  # noqa: BLE001 - the end of the process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
