"""What people see in a terminal: watch, control, demo. They talk to the gateway by MQTT only, as any console does."""
