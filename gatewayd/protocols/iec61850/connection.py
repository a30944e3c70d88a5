"""One MMS association: requests and unconfirmed reports, on one thread, over libiec61850 in threadless mode.

Everything here belongs to the thread that opened it. A request waits by ticking, so reports go on being taken while it
waits. The library calls back inside `tick`; a callback only decodes, and never lets an exception out into C.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import structlog

from gatewayd.protocols.iec61850 import lib, values
from gatewayd.protocols.iec61850.lib import native

log = structlog.get_logger("iec61850")

_CONNECTED = 2
TIMEOUTS_IN_A_ROW = 2
"""Requests unanswered one after the other that end the association; the library itself never ends it for that."""
DATA_SET_NAMES = 4096
"""Members of a data set read at most."""


_ACCESS_ERRORS = range(80, 90)
"""The library's MmsErrors that stand for a DataAccessError."""


class MmsError(IntEnum):
    """The library's MmsError, as far as it is told apart here."""

    NONE = 0
    CONNECTION_REJECTED = 1
    CONNECTION_LOST = 2
    SERVICE_TIMEOUT = 3
    PARSING_RESPONSE = 4
    OUTSTANDING_CALL_LIMIT = 8
    OBJECT_UNDEFINED = 34
    OBJECT_NON_EXISTENT = 81


class Stopped(Exception):
    """The driver was told to stop."""


class ConnectionLost(Exception):
    """The association ended, could not be made or does not answer; the text says how."""


class RequestFailed(Exception):
    """One request was answered with an error, or not at all.

    error:  MmsError of the library, or 0 where only the access failed
    access: DataAccessError of ISO 9506-2, or None
    """

    def __init__(self, what: str, error: int, access: int | None = None) -> None:
        self.error, self.access = error, access
        code = f"MMS error {error}" if access is None else f"access error {access}"
        super().__init__(f"{what}: {'no answer' if self.timed_out else code}")

    @property
    def timed_out(self) -> bool:
        """Nothing came back: what was asked for may have been done."""
        return self.error == MmsError.SERVICE_TIMEOUT

    @property
    def unsure(self) -> bool:
        """The request may have been carried out."""
        return self.error in (MmsError.SERVICE_TIMEOUT, MmsError.CONNECTION_LOST, MmsError.PARSING_RESPONSE)


class Connection:
    """An association with one IED.

    on_report:  takes the MmsValue* of a report (a structure of access results); it is deleted afterwards
    on_control: takes domain, item (or "" and `LastApplError`) and the decoded value of a control's unconfirmed word
    counts:     `timeouts` and `callback_errors` are counted in it
    stopping:   asked at each tick; True ends whatever waits with Stopped
    resting:    asked before each tick of a request that waits; True: the IED must not be read now (and it rested)
    at_once:    requests that the IED lets wait for their answers
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        stopping: Callable[[], bool],
        resting: Callable[[], bool],
        on_report: Callable[[int], None],
        on_control: Callable[[str, str, Any], None],
        counts: dict[str, int],
    ) -> None:
        self._timeout_s = timeout_s
        self._stopping = stopping
        self._resting = resting
        self._on_report = on_report
        self._on_control = on_control
        self._counts = counts
        self._handle: int | None = None
        self._mms: int | None = None
        self._numbers = 0
        self._converters: dict[int, Callable[[int], Any]] = {}
        self._done: dict[int, tuple[int, Any]] = {}
        self._unanswered = 0
        self._read_callback = lib.ReadCallback(self._on_read)
        self._layout_callback = lib.ReadCallback(self._on_layout)
        self._write_callback = lib.WriteCallback(self._on_write)
        self._directory_callback = lib.DirectoryCallback(self._on_directory)
        self._report_callback = lib.ReportCallback(self._on_information)
        self.last_heard = 0.0
        self.at_once = 1

    # opening and closing
    def open(self, address: tuple[str, int], where: str, *, within_s: float, ap_title: str, ae_qualifier: int) -> None:
        """Associate. address is a numeric one and a port, where names it for people. Raises ConnectionLost, Stopped."""
        host, port = address
        deadline = time.monotonic() + within_s
        handle = self._handle = native.IedConnection_createEx(None, False)
        if handle is None:
            raise ConnectionLost("libiec61850 could not make a connection")
        native.IedConnection_setConnectTimeout(handle, int(within_s * 1000))
        native.IedConnection_setRequestTimeout(handle, int(self._timeout_s * 1000))
        self._mms = native.IedConnection_getMmsConnection(handle)
        native.MmsConnection_setInformationReportHandler(self._mms, self._report_callback, None)
        if ap_title:
            parameters = native.MmsConnection_getIsoConnectionParameters(self._mms)
            native.IsoConnectionParameters_setRemoteApTitle(parameters, ap_title.encode(), ae_qualifier)
        error = ctypes.c_int()
        native.IedConnection_connectAsync(handle, ctypes.byref(error), host.encode(), port)
        if error.value:
            raise ConnectionLost(f"cannot connect to {where}")
        began = False
        while (state := native.IedConnection_getState(handle)) != _CONNECTED:
            if self._stopping():
                raise Stopped
            if began and state in (0, 3):
                raise ConnectionLost(f"no association with {where}: refused or closed")
            if time.monotonic() > deadline:
                raise ConnectionLost(f"no association with {where} within {within_s:g} s")
            began = True
            if not native.IedConnection_tick(handle):
                time.sleep(0.001)  # before there is a socket a tick does not wait
        self.last_heard = time.monotonic()
        agreed = native.MmsConnection_getMmsConnectionParameters(self._mms)
        self.at_once = min(agreed.calling, agreed.called)

    def close(self) -> None:
        """End the association and free everything; may be called again."""
        handle, self._handle = self._handle, None
        if handle is not None:
            if native.IedConnection_getState(handle) != 0:
                native.IedConnection_abortAsync(handle, ctypes.byref(ctypes.c_int()))
                native.IedConnection_tick(handle)
            native.IedConnection_destroy(handle)

    # running
    def tick(self) -> bool:
        """Take what has come; wait up to 10 ms where nothing has. Raises ConnectionLost, Stopped."""
        if self._stopping():
            raise Stopped
        busy: bool = native.IedConnection_tick(self._handle)
        if native.IedConnection_getState(self._handle) != _CONNECTED:
            raise ConnectionLost("the IED closed the association")
        return busy

    # requests
    def read(self, domain: str, item: str, convert: Callable[[int], Any] = values.whole) -> Any:
        """The value of a variable, converted. Raises RequestFailed, ConnectionLost, Stopped."""
        return self._wait(self.start_read(domain, item, convert), f"{domain}/{item}")

    def start_read(self, domain: str, item: str, convert: Callable[[int], Any] = values.whole) -> int:
        """Ask for a variable; the number is for `result`."""
        return self._start(
            native.MmsConnection_readVariableAsync, domain, item, (self._read_callback,), convert=convert
        )

    def read_data_set(self, domain: str, item: str, convert: Callable[[int], Any]) -> Any:
        """The values of a data set, one request."""
        function = native.MmsConnection_readNamedVariableListValuesAsync
        number = self._start(function, domain, item, (False, self._read_callback), convert=convert)
        return self._wait(number, f"{domain}/{item}")

    def write(self, domain: str, item: str, value: int) -> None:
        """Write a variable; `value` is ours and is deleted. Raises RequestFailed, ConnectionLost, Stopped."""
        try:
            number = self._start(native.MmsConnection_writeVariableAsync, domain, item, (value, self._write_callback))
        finally:
            native.MmsValue_delete(value)
        self._wait(number, f"{domain}/{item}")

    def layout(self, domain: str, item: str) -> values.Node | None:
        """The type of a variable; None where it does not exist. Raises ConnectionLost, Stopped, RequestFailed."""
        function = native.MmsConnection_getVariableAccessAttributesAsync
        try:
            number = self._start(function, domain, item, (self._layout_callback,))
            node: values.Node | None = self._wait(number, f"{domain}/{item}")
        except RequestFailed as error:
            if error.timed_out:
                raise
            return None
        return node

    def directory(self, domain: str, item: str) -> list[tuple[str, str]]:
        """The members of a data set, domain and item each; an array element has an item of ""."""
        function = native.MmsConnection_readNamedVariableListDirectoryAsync
        number = self._start(function, domain, item, (self._directory_callback,))
        members: list[tuple[str, str]] = self._wait(number, f"{domain}/{item}")
        return members

    def result(self, number: int, what: str) -> Any:
        """Wait for a request that was started."""
        return self._wait(number, what)

    def finished(self, number: int) -> bool:
        """Whether `result` would not wait."""
        return number in self._done

    def _start(
        self,
        function: Any,
        domain: str,
        item: str,
        arguments: tuple[Any, ...],
        *,
        convert: Callable[[int], Any] = values.whole,
    ) -> int:
        self._numbers += 1
        number = self._numbers
        error, invoke = ctypes.c_int(), ctypes.c_uint32()
        self._converters[number] = convert
        where = (domain.encode(), item.encode())
        function(self._mms, ctypes.byref(invoke), ctypes.byref(error), *where, *arguments, number)
        if error.value:
            self._converters.pop(number, None)
            if error.value == MmsError.CONNECTION_LOST:
                raise ConnectionLost("the association is gone")
            raise RequestFailed(f"{domain}/{item}", error.value)
        return number

    def _wait(self, number: int, what: str) -> Any:
        allowed = self._timeout_s + 1.0  # the library has a timeout of its own; this is for its failing
        deadline = time.monotonic() + allowed
        rested = False
        while number not in self._done:
            if self._resting():
                if self._stopping():
                    raise Stopped
                rested, deadline = True, time.monotonic() + allowed
                continue
            self.tick()
            if time.monotonic() > deadline:
                self._converters.pop(number, None)
                self._done[number] = (MmsError.SERVICE_TIMEOUT, None)
        error, value = self._done.pop(number)
        if error == MmsError.SERVICE_TIMEOUT and rested:  # nobody listened, which is not the IED's fault
            raise RequestFailed(f"{what}, which had to rest for the disk", error)
        if error == MmsError.SERVICE_TIMEOUT:
            self._counts["timeouts"] += 1
            self._unanswered += 1
            if self._unanswered >= TIMEOUTS_IN_A_ROW:
                raise ConnectionLost(f"{self._unanswered} requests in a row without an answer, the last {what}")
        else:
            self._heard()
        if error == MmsError.CONNECTION_LOST:
            raise ConnectionLost("the association was lost")
        if error:
            raise RequestFailed(what, error)
        if isinstance(value, values.AccessError):
            raise RequestFailed(what, 0, value.code)
        return value

    def _heard(self) -> None:
        self._unanswered = 0
        self.last_heard = time.monotonic()

    # callbacks: run inside tick, on this thread
    def _finish(self, number: int, error: int, convert: Callable[[], Any]) -> None:
        if number not in self._converters:
            return  # given up before
        try:
            value = convert() if error == 0 else None
        except Exception:
            self._failed("answer")
            error, value = MmsError.PARSING_RESPONSE, None
        self._converters.pop(number, None)
        self._done[number] = (error, value)

    def _failed(self, what: str) -> None:
        self._counts["callback_errors"] += 1
        if self._counts["callback_errors"] == 1:
            log.exception("a message of the IED could not be understood", message=what)

    def _on_read(self, _invoke: int, number: int, error: int, value: int | None) -> None:
        converter = self._converters.get(number, values.whole)
        self._finish(number, error, lambda: converter(value) if value else None)
        native.MmsValue_delete(value)

    def _on_layout(self, _invoke: int, number: int, error: int, specification: int | None) -> None:
        self._finish(number, error, lambda: values.layout(specification) if specification else None)
        if specification:
            native.MmsVariableSpecification_destroy(specification)

    def _on_write(self, _invoke: int, number: int, error: int, access: int) -> None:
        if error in _ACCESS_ERRORS and access >= 0:
            error = 0  # answered, with an access error: that one is the standard's own word
        self._finish(number, error, lambda: None if access == -1 else values.AccessError(access))

    def _on_directory(self, _invoke: int, number: int, error: int, members: int | None, _deletable: int) -> None:
        self._finish(number, error, lambda: _names(members) if members else [])
        if members:
            destroy = ctypes.cast(native.MmsVariableAccessSpecification_destroy, ctypes.c_void_p)
            native.LinkedList_destroyDeep(members, destroy)

    def _on_information(
        self, _parameter: int, domain: bytes | None, name: bytes | None, value: int | None, is_list: int
    ) -> None:
        if value is None:
            return
        self._heard()
        try:
            if domain is None and is_list:
                self._on_report(value)
            else:
                where = (domain or b"").decode("utf-8", "replace"), (name or b"").decode("utf-8", "replace")
                self._on_control(*where, values.whole(value))
        except Exception:
            self._failed("report")
        native.MmsValue_delete(value)


def _names(members: int) -> list[tuple[str, str]]:
    names: list[tuple[str, str]] = []
    element = native.LinkedList_getNext(members)
    while element and len(names) < DATA_SET_NAMES:
        name = lib.VariableName.from_address(native.LinkedList_getData(element))
        item = (name.item or b"").decode("utf-8", "replace")
        plain = name.array_index < 0 and not name.component
        names.append(((name.domain or b"").decode("utf-8", "replace"), item if plain else ""))
        element = native.LinkedList_getNext(element)
    return names
