"""``python -m service.cli``: the command-line program, without its entry point."""

from . import main

if __name__ == "__main__":
    main()
