"""`sinfoniafs` and `mount.sinfoniafs`: what users write, and what they are shown."""
