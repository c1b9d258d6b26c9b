"""The server under load, over real sockets."""
