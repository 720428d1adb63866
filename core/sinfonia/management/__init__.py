"""The manager: `store` keeps the directory, `server` drives protocol.management on sockets."""
