"""What the clients of a simulated cluster do, and how each kind of work is judged."""
