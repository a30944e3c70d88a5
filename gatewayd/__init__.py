"""gatewayd: a substation gateway from DNP3, IEC 61850 and Modbus to MQTT."""

__version__ = "0.1.0"
