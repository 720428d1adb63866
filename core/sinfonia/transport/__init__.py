"""Messages over ZeroMQ: `codec` makes bytes of them, `zeromq` sets the sockets up."""
