"""Becomes another program, after what can only be done between fork and exec.

Run as a script, by path, with nothing but the standard library: `launch.py [options] -- PROGRAM
ARGUMENT...`. Doing this in a fresh interpreter, and not in a forked copy of a program with threads,
is what makes it safe.
"""

import argparse
import ctypes
import os
import signal
import struct
import sys

CANNOT_LAUNCH = 126  # the exit code a shell gives to a program that can't be run

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522
_CLONE_NEWUSER = 0x10000000


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter_user_namespace(uid: int, gid: int) -> None:
    """Go on as `uid` inside a new user namespace; outside, files stay owned by who we are.

    Raises OSError where the kernel or a container's rules forbid it.
    """
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _check(_libc().unshare(_CLONE_NEWUSER), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {outer_uid} 1"),
        ("gid_map", f"{gid} {outer_gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def drop_to(uid: int, gid: int, *, keep_file_access: bool) -> None:
    """Stop being root for good. With `keep_file_access`, directories that only root may enter stay
    within reach (the one capability CAP_DAC_OVERRIDE is kept, and handed to the program).

    Raises OSError.
    """
    libc = _libc()
    if keep_file_access:
        _check(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl(PR_SET_KEEPCAPS)")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if keep_file_access:
        bits = 1 << _CAP_DAC_OVERRIDE
        header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
        # effective, permitted, inheritable; then the same for capabilities above 31
        sets = struct.pack("6I", bits, bits, bits, 0, 0, 0)
        _check(libc.capset(header, sets), "capset")
        raised = libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)
        _check(raised, "prctl(PR_CAP_AMBIENT)")


def die_with_parent(parent: int, number: int) -> None:
    """Have the kernel send us signal `number` when the thread that started us ends.

    Raises OSError if `parent` is gone already.
    """
    _check(_libc().prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise ProcessLookupError(f"the parent, process {parent}, is gone")


def _pair(text: str) -> tuple[int, int]:
    uid, _, gid = text.partition(":")
    return int(uid), int(gid)


def main() -> None:
    """Do as the options say, then become the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--user-namespace", type=_pair, metavar="UID:GID")
    parser.add_argument("--user", type=_pair, metavar="UID:GID")
    parser.add_argument("--keep-file-access", action="store_true")
    parser.add_argument("--directory")
    parser.add_argument("--parent", type=int)
    parser.add_argument("--death-signal", type=int, default=int(signal.SIGTERM))
    parser.add_argument("program", nargs="+")
    options = parser.parse_args()
    # Python's own handler for SIGINT would print a traceback where a stop comes this early.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        if options.user_namespace is not None:
            enter_user_namespace(*options.user_namespace)
        if options.user is not None:
            drop_to(*options.user, keep_file_access=options.keep_file_access)
        if options.directory is not None:
            os.chdir(options.directory)
        # After every change of identity: those clear it.
        if options.parent is not None:
            die_with_parent(options.parent, options.death_signal)
        os.execv(options.program[0], options.program)
    except OSError as error:
        print(f"cannot run {options.program[0]}: {error}", file=sys.stderr)
        sys.exit(CANNOT_LAUNCH)


if __name__ == "__main__":
    main()
