//! Listening sockets that open and close while running, and the accept loop.
