//! The admin page, readiness and Prometheus: JSON over HTTP/1.1 on ports of their own.
