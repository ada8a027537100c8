"""What no program in a sandbox may ask of the kernel, as a filter of system calls (seccomp(2)) in classic BPF.

    ends the program (SIGSYS)   a socket that is not of this machine's files, other processes' memory, mounts,
                                namespaces, modules, keys, the kernel's own tracing
    is not there (ENOSYS)       memory that no limit counts: memfd, System V, io_uring; clone3, whose flags cannot be
                                read here, so that libc takes clone
    is refused (EPERM)          clone with flags that make a namespace

Other architectures than the two of the table have no filter: namespaces, limits and the watch hold there alone.
"""

from __future__ import annotations

import errno
import platform
import struct

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ENDS: dict[str, tuple[int, int]] = {  # call: its number on x86_64, on aarch64
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
}
ABSENT: dict[str, tuple[int, int]] = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "io_uring_setup": (425, 425),
    "clone3": (435, 435),
}
SOCKET, CLONE = (41, 198), (56, 220)
AF_UNIX = 1
NEW_NAMESPACE = 0x7E020080  # CLONE_NEWUSER | NEWPID | NEWNET | NEWIPC | NEWUTS | NEWCGROUP | NEWNS | NEWTIME
X32 = 0x40000000  # a second table of calls on x86_64

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; both machines are little-endian


def program(machine: str | None = None) -> bytes | None:
    """The filter as an array of struct sock_filter, for `bwrap --seccomp`; None for a machine without a table."""
    machine = machine or platform.machine()
    if machine not in AUDIT_ARCH:
        return None
    column = list(AUDIT_ARCH).index(machine)
    lines = [_op(_LOAD, _ARCH), _op(_EQUAL, AUDIT_ARCH[machine], 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NUMBER)]
    lines += [_op(_AT_LEAST, X32, 0, 1), _op(_RETURN, _KILL)]
    for calls, verdict in ((ENDS, _KILL), (ABSENT, _ERRNO | errno.ENOSYS)):
        for numbers in calls.values():
            lines += [_op(_EQUAL, numbers[column], 0, 1), _op(_RETURN, verdict)]
    lines += [_op(_EQUAL, SOCKET[column], 0, 4), _op(_LOAD, _FIRST_ARGUMENT), _op(_EQUAL, AF_UNIX, 1, 0)]
    lines += [_op(_RETURN, _KILL), _op(_RETURN, _ALLOW)]
    lines += [_op(_EQUAL, CLONE[column], 0, 3), _op(_LOAD, _FIRST_ARGUMENT), _op(_ANY_BIT, NEW_NAMESPACE, 0, 1)]
    lines += [_op(_RETURN, _ERRNO | errno.EPERM), _op(_RETURN, _ALLOW)]
    return b"".join(lines)


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)
