"""A memory node: `node` joins protocol and storage, `server` adds the sockets."""
