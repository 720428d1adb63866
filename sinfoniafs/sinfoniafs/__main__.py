"""``python -m sinfoniafs`` is ``sinfoniafs``."""

from sinfoniafs.commands.main import main

if __name__ == "__main__":
    main(prog_name="sinfoniafs")
