"""A system-call filter: what no function of arrays has use for is answered with EPERM.

The filter is a short BPF program. It lets through whatever is not listed, so that NumPy, Numba and
torch work as they do elsewhere; namespaces or Landlock keep files and processes out of reach, and
the filter closes what those leave open: new processes, sockets, signals to others, and the parts
of the kernel where most holes were found.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

PR_SET_SECCOMP, MODE_FILTER = 22, 2
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
X32 = 0x40000000
CLONE_THREAD, NEW_NAMESPACES = 0x00010000, 0x7E020080
AF_UNIX = 1
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# name: (x86_64, aarch64); None where the architecture has no such call
CALLS: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "clone3": (435, 435),
    "execve": (59, 221), "execveat": (322, 281),
    "socket": (41, 198), "socketpair": (53, 199),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    "prctl": (157, 167), "prlimit64": (302, 261), "setrlimit": (160, 164),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "kcmp": (312, 272), "setpriority": (141, 140),
    # mounts, namespaces, roots
    "mount": (165, 40), "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268),
    "chroot": (161, 51), "pivot_root": (155, 41), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # the kernel itself
    "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "userfaultfd": (323, 282), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "iopl": (172, None),
    "ioperm": (173, None), "modify_ldt": (154, None), "personality": (135, 92),
    "syslog": (103, 116), "vhangup": (153, 58),
    # memory that outlives a process or that no limit counts
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    # attributes of files: Landlock does not cover them
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip

PROCESSES = ("fork", "vfork", "execve", "execveat")
ATTRIBUTES = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utime",
    "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr", "removexattr",
    "lremovexattr", "fremovexattr",
)  # fmt: skip
SIGNALS = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
BY_HAND = (
    *PROCESSES, *ATTRIBUTES, *SIGNALS, "clone", "clone3", "socketpair", "tkill",
    "pidfd_send_signal", "prctl", "prlimit64",
)  # fmt: skip


def supported():
    return platform.machine() in MACHINES


def install(libc, *, processes, kills, attributes):
    """Filter this process and all that it starts. Raises OSError.

    processes: whether it may start others; kills: whether it may signal others; attributes:
    whether it may change modes, owners and times of files.
    """
    rows = b"".join(program(os.getpid(), processes, kills, attributes))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    filled = Program(len(rows) // 8, rows)
    if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(filled), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")


def program(pid, processes, kills, attributes):
    """The filter's instructions, eight bytes each."""
    audit, column = MACHINES[platform.machine()]
    number = {name: pair[column] for name, pair in CALLS.items() if pair[column] is not None}
    rows = [
        _row(LOAD, ARCHITECTURE),
        _row(EQUAL, audit, 1, 0),
        _row(RETURN, KILL),
        _row(LOAD, NUMBER),
        _row(AT_LEAST, X32, 0, 1),
        _row(RETURN, KILL),
    ]

    def on(name, *body):
        """`body` for the call of that name; it must end in a return."""
        if name in number:
            rows.extend((_row(EQUAL, number[name], 0, len(body)), *body))

    refuse, allow = _row(RETURN, ERRNO | errno.EPERM), _row(RETURN, ALLOW)
    denied = [name for name in CALLS if name not in BY_HAND]
    denied += [] if processes else PROCESSES
    denied += [] if attributes else ATTRIBUTES
    denied += [] if kills else ["pidfd_send_signal", "tkill"]
    for name in denied:
        on(name, refuse)
    on("clone3", _row(RETURN, ERRNO | errno.ENOSYS))  # its flags cannot be read: clone is used
    flags = _argument(0)
    if processes:
        on("clone", flags, _row(ANY_BIT, NEW_NAMESPACES, 0, 1), refuse, allow)
    else:
        on("clone", flags, _row(ANY_BIT, CLONE_THREAD, 1, 0), refuse, allow)
    if not kills:
        for name in SIGNALS:
            on(name, _argument(0), _row(EQUAL, pid, 1, 0), refuse, allow)
    on("socketpair", _argument(0), _row(EQUAL, AF_UNIX, 1, 0), refuse, allow)
    on(
        "prctl",
        _argument(0),
        _row(EQUAL, PR_SET_PDEATHSIG, 2, 0),
        _row(EQUAL, PR_SET_CHILD_SUBREAPER, 1, 0),
        allow,
        refuse,
    )
    # limits may be read: prlimit64 without a new value
    on(
        "prlimit64",
        _argument(2),
        _row(EQUAL, 0, 1, 0),
        refuse,
        _argument(2, high=True),
        _row(EQUAL, 0, 1, 0),
        refuse,
        allow,
    )
    rows.append(allow)
    return rows


def _row(code, k, yes=0, no=0):
    return struct.pack("<HBBI", code, yes, no, k)


def _argument(i, high=False):
    return _row(LOAD, 16 + 8 * i + 4 * high)
