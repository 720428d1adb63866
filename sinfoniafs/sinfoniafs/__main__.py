"""``python -m sinfoniafs`` is ``sinfoniafs``."""

from sinfoniafs.cli import main

if __name__ == "__main__":
    main(prog_name="sinfoniafs")
