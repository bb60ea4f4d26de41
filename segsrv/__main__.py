"""Run segsrv as `python -m segsrv`."""

from segsrv.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
