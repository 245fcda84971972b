"""The HTTP service around a scorer. What happens to a request, from the first byte to the last:

1. `serving/http/request_parser.py: RequestReader.read` parses what came, within the limits of a head.
2. `serving/http/connection.py: Connection.on_head` has the request seen by its head, then `on_piece` reads its body.
3. `serving/service/load_shedding.py: LoadShedder.enter` refuses a wrong host, a missing token, a compressed body; and
   with 503, a request to rank for which the queue has no room or the time is too short (`_admit`).
4. `serving/http/connection.py: Connection._advance` passes on one whole request of a connection at a time.
5. `serving/service/load_shedding.py: LoadShedder.answer` gives all but `POST /v1/rank` to Litestar, the routes of
   `serving/service/app.py: create_app`, by `serving/http/asgi.py: call`. What follows is of `POST /v1/rank`.
6. `serving/service/rank.py: Rank.answer` reads the deadline and the body (`messages.py`: JSON to `Work`), and has
   `serving/routing/router.py: Router.routed` choose the model.
7. `serving/batching/batcher.py: Batcher.submit` queues it; `serving/batching/queue.py: BatchQueue.take` chooses which
   requests go together.
8. `serving/batching/batch.py: start_batch`, in the one thread that ranks: looks up candidates, encodes, and starts
   `serving/scorer.py: Scorer.start`, a call of a compiled program of `serving/scoring/programs.py`.
9. `serving/batching/batch.py: Batch.outcomes` waits for the program and writes the ads as JSON (`ads_json`).
10. `serving/batching/pending.py: Pending.deliver` brings that to the event loop, or an error if the deadline passed.
11. `serving/service/rank.py: Rank._ranked` makes the answer, or has `errors.py: refusal` say what went wrong; it counts
    (`telemetry.py`) and logs a sample (`serving/parity/request_log.py`).
12. `serving/http/connection.py: Connection._send` writes it, and goes on with 4.

`run.py` starts all that in a process, of the settings in `config.py`; `auth.py` knows tokens and hosts, `openapi.py`
describes the routes.
"""
