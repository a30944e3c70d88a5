"""opendnp3 in this process: its managers, their lifetime, and what its Python binding does not let one say.

Rules that hold here and everywhere beside it (each was seen to crash or hang the process otherwise):
* every manager is shut down before the interpreter ends; nothing is added to it afterwards;
* whatever opens, enables or shuts down something native runs on a thread of its own, never inside a callback;
* no callback lets an exception out.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import resource
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import opendnp3 as dnp3

from gatewayd.protocols.dnp3.config import Options
from gatewayd.protocols.driver import DeviceFault

T = TypeVar("T")

SWITCH_INTERVAL_S = 0.0005
"""opendnp3's threads ask for the GIL several times a fragment, from a loop that is busy; Python's 5 ms would add up."""

LONGEST_FRAGMENT = 8192
"""Octets of a fragment from an outstation at most. The standard's default is 2048; some send more."""
START_LIMIT_MS = 1000
"""A task that could not begin within is given up: nothing of it was sent."""
_NEVER_MS = 0x7FFF_FFFF


class _Managers:
    """One manager with one thread for each line that is open, so that a callback that waits holds up its own line only.

    They are used again and never destroyed: a manager's destructor waits for its thread with the GIL held.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Any] = []
        self._idle: list[Any] = []
        self._ended = False
        self.before_end: set[Callable[[], None]] = set()

    def take(self) -> Any:
        """A manager that nobody uses."""
        with self._lock:
            if self._ended:
                raise RuntimeError("opendnp3 has been shut down")
            if self._idle:
                return self._idle.pop()
            if not self._all:
                _raise_file_limit()
                sys.setswitchinterval(SWITCH_INTERVAL_S)
                atexit.register(self._end)
            manager = dnp3.DNP3Manager(1)
            self._all.append(manager)
            return manager

    def give_back(self, manager: Any) -> None:
        """It has no channels any more."""
        with self._lock:
            self._idle.append(manager)

    def _end(self) -> None:
        """Let go of every callback that still waits, then shut down: the interpreter could not end otherwise."""
        with self._lock:
            self._ended = True
        for release in list(self.before_end):
            release()
        for manager in self._all:
            manager.Shutdown()


_managers = _Managers()


def before_end(release: Callable[[], None]) -> None:
    """Have this called at the end of the process, before the managers are shut down."""
    _managers.before_end.add(release)


def forget(release: Callable[[], None]) -> None:
    """It need not be called any more."""
    _managers.before_end.discard(release)


MOST_FILES = 65536


def _raise_file_limit() -> None:
    """Each line takes six file descriptors; the usual soft limit of 1024 would end it at 160 devices."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


_known = threading.local()


def keep_thread_state() -> None:
    """Have Python know the calling thread of opendnp3 from now on; from a callback on it, any number of times.

    pybind11 makes a thread state, with memory mapped for its stack, for each callback on a thread that Python does not
    know, and throws it away after it; several a fragment. A reference that is not given back keeps it: one for each
    manager's thread, which live as long as the process.
    """
    if not getattr(_known, "kept", False):
        _known.kept = True
        ctypes.pythonapi.PyGILState_Ensure()


async def off_loop(function: Callable[..., T], *arguments: Any) -> T:
    """Run something native that may wait on a thread of its own; an executor's would be joined at the exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def main() -> None:
        try:
            result, error = function(*arguments), None
        except BaseException as raised:
            result, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=main, name="dnp3-native", daemon=True).start()
    return await future


def _never() -> Any:
    return dnp3.TimeDuration.Milliseconds(_NEVER_MS)


def milliseconds(seconds: float) -> Any:
    """A TimeDuration."""
    return dnp3.TimeDuration.Milliseconds(max(1, round(seconds * 1000)))


class Listener(dnp3.IChannelListener):  # type: ignore[misc]
    """opendnp3 wants one; the line knows the state of its connection better."""


class Channel:
    """A channel that connects to a port of our own on 127.0.0.1, once: nothing here ever reconnects by itself."""

    def __init__(self, name: str, port: int) -> None:
        self._manager = _managers.take()
        retry = dnp3.ChannelRetry(_never(), _never())
        retry.reconnectDelay = _never()
        where = [dnp3.IPEndpoint("127.0.0.1", port)]
        levels = dnp3.levels.NOTHING
        try:
            self._channel = self._manager.AddTCPClient(name, levels, retry, where, "127.0.0.1", Listener())
        except BaseException:
            _managers.give_back(self._manager)
            raise

    def add_master(self, name: str, soe: Any, application: Any, config: Any) -> Any:
        """A master on it, not enabled; None where its addresses are taken."""
        return self._channel.AddMaster(name, soe, application, config)

    def shutdown(self) -> None:
        """The end of it. Its callbacks have been let go of before; if one still waits, this does too."""
        self._channel.Shutdown()
        _managers.give_back(self._manager)


def stack_config(options: Options) -> Any:
    """A master that does nothing by itself: what is asked, and when, is decided in `agenda.py`.

    opendnp3's own startup tasks are not for us: one that the outstation refuses blocks everything of lower priority
    for ever, polls among it. Raises DeviceFault where they cannot be switched off.
    """
    timeout = milliseconds(options.response_timeout_s)
    config = dnp3.MasterStackConfig()
    config.link = dnp3.LinkConfig(True, options.local_address, options.remote_address, timeout, _never())
    master = config.master
    master.responseTimeout = timeout
    master.taskStartTimeout = dnp3.TimeDuration.Milliseconds(START_LIMIT_MS)
    master.timeSyncMode = getattr(dnp3.TimeSyncMode, "None")
    master.disableUnsolOnStartup = False
    master.ignoreRestartIIN = True
    master.integrityOnEventOverflowIIN = False
    master.maxRxFragSize = LONGEST_FRAGMENT
    modes = dnp3.IndexQualifierMode
    one_octet = options.control_index_octets == 1
    master.controlQualifierMode = modes.allow_one_byte if one_octet else modes.always_two_bytes
    _no_startup_tasks(master)
    return config


class _Params(ctypes.Structure):
    """Fields of opendnp3::MasterParams after its response timeout (opendnp3/master/MasterParams.h)."""

    _fields_ = (
        ("response_timeout_ns", ctypes.c_int64),
        ("time_sync_mode", ctypes.c_uint8),
        ("disable_unsol_on_startup", ctypes.c_uint8),
        ("ignore_restart_iin", ctypes.c_uint8),
        ("unsol_class_mask", ctypes.c_uint8),
        ("startup_integrity_class_mask", ctypes.c_uint8),
        ("integrity_on_event_overflow_iin", ctypes.c_uint8),
        ("event_scan_class_mask", ctypes.c_uint8),
    )


_EXPECTED = (0, 0, 1, 0x0E, 0x0F, 0, 0)
"""What must stand there: what was set through the binding, and the defaults of the masks (event classes, all, none)."""
_VALUE_OF_INSTANCE = 16
"""Where a pybind11 instance has the pointer to its C++ value: after the object's header."""


def _no_startup_tasks(master: Any) -> None:
    """No integrity poll and no ENABLE_UNSOLICITED of opendnp3's own: two masks that its binding leaves out.

    They are written only where all their neighbours are what was set through the binding (docs/decisions/0020).
    """
    address = ctypes.c_void_p.from_address(id(master) + _VALUE_OF_INSTANCE).value
    if address:
        params = _Params.from_address(address)
        if tuple(getattr(params, name) for name, _ in _Params._fields_[1:]) == _EXPECTED:
            params.unsol_class_mask = 0
            params.startup_integrity_class_mask = 0
            return
    raise DeviceFault("DNP3 is not available on this machine: this build of opendnp3 (yadnp3) is not known")
