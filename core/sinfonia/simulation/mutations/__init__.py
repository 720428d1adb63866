"""Rules of the real code, each of which can be taken out, to see that the simulator notices."""
