"""`python -m rewarm_cli` is `rewarm`."""

from rewarm_cli.main import main

if __name__ == "__main__":
    main()
