"""What runs inside the host (host.py): it forks a sandbox of its own for each program.

    host, process 1 of bubblewrap's sandbox ──▶ a process that unshares ──▶ process 1 of the new namespaces: inside.py
       ◀── asked: descriptors of the job, its output, its errors, the tale    └── waits, and tells how that one ended

The new ones get what bubblewrap would have given them: namespaces of their own for users, processes, network, files,
IPC; a /tmp, a /dev/shm, terminals and a /proc of their own; no capability, and the filter of system calls. What they
share is what is read-only for all. Nothing that a program did is in the next one: each is forked from a process that
has never run one.

Nothing is imported but the standard library, and Python 3.9 is enough.
"""

import array
import ctypes
import gc
import marshal
import os
import socket

CHANNEL = 10  # where a driver's connection is put
# What inside.py and its drivers import, once for all.
USED = "_signal atexit collections contextlib decimal fractions importlib json math resource select types typing"
# sched.h, mount.h, prctl.h
NEW_FILES, NEW_CGROUP, NEW_NAMES, NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEW_USER, NEW_PROCESSES, NEW_NET = 0x10000000, 0x20000000, 0x40000000
NO_SUID, NO_DEV, NO_EXEC = 2, 4, 8
DROP_BOUND, SET_SECCOMP, FILTER = 24, 22, 2
CAPABILITIES_V3, LAST_CAPABILITY = 0x20080522, 63
_libc = ctypes.CDLL(None, use_errno=True)


class Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def serve(control, inside, seccomp):
    """Until the other end is closed. Returns in a sandbox's first process: the drivers, and inside.py's code."""
    drivers, code = {}, compile(inside, "inside", "exec")
    for name in USED.split():
        __import__(name)
    gc.freeze()
    while True:
        message, given = _received(control)
        if not message:
            os._exit(0)
        _reap()
        asked = marshal.loads(message)
        if "driver" in asked:
            drivers[asked["name"]] = compile(asked["driver"], "driver", "exec")
            continue
        try:
            forked = os.fork()
        except OSError:
            forked = None  # the caller sees that the tale ends
        if forked == 0:
            control.close()
            _sandbox(given, asked["disk_bytes"], seccomp)
            return drivers, code
        for fd in given:
            os.close(fd)


def _received(control):
    message, ancillary, _, _ = control.recvmsg(1 << 20, socket.CMSG_SPACE(8 * 4))
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return message, list(fds)


def _reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _sandbox(given, disk_bytes, seccomp):
    """Make it. Returns in its first process."""
    tale = socket.socket(fileno=given[3])
    try:
        os.setsid()
        user, group = os.getuid(), os.getgid()
        _unshare()
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        for folder in ("/tmp", "/dev/shm"):
            _mount("tmpfs", folder, NO_SUID | NO_DEV, f"size={disk_bytes},mode=755")
        _mount("devpts", "/dev/pts", NO_SUID | NO_EXEC, "newinstance,ptmxmode=0666,mode=620")
        first = os.fork()
        if first:
            os.closerange(0, 3)
            for fd in (*given[:3], *given[4:]):
                os.close(fd)
            tale.send(b"ended %d" % os.waitpid(first, 0)[1])
            os._exit(0)
        _mount("proc", "/proc", NO_SUID | NO_DEV | NO_EXEC, "")
        os.chdir("/tmp")
        for fd, place in zip(given[:3], range(3)):  # noqa: B905 - Python 3.9
            os.dup2(fd, place)
            os.close(fd)
        for fd in given[4:]:
            os.dup2(fd, CHANNEL)
            os.close(fd)
        _give_up_rights(seccomp)
    except OSError as error:
        tale.send(f"failed {error}".encode())
        os._exit(1)
    tale.send(b"ready")  # with the number of this process, as the kernel knows it outside
    tale.close()


def _unshare():
    flags = NEW_USER | NEW_PROCESSES | NEW_NET | NEW_FILES | NEW_IPC | NEW_NAMES | NEW_CGROUP
    _check(_libc.unshare(flags), "unshare")


def _mount(kind, folder, flags, data):
    _check(_libc.mount(kind.encode(), folder.encode(), kind.encode(), flags, data.encode()), f"mount {folder}")


def _give_up_rights(seccomp):
    for number in range(LAST_CAPABILITY + 1):
        if _libc.prctl(DROP_BOUND, number, 0, 0, 0):
            break  # the kernel knows no more of them
    none = (ctypes.c_uint32 * 6)()
    _check(_libc.capset((ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0), none), "capset")
    if seccomp:
        lines = Filter(len(seccomp) // 8, seccomp)
        _check(_libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(lines), 0, 0), "seccomp")


def _check(result, what):
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
