"""HTTP/1.1, and nothing of ads. `server.py` is the process with its signals, `listener.py` one address,
`connection.py` one client within limits, `request_parser.py` its bytes, `protocol.py` requests and answers,
`asgi.py` calls an ASGI application, `client_metrics.py` is what is counted.
"""
