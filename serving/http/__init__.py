"""HTTP/1.1: listeners, connections, requests read whole within limits. Knows nothing of ads."""
