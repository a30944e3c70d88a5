"""`python -m gatewayd`: the command line."""

from gatewayd.cli import main

if __name__ == "__main__":
    main()
