"""A second peer: libiec61850's own server, in a process of its own, with habits the simulated bay does not have.

Data sets of single attributes (value, q and t are members of their own), time-activated controls (operTm in Oper),
EntryIDs that are times, checks of Check and ctlNum in C, stSeld kept by the library. One command a line on standard
input: `set N 0|1`, `mx F`, `q N BITS`, `sbo MS` (sboTimeout; answered by DONE), `quit`.
orIdent `denied` is refused with AddCause 20, `fail` ends in a negative CommandTermination.
"""

from __future__ import annotations

import ctypes
import sys
import time
from ctypes import c_bool, c_char_p, c_float, c_int, c_uint8, c_uint16, c_uint32, c_uint64
from ctypes import c_void_p as pointer
from typing import Any

from gatewayd.protocols.iec61850.lib import find

NO_ACCESS_AUTHORITY = 20
ACCEPTED, ACCESS_DENIED = -1, 3
FAILED, OK = 0, 1
INT32U, CONFIGURATION = 9, 4
SBO_ENHANCED, DIRECT_NORMAL = 4, 1
CANCEL, TIME_ACTIVATED, ORIGIN, CTL_NUM, ST_SELD = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
TRIGGERS = 1 | 2 | 16
OPTIONS = 1 | 2 | 4 | 8 | 32 | 64 | 128

CheckHandler = ctypes.CFUNCTYPE(c_int, pointer, pointer, pointer, c_bool, c_bool)
ControlHandler = ctypes.CFUNCTYPE(c_int, pointer, pointer, pointer, c_bool)

library = ctypes.CDLL(str(find()))


def native(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


model_create = native("IedModel_create", pointer, c_char_p)
device_create = native("LogicalDevice_create", pointer, c_char_p, pointer)
node_create = native("LogicalNode_create", pointer, c_char_p, pointer)
sps = native("CDC_SPS_create", pointer, c_char_p, pointer, c_uint32)
mv = native("CDC_MV_create", pointer, c_char_p, pointer, c_uint32, c_bool)
spc = native("CDC_SPC_create", pointer, c_char_p, pointer, c_uint32, c_uint32)
attribute = native(
    "DataAttribute_create", pointer, c_char_p, pointer, c_int, c_int, c_uint8, c_int, c_uint32
)  # fmt: skip
child = native("ModelNode_getChild", pointer, pointer, c_char_p)
data_set = native("DataSet_create", pointer, c_char_p, pointer)
member = native("DataSetEntry_create", pointer, pointer, c_char_p, c_int, c_char_p)
block = native(
    "ReportControlBlock_create", pointer, c_char_p, pointer, c_char_p, c_bool, c_char_p, c_uint32, c_uint8, c_uint8,
    c_uint32, c_uint32,
)  # fmt: skip
config_create = native("IedServerConfig_create", pointer)
buffer_size = native("IedServerConfig_setReportBufferSize", None, pointer, c_int)
server_create = native("IedServer_createWithConfig", pointer, pointer, pointer, pointer)
address = native("IedServer_setLocalIpAddress", None, pointer, c_char_p)
start = native("IedServer_start", None, pointer, c_int)
is_running = native("IedServer_isRunning", c_bool, pointer)
lock = native("IedServer_lockDataModel", None, pointer)
unlock = native("IedServer_unlockDataModel", None, pointer)
update_boolean = native("IedServer_updateBooleanAttributeValue", None, pointer, pointer, c_bool)
update_float = native("IedServer_updateFloatAttributeValue", None, pointer, pointer, c_float)
update_unsigned = native("IedServer_updateUnsignedAttributeValue", None, pointer, pointer, c_uint32)
update_time = native("IedServer_updateUTCTimeAttributeValue", None, pointer, pointer, c_uint64)
update_quality = native("IedServer_updateQuality", None, pointer, pointer, c_uint16)
on_check = native("IedServer_setPerformCheckHandler", None, pointer, pointer, CheckHandler, pointer)
on_control = native("IedServer_setControlHandler", None, pointer, pointer, ControlHandler, pointer)
ident = native("ControlAction_getOrIdent", pointer, pointer, ctypes.POINTER(c_int))
set_cause = native("ControlAction_setAddCause", None, pointer, c_int)
get_boolean = native("MmsValue_getBoolean", c_bool, pointer)


def or_ident(action: int) -> bytes:
    size = c_int()
    where = ident(action, ctypes.byref(size))
    return ctypes.string_at(where, size.value) if where else b""


def tls_server(folder: str) -> int:
    """The server's side of TLS: key.pem, cert.pem and ca.pem of a folder; clients need a certificate of that CA."""
    configured: int = native("TLSConfiguration_create", pointer)()
    native("TLSConfiguration_setChainValidation", None, pointer, c_bool)(configured, True)
    native("TLSConfiguration_setAllowOnlyKnownCertificates", None, pointer, c_bool)(configured, False)
    steps = [
        native("TLSConfiguration_setOwnKeyFromFile", c_bool, pointer, c_char_p, c_char_p)(
            configured, f"{folder}/key.pem".encode(), None
        ),
        native("TLSConfiguration_setOwnCertificateFromFile", c_bool, pointer, c_char_p)(
            configured, f"{folder}/cert.pem".encode()
        ),
        native("TLSConfiguration_addCACertificateFromFile", c_bool, pointer, c_char_p)(
            configured, f"{folder}/ca.pem".encode()
        ),
    ]
    assert all(steps), steps
    return configured


def main(port: int, tls: str = "") -> None:
    model = model_create(b"BAY1")
    device = device_create(b"LD0", model)
    zero, io, meter = (node_create(name, device) for name in (b"LLN0", b"GGIO1", b"MMXU1"))
    inputs = [sps(b"Ind%d" % number, io, 0) for number in (1, 2)]
    power = mv(b"TotW", meter, 0, False)
    common = CANCEL | ORIGIN | CTL_NUM | ST_SELD
    outputs = [
        spc(b"SPCSO1", io, 0, SBO_ENHANCED | common | TIME_ACTIVATED),
        spc(b"SPCSO2", io, 0, DIRECT_NORMAL | ORIGIN | CTL_NUM),
    ]
    attribute(b"sboTimeout", outputs[0], INT32U, CONFIGURATION, 0, 0, 0)
    status = data_set(b"dsST", zero)
    for name in (b"GGIO1$ST$Ind1$stVal", b"GGIO1$ST$Ind1$q", b"GGIO1$ST$Ind1$t", b"GGIO1$ST$Ind2"):
        member(status, name, -1, None)
    measured = data_set(b"dsMX", zero)
    for name in (b"MMXU1$MX$TotW$mag$f", b"MMXU1$MX$TotW$q"):
        member(measured, name, -1, None)
    block(b"brcbST01", zero, b"ST", True, b"dsST", 1, TRIGGERS, OPTIONS, 0, 0)
    block(b"urcbMX01", zero, b"MX", False, b"dsMX", 1, TRIGGERS, OPTIONS, 0, 0)
    configured = config_create()
    buffer_size(configured, 200_000)
    server = server_create(model, tls_server(tls) if tls else None, configured)

    def check(action: int, _parameter: int, _value: int, _test: bool, _interlock: bool) -> int:
        if or_ident(action) == b"denied":
            set_cause(action, NO_ACCESS_AUTHORITY)
            return ACCESS_DENIED
        return ACCEPTED

    def control(action: int, parameter: int, value: int, test: bool) -> int:
        if or_ident(action) == b"fail":
            set_cause(action, 9)
            return FAILED
        if not test:
            update_boolean(server, child(outputs[parameter or 0], b"stVal"), get_boolean(value))
        return OK

    check_handler, control_handler = CheckHandler(check), ControlHandler(control)
    for number, output in enumerate(outputs):
        on_check(server, output, check_handler, None)
        on_control(server, output, control_handler, number)
    address(server, b"127.0.0.1")
    start(server, port)
    print("READY" if is_running(server) else "FAILED", flush=True)
    for line in sys.stdin:
        verb, *rest = line.split()
        lock(server)
        if verb == "set":
            target = inputs[int(rest[0]) - 1]
            update_time(server, child(target, b"t"), int(time.time() * 1000))
            update_boolean(server, child(target, b"stVal"), rest[1] == "1")
        elif verb == "q":
            update_quality(server, child(inputs[int(rest[0]) - 1], b"q"), int(rest[1]))
        elif verb == "sbo":
            update_unsigned(server, child(outputs[0], b"sboTimeout"), int(rest[0]))
            print("DONE", flush=True)
        elif verb == "mx":
            update_float(server, child(power, b"mag.f"), float(rest[0]))
        unlock(server)
        if verb == "quit":
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
