"""Nothing is lost: simulators that keep books, a real broker, the daemon, a consumer, many faults, and an oracle.

    python -m tests.chaos --seed 1 --events 100000 --kills 50 [--faults E1,E5]

A simulator writes each numbered event to its ledger before it offers it (`ledger.py`); everything between devices,
gateway, broker and consumer passes a proxy that can be partitioned (`proxy.py`); `faults.py` breaks things;
`oracle.py` compares what was offered with what the consumer has stored.
"""
