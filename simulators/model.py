"""One small feeder: what its breaker and disconnector do, every device on it sees.

    feeder = Feeder(seed=1)
    feeder.command_breaker(closed=False)      # it moves, and arrives after travel_s of the feeder's own time
    feeder.step(0.2)                          # time passes only by steps: the same seed and steps, the same feeder

Positions are the double-point codes 0 intermediate, 1 open, 2 closed. Current flows only while both are closed, and
energy is counted only while current flows.
"""

from __future__ import annotations

import random

INTERMEDIATE, OPEN, CLOSED = 0, 1, 2
PHASES = 3**0.5
COS_PHI = 0.95
TAN_PHI = (1 / COS_PHI**2 - 1) ** 0.5


class Feeder:
    """The plant behind the three simulated devices.

    local:    the Local/Remote switch stands at Local
    lockout:  the lockout relay is up: closing is refused by the devices
    tripped:  the protection has tripped the breaker; ends when the breaker is closed again
    stuck:    the breaker accepts commands and does not move
    travel_s: how long the breaker takes from one end to the other
    """

    def __init__(self, seed: int = 1, *, travel_s: float = 0.15) -> None:
        self.random = random.Random(seed)
        self.travel_s = travel_s
        self.disconnector = CLOSED
        self.local = False
        self.lockout = False
        self.tripped = False
        self.stuck = False
        self.spring_charged = True
        self.operations = 0
        self.voltage_kv = 20.0
        self.frequency_hz = 50.0
        self.load_kw = 2400.0
        self.energy_wh = 0.0
        self._breaker = CLOSED
        self._target: int | None = None
        self._arrives_s = 0.0
        self._now_s = 0.0

    @property
    def breaker(self) -> int:
        """The breaker's position."""
        return self._breaker

    @breaker.setter
    def breaker(self, position: int) -> None:
        if position != self._breaker and position != INTERMEDIATE:
            self.operations += 1
            if position == CLOSED:
                self.tripped = False
        self._breaker = position
        self._target = None

    @property
    def live(self) -> bool:
        """Current can flow."""
        return self._breaker == CLOSED and self.disconnector == CLOSED

    @property
    def power_kw(self) -> float:
        """Active power of all phases."""
        return self.load_kw if self.live else 0.0

    @property
    def reactive_kvar(self) -> float:
        """Reactive power of all phases."""
        return self.power_kw * TAN_PHI

    @property
    def power_factor(self) -> float:
        """1 while nothing flows."""
        return COS_PHI if self.live else 1.0

    @property
    def current_a(self) -> float:
        """Current of one phase."""
        return self.power_kw / (PHASES * self.voltage_kv * COS_PHI)

    def command_breaker(self, *, closed: bool) -> None:
        """Start the breaker towards a position; it is between the two until it arrives."""
        target = CLOSED if closed else OPEN
        if self.stuck or target in (self._target, self._breaker):
            return
        self._breaker = INTERMEDIATE
        self._target = target
        self._arrives_s = self._now_s + self.travel_s

    def trip(self) -> None:
        """The protection trips: at once, and it says so."""
        self.tripped = True
        self.breaker = OPEN

    def step(self, seconds: float) -> None:
        """Let time pass: a moving breaker arrives, load and frequency wander, energy is counted."""
        self._now_s += seconds
        if self._target is not None and self._now_s >= self._arrives_s:
            self.breaker = self._target
        self.load_kw = min(4000.0, max(500.0, self.load_kw + self.random.gauss(0, 15)))
        self.voltage_kv = 20.0 + self.random.gauss(0, 0.02)
        self.frequency_hz = 50.0 + self.random.gauss(0, 0.01)
        self.energy_wh += self.power_kw * 1000 * seconds / 3600
