"""The prototypes of libiec61850 as this driver calls it: our own ctypes binding, no wrapper of anyone else.

The shared object is the one inside the pyiec61850-ng wheel, loaded by its path; the wheel's SWIG layer is never
imported (it holds the GIL while it waits, and freezes the process). `ctypes.CDLL` releases the GIL around every call.
Every function used is declared here: a pointer that is not declared would be cut to 32 bits.

Threadless use: one thread owns a connection, everything goes through `...Async` functions, and callbacks run inside
`IedConnection_tick` on that thread. Source of the prototypes: iec61850_client.h, mms_client_connection.h, mms_value.h.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_bool, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_uint8, c_uint32, c_uint64
from ctypes import c_void_p as pointer
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

WHEEL = "pyiec61850-ng"
VERSION = b"1.6.1"
"""The only version this binding was measured with."""

ReadCallback = ctypes.CFUNCTYPE(None, c_uint32, pointer, c_int, pointer)
"""invoke id, our parameter, MmsError, MmsValue* or MmsVariableSpecification* (ours to delete)"""
WriteCallback = ctypes.CFUNCTYPE(None, c_uint32, pointer, c_int, c_int)
"""invoke id, our parameter, MmsError, MmsDataAccessError (-1 is success)"""
DirectoryCallback = ctypes.CFUNCTYPE(None, c_uint32, pointer, c_int, pointer, c_bool)
"""invoke id, our parameter, MmsError, LinkedList of MmsVariableAccessSpecification*, deletable"""
ReportCallback = ctypes.CFUNCTYPE(None, pointer, c_char_p, c_char_p, pointer, c_bool)
"""our parameter, domain or NULL, variable (list) name, MmsValue* (ours to delete), whether the name is a list's"""


class VariableName(ctypes.Structure):
    """MmsVariableAccessSpecification: one member of a data set."""

    _fields_ = (
        ("domain", c_char_p),
        ("item", c_char_p),
        ("array_index", c_int32),
        ("component", c_char_p),
    )


class ConnectionParameters(ctypes.Structure):
    """MmsConnectionParameters: what both sides agreed on. calling, called: requests that may wait for an answer."""

    _fields_ = (
        ("calling", c_int),
        ("called", c_int),
        ("nesting", c_int),
        ("largest_pdu", c_int),
        ("services", c_uint8 * 11),
    )


_error = POINTER(c_int)
_invoke = POINTER(c_uint32)
_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "LibIEC61850_getVersionString": (c_char_p, ()),
    "IedConnection_createEx": (pointer, (pointer, c_bool)),
    "IedConnection_destroy": (None, (pointer,)),
    "IedConnection_connectAsync": (None, (pointer, _error, c_char_p, c_int)),
    "IedConnection_abortAsync": (None, (pointer, _error)),
    "IedConnection_tick": (c_bool, (pointer,)),
    "IedConnection_getState": (c_int, (pointer,)),
    "IedConnection_setConnectTimeout": (None, (pointer, c_uint32)),
    "IedConnection_setRequestTimeout": (None, (pointer, c_uint32)),
    "IedConnection_getMmsConnection": (pointer, (pointer,)),
    "MmsConnection_getIsoConnectionParameters": (pointer, (pointer,)),
    "MmsConnection_getMmsConnectionParameters": (ConnectionParameters, (pointer,)),
    "IsoConnectionParameters_setRemoteApTitle": (None, (pointer, c_char_p, c_int)),
    "MmsConnection_setInformationReportHandler": (None, (pointer, ReportCallback, pointer)),
    "MmsConnection_readVariableAsync": (
        None,
        (pointer, _invoke, _error, c_char_p, c_char_p, ReadCallback, pointer),
    ),
    "MmsConnection_writeVariableAsync": (
        None,
        (pointer, _invoke, _error, c_char_p, c_char_p, pointer, WriteCallback, pointer),
    ),
    "MmsConnection_getVariableAccessAttributesAsync": (
        None,
        (pointer, _invoke, _error, c_char_p, c_char_p, ReadCallback, pointer),
    ),
    "MmsConnection_readNamedVariableListDirectoryAsync": (
        None,
        (pointer, _invoke, _error, c_char_p, c_char_p, DirectoryCallback, pointer),
    ),
    "MmsConnection_readNamedVariableListValuesAsync": (
        None,
        (pointer, _invoke, _error, c_char_p, c_char_p, c_bool, ReadCallback, pointer),
    ),
    "LinkedList_getNext": (pointer, (pointer,)),
    "LinkedList_getData": (pointer, (pointer,)),
    "LinkedList_destroyDeep": (None, (pointer, pointer)),
    "MmsVariableAccessSpecification_destroy": (None, (pointer,)),
    "MmsVariableSpecification_destroy": (None, (pointer,)),
    "MmsVariableSpecification_getType": (c_int, (pointer,)),
    "MmsVariableSpecification_getName": (c_char_p, (pointer,)),
    "MmsVariableSpecification_getSize": (c_int, (pointer,)),
    "MmsVariableSpecification_getChildSpecificationByIndex": (pointer, (pointer, c_int)),
    "MmsValue_encodeMmsData": (c_int, (pointer, pointer, c_int, c_bool)),
    "MmsValue_getType": (c_int, (pointer,)),
    "MmsValue_getArraySize": (c_uint32, (pointer,)),
    "MmsValue_getElement": (pointer, (pointer, c_int)),
    "MmsValue_getBoolean": (c_bool, (pointer,)),
    "MmsValue_toInt64": (c_int64, (pointer,)),
    "MmsValue_toUint32": (c_uint32, (pointer,)),
    "MmsValue_toDouble": (c_double, (pointer,)),
    "MmsValue_toString": (c_char_p, (pointer,)),
    "MmsValue_getBitStringSize": (c_int, (pointer,)),
    "MmsValue_getNumberOfSetBits": (c_int, (pointer,)),
    "MmsValue_getBitStringBit": (c_bool, (pointer, c_int)),
    "MmsValue_getBitStringAsInteger": (c_uint32, (pointer,)),
    "MmsValue_getBitStringAsIntegerBigEndian": (c_uint32, (pointer,)),
    "MmsValue_getOctetStringSize": (ctypes.c_uint16, (pointer,)),
    "MmsValue_getOctetStringBuffer": (pointer, (pointer,)),
    "MmsValue_getUtcTimeBuffer": (pointer, (pointer,)),
    "MmsValue_getBinaryTimeAsUtcMs": (c_uint64, (pointer,)),
    "MmsValue_getDataAccessError": (c_int, (pointer,)),
    "MmsValue_delete": (None, (pointer,)),
    "MmsValue_newBoolean": (pointer, (c_bool,)),
    "MmsValue_newIntegerFromInt64": (pointer, (c_int64,)),
    "MmsValue_newUnsignedFromUint32": (pointer, (c_uint32,)),
    "MmsValue_newFloat": (pointer, (c_float,)),
    "MmsValue_newDouble": (pointer, (c_double,)),
    "MmsValue_newVisibleString": (pointer, (c_char_p,)),
    "MmsValue_newOctetString": (pointer, (c_int, c_int)),
    "MmsValue_setOctetString": (None, (pointer, c_char_p, c_int)),
    "MmsValue_newBitString": (pointer, (c_int,)),
    "MmsValue_setBitStringBit": (None, (pointer, c_int, c_bool)),
    "MmsValue_newUtcTimeByMsTime": (pointer, (c_uint64,)),
    "MmsValue_setUtcTimeQuality": (None, (pointer, c_uint8)),
    "MmsValue_newBinaryTime": (pointer, (c_bool,)),
    "MmsValue_setBinaryTime": (None, (pointer, c_uint64)),
    "MmsValue_createEmptyStructure": (pointer, (c_int,)),
    "MmsValue_setElement": (None, (pointer, c_int, pointer)),
}


_SHORT = ("MmsValue_", "MmsVariableSpecification_get", "LinkedList_get")
"""Functions that only look at memory: called with the GIL held. To give it away for each of them would hand it to the
other threads for a whole switch interval at a time."""


def find() -> Path:
    """The path of the shared object in the installed wheel. Raises ImportError naming what is missing."""
    try:
        found = [file for file in files(WHEEL) or () if ".so" in file.name and file.name.startswith("libiec61850")]
    except PackageNotFoundError:
        found = []
    if not found:
        raise ImportError(f"libiec61850 is not there; the package {WHEEL} brings it")
    return Path(str(found[0].locate()))


def load() -> ctypes.CDLL:
    """The library with every prototype declared. Raises ImportError for another version than VERSION."""
    path = str(find())
    library, holding = ctypes.CDLL(path), ctypes.PyDLL(path)
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(holding if name.startswith(_SHORT) else library, name)
        function.restype, function.argtypes = result, arguments
        setattr(library, name, function)
    version = library.LibIEC61850_getVersionString()
    if version != VERSION:
        raise ImportError(f"libiec61850 {version.decode()} found; {VERSION.decode()} is needed")
    return library


native = load()
