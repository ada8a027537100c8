"""What runs inside the sandbox, as its first process: it starts the program once for each input and says what came.

    stdin   one job, marshalled: files, how to compile and run them, inputs, limits
    stdout  frames: `what code milliseconds n_out n_err` and a newline, then the program's output and its errors

Nothing here is trusted from outside: a program can only harm the sandbox that is its own, and what it may write here
is what it may print. Expected outputs are never in a job. The interpreter may be older than the one that trains, so
this file needs Python 3.9, and imports nothing but the standard library, little of it for the sake of speed.
"""

import _signal as signal  # without the enums of `signal`, which take a millisecond to make
import atexit
import contextlib
import gc
import marshal
import os
import resource
import select
import sys
import types

CHANNEL = 3  # the descriptor of a driver's connection to the outside
PIECE = 64 * 1024  # bytes read at once
_exit = os._exit
_FIRST_PROCESS = os.getpid() == 1
DRIVERS = globals().get("DRIVERS", {})  # of a host, where a job has a number in the place of a text


def main():
    """Returns in a child only, with its own stdin and stdout: the job, whose program is to take its place."""
    with open(0, "rb", closefd=False) as job_file:
        job = marshal.loads(job_file.read())
    for name, content in job["files"].items():
        with open(name, "wb") as file:
            file.write(content)
    if job["compile"]:
        status, output, errors, spent = _run(job, job["compile"], b"", job["compile_seconds"])
        if status:
            _frame("compile", status, spent, output, errors)
            os._exit(0)
    elif job["run"] is None:
        _check(job)
    _frame("ready", 0, 0, b"", b"")
    for given in job["inputs"]:
        result = _run(job, job["run"], given, job["cpu_seconds"])
        if result is None:
            return job
        _frame("run", *_as_frame(result))
    os._exit(0)


def _as_frame(result):
    status, output, errors, spent = result
    return status, spent, output, errors


def _check(job):
    """A frame for a text that is no Python; the code itself is made once."""
    try:
        job["code"] = compile(job["files"][job["file"]], job["file"], "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        message = getattr(error, "msg", None) or str(error)
        _frame("compile", 1, 0, b"", f"{type(error).__name__}: {message}{line}".encode(errors="replace"))
        os._exit(0)


def _run(job, argv, given, cpu_seconds):
    """(status, output, errors, milliseconds of CPU) of one process and all that it started; None in the child.

    status: the exit code, -n after signal n, and "flood" where there was more output than allowed.
    """
    feed = _file_of(given)
    (out, out_child), (err, err_child) = os.pipe(), os.pipe()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if not child:
        _become(job, argv, cpu_seconds, feed, out_child, err_child)
        return None
    for fd in (feed, out_child, err_child):
        os.close(fd)
    texts, status = _collected(child, out, err, job["output_bytes"])
    _end_others(child)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = int(1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return status, texts[out], texts[err], spent


def _collected(child, out, err, most):
    """What came through both pipes until the child ended, at most so much of each; the child is killed at more."""
    texts, ended = {out: b"", err: b""}, os.pidfd_open(child)
    status: object = ""
    poll = select.poll()
    for fd in (out, err, ended):
        poll.register(fd, select.POLLIN)
    poll.register(1, 0)  # POLLERR: who started all this is gone
    while status == "":
        ready = dict(poll.poll())
        if 1 in ready:
            os._exit(1)
        for fd in (out, err):
            if fd in ready:
                _read(poll, fd, texts, most)
        if max(map(len, texts.values())) > most:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            status = "flood"
        elif ended in ready:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _end_others(child)
    for fd in (out, err):  # what is left in the pipe
        os.set_blocking(fd, False)
        while len(texts[fd]) <= most and (piece := _piece(fd)):
            texts[fd] += piece
        if len(texts[fd]) > most:
            status = "flood"
        os.close(fd)
    os.close(ended)
    return {fd: text[:most] for fd, text in texts.items()}, status


def _read(poll, fd, texts, most):
    piece = os.read(fd, PIECE)
    texts[fd] += piece
    if not piece:
        poll.unregister(fd)


def _piece(fd):
    try:
        return os.read(fd, PIECE)
    except BlockingIOError:
        return b""


def _end_others(child):
    """Kill and reap what the program left running, so that it can neither go on nor disturb the next run."""
    if _FIRST_PROCESS:
        try:
            os.kill(-1, signal.SIGKILL)  # all but this one
        except ProcessLookupError:
            return
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
    while True:
        try:
            if os.waitpid(-1, 0 if _FIRST_PROCESS else os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def _file_of(given):
    """The input as a file without a name, open for reading."""
    name = "/dev/shm/input" if os.path.isdir("/dev/shm") and _FIRST_PROCESS else ".input"
    with open(name, "wb") as file:
        file.write(given)
    fd = os.open(name, os.O_RDONLY)
    os.unlink(name)
    return fd


def _become(job, argv, cpu_seconds, feed, out, err):
    """The child's side: take the program's place, or return if that is Python, which goes on in this process."""
    os.setsid()
    for fd, place in ((feed, 0), (out, 1), (err, 2)):
        os.dup2(fd, place)
    if job["channel"] is not None:
        os.dup2(job["channel"], CHANNEL)
    os.closerange(CHANNEL + (job["channel"] is not None), 256)
    seconds = max(1, -int(-cpu_seconds // 1))
    limits = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_DATA: (job["memory_bytes"],) * 2,
        resource.RLIMIT_FSIZE: (job["disk_bytes"],) * 2,
        resource.RLIMIT_NOFILE: (256, 256),
        resource.RLIMIT_CORE: (0, 0),
    }
    if _FIRST_PROCESS:  # elsewhere it would count all processes of the user
        limits[resource.RLIMIT_NPROC] = (job["processes"],) * 2
    for limit, values in limits.items():
        resource.setrlimit(limit, values)
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = job["memory_bytes"] if hard == resource.RLIM_INFINITY else min(hard, job["memory_bytes"])
    resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))
    if argv is None:
        return
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}".encode())
    os._exit(127)


def _frame(what, status, spent, output, errors):
    head = f"{what} {status} {spent} {len(output)} {len(errors)}\n"
    rest = memoryview(head.encode() + output + errors)
    while rest:
        rest = rest[os.write(1, rest) :]


def program(job):
    """Run a Python program as `python3 main.py` does. Returns what it leaves, and its exit code."""
    module = types.ModuleType("__main__")
    module.__file__ = job["file"]
    sys.modules["__main__"] = module
    sys.argv = [job["file"]]
    sys.path.insert(0, os.getcwd())
    try:
        exec(job["code"], module.__dict__)
    except SystemExit as stop:
        return module.__dict__, _code_of(stop)
    except BaseException as error:
        if error.__traceback__:
            error.__traceback__ = error.__traceback__.tb_next  # without this file
        sys.excepthook(type(error), error, error.__traceback__)
        return module.__dict__, 1
    return module.__dict__, 0


def drive(job):
    """Run the driver in the program's place."""
    driver, space = job["driver"], {"__name__": "driver", "job": job, "CHANNEL": CHANNEL}
    code = compile(driver, "driver", "exec") if isinstance(driver, str) else DRIVERS[driver]
    try:
        exec(code, space)
    except SystemExit as stop:
        return space, _code_of(stop)
    return space, 0


def _code_of(stop):
    if stop.code is None or isinstance(stop.code, int):
        return (stop.code or 0) & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def _leave(space, code):
    """End as the interpreter does, but for taking it apart, which takes longer than most programs."""
    with contextlib.suppress(BaseException):
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()  # waits for threads
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    with contextlib.suppress(BaseException):
        space.clear()  # files that are open are written
        gc.collect()
    written = [_flushed(sys.stdout), _flushed(sys.stderr), _flushed(sys.__stdout__), _flushed(sys.__stderr__)]
    _exit(code if written[0] else code or 120)


def _flushed(stream):
    try:
        if stream is not None and not stream.closed:
            stream.flush()
    except BaseException:
        return False
    return True


if __name__ == "__main__":
    todo = main()
    gc.freeze()  # what is here already is left alone
    _leave(*(program(todo) if todo["driver"] == "" else drive(todo)))
