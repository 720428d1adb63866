"""The manager: `store` keeps the directory, `server` drives protocol.membership on sockets."""
