//! What happens to one request between its head and its log line, the same for HTTP/1 and HTTP/2.
