#!/usr/bin/env python3
"""Peer for the service: a FastAPI handler around PyTorch, as a user would write it well.

    python benchmarks/peers/serve_torch.py --ads=ads.npz

A validated body, tensors of it, the query tower, one product with the ads, top k, an answer of ids, scores and
probabilities. The handler is a plain function, which FastAPI runs in its thread pool. The weights are random: the speed
does not depend on them. Serves on a free port, which it prints. Needs torch, NumPy, fastapi and uvicorn.
"""

import argparse
import itertools
import socket

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from torch import nn


class Cross(nn.Module):
    """x0 * (W x + b) + x, for all experts at once: x [E, B, d]."""

    def __init__(self, experts, width, rank=None):
        super().__init__()
        shapes = [(width, width)] if rank is None else [(width, rank), (rank, width)]
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(experts, *s) * s[0] ** -0.5) for s in shapes)
        self.bias = nn.Parameter(torch.zeros(experts, 1, width))

    def forward(self, x0, x):
        """The next x."""
        y = x
        for weight in self.weights:
            y = torch.bmm(y, weight)
        return x0 * (y + self.bias) + x


class Tower(nn.Module):
    """Embeddings, experts of cross layers and an MLP, a gate per task: [B, T, D]."""

    def __init__(self, a):
        super().__init__()
        self.table = nn.Embedding(a.cat * a.rows, a.dim)
        self.register_buffer("offsets", torch.arange(a.cat) * a.rows)
        width = a.cat * a.dim + a.num
        full = [Cross(a.experts, width) for _ in range(a.full)]
        self.cross = nn.ModuleList([*full, *(Cross(a.experts, width, a.rank) for _ in range(a.low))])
        sizes = [width, *a.mlp, a.out]
        self.mlp = nn.ParameterList(
            nn.Parameter(torch.randn(a.experts, m, n) * m**-0.5) for m, n in itertools.pairwise(sizes)
        )
        gate = [nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, a.experts)) for _ in range(a.tasks)]
        self.gates = nn.ModuleList(gate)
        self.heads = nn.ModuleList(nn.Linear(a.out, a.out) for _ in range(a.tasks))

    def forward(self, ids, floats):
        """ids int64 [B, cat], floats float32 [B, num]."""
        x0 = torch.cat([self.table(ids + self.offsets).flatten(1), floats], 1)
        x = x0_e = x0.expand(len(self.mlp[0]), *x0.shape)
        for layer in self.cross:
            x = layer(x0_e, x)
        for i, weight in enumerate(self.mlp):
            x = torch.bmm(x, weight)
            x = torch.relu(x) if i + 1 < len(self.mlp) else x
        mixed = [torch.einsum("be,ebd->bd", torch.softmax(gate(x0), 1), x) for gate in self.gates]
        return torch.stack([head(m) for head, m in zip(self.heads, mixed, strict=True)], 1)


class Request(BaseModel):
    """The body."""

    query: dict[str, int | float]
    k: int = 10


class Ad(BaseModel):
    """An ad of the answer."""

    id: int
    score: float
    probabilities: dict[str, float]


class Answer(BaseModel):
    """The answer."""

    ads: list[Ad]


def make_app(a):
    """The application, with its model."""
    tower, ads = Tower(a).eval(), np.load(a.ads)
    vectors, bids = torch.from_numpy(ads["vectors"]), torch.from_numpy(ads["bids"])
    first = vectors[:, 0].T.contiguous()  # what the utility, bid * t0, needs of every ad
    ids = ads["ids"]
    cat, num = [f"query_categorical{i}" for i in range(a.cat)], [f"query_numeric{i}" for i in range(a.num)]
    app = FastAPI()

    @app.post("/v1/rank")
    def rank(request: Request) -> Answer:
        if not 1 <= request.k <= 1000:
            raise HTTPException(400, "k: expected 1 to 1000")
        query = request.query
        with torch.inference_mode():
            hashed = torch.tensor([[hash(query.get(name)) % a.rows for name in cat]])
            numbers = torch.tensor([[float(query.get(name, 0.0)) for name in num]])
            q_TD = tower(hashed, numbers)[0]
            utility, best = torch.topk(bids * torch.sigmoid(q_TD[0] @ first), request.k)
            probabilities = torch.sigmoid(torch.einsum("ktd,td->kt", vectors[best], q_TD)).tolist()
        found = zip(ids[best.numpy()].tolist(), utility.tolist(), probabilities, strict=True)
        return Answer(ads=[Ad(id=i, score=u, probabilities={f"t{t}": v for t, v in enumerate(p)}) for i, u, p in found])

    return app


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ads", required=True, help="ads.npz: vectors [N, T, D], bids [N], ids [N]")
    sizes = {"cat": 16, "num": 16, "dim": 16, "experts": 4, "full": 2, "low": 2, "rank": 64, "out": 64, "tasks": 2}
    for name, default in {**sizes, "rows": 31250}.items():
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--mlp", type=int, nargs=2, default=(256, 128))
    app = make_app(p.parse_args())
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        print(f"serving http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    main()
