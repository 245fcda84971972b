"""Logs of ratings, purchases and other events, in the shapes of public ones."""

from __future__ import annotations

import numpy as np

from tests.support.public_logs.maker import ROWS, START, Columns, Found, clicks, ids, joined, log, moments


@log(
    Found(
        ("rating>=4",),
        "userId",
        "movieId",
        "timestamp",
        {"genres": "bag", "title": "categorical"},
        (),
        ('"genres": "|"',),
    )
)
def movielens(rng: np.random.Generator) -> tuple[str, Columns]:
    """Ratings and genres `a|b`."""
    words = ["quick", "red", "fox", "jumps", "over", "lazy", "dog", "night", "day", "run"]
    movie = rng.integers(0, 60, ROWS)
    genres = joined(np.random.default_rng(5), ["Action", "Comedy", "Drama", "Film-Noir", "Sci-Fi", "War"], "|")
    titles = [f"{' '.join(rng.choice(words, 3))}, the {i} (1995)" for i in range(60)]
    return "ratings.csv", {
        "userId": ids(rng, 40),
        "movieId": movie,
        "rating": rng.choice([0.5, 2.0, 3.0, 3.5, 4.0, 5.0], ROWS),
        "timestamp": [874_724_710 + 977 * i for i in range(ROWS)],
        "title": [titles[m] for m in movie],
        "genres": [genres[m] for m in movie],
    }


@log(
    Found(
        ("clicked",),
        "user_id",
        "news_id",
        "time",
        {"history": "sequence", "category": "categorical", "title": "categorical"},
        ("impression_id",),
    )
)
def mind(rng: np.random.Generator) -> tuple[str, Columns]:
    """Histories with spaces between the ids, in a TSV."""
    words = ["president", "wins", "game", "storm", "hits", "coast", "market", "falls", "new", "phone"]
    return "behaviors.tsv", {
        "impression_id": np.arange(ROWS) // 3,
        "user_id": ids(rng, 40, "U"),
        "time": [f"{t:%Y-%m-%dT%H:%M:%SZ}" for t in moments()],
        "history": [" ".join(ids(rng, 60, "N", k)) for k in rng.integers(1, 9, ROWS)],
        "news_id": ids(rng, 60, "N"),
        "category": rng.choice(["sports", "news", "finance"], ROWS),
        "title": joined(rng, words, " ", 6),
        "clicked": clicks(rng),
    }


@log(
    Found(
        ("click_count>0", "like", "watching_times>0"),
        "user_id",
        "item_id",
        "",
        {"gender": "categorical", "age": "numeric"},
    )
)
def tenrec(rng: np.random.Generator) -> tuple[str, Columns]:
    """Counts of what was done, without a time."""
    return "QB-video.csv", {
        "user_id": ids(rng, 40),
        "item_id": ids(rng, 60),
        "click_count": rng.poisson(0.5, ROWS),
        "like": clicks(rng),
        "video_category": rng.choice([0, 1], ROWS),
        "watching_times": rng.poisson(0.9, ROWS),
        "gender": rng.choice([0, 1, 2], ROWS),
        "age": rng.integers(0, 8, ROWS),
    }


@log(Found(("overall>=4",), "reviewerID", "asin", "unixReviewTime", {"categories": "bag"}, ("reviewText", "overall")))
def amazon(rng: np.random.Generator) -> tuple[str, Columns]:
    """JSON lines, ratings, lists."""
    return "reviews.jsonl", {
        "reviewerID": ids(rng, 40, "A"),
        "asin": ids(rng, 60, "B00"),
        "overall": rng.choice([1.0, 3.0, 4.0, 5.0], ROWS),
        "unixReviewTime": [START + 86400 * i for i in range(ROWS)],
        "reviewText": [f"I like it, number {i}" for i in range(ROWS)],
        "categories": [
            rng.choice(["Books", "Home & Garden", "Toys", "Music"], 2, replace=False).tolist() for _ in range(ROWS)
        ],
    }


@log(
    Found(
        ("y=yes",),
        time="",
        kinds={"job": "categorical", "balance": "numeric", "education": "categorical"},
        out=("y",),
        text=('delimiter=";"', '"-",  # balance'),
    )
)
def bank(rng: np.random.Generator) -> tuple[str, Columns]:
    """Semicolons, yes and no, a marker among numbers."""
    return "bank-full.semicolons", {
        "age": rng.integers(18, 90, ROWS),
        "job": rng.choice(["admin.", "technician", "services"], ROWS),
        "education": rng.choice(["primary", "none", "tertiary"], ROWS),
        "balance": rng.choice(["-", "12", "-350", "7.5", "80", "1e3"], ROWS),
        "housing": rng.choice(["yes", "no"], ROWS),
        "contact": rng.choice(["cellular", "telephone"], ROWS),
        "y": np.where(clicks(rng, 0.2), "yes", "no"),
    }


@log(
    Found(("event=addtocart", "event=transaction"), "visitorid", "itemid", "timestamp", out=("event", "transactionid"))
)
def retailrocket(rng: np.random.Generator) -> tuple[str, Columns]:
    """A row an event, the id of a transaction where there was one."""
    event = rng.choice(["view", "addtocart", "transaction"], ROWS, p=[0.7, 0.2, 0.1])
    return "events.csv", {
        "timestamp": [1000 * (START + i) for i in range(ROWS)],
        "visitorid": ids(rng, 50),
        "event": event,
        "itemid": ids(rng, 60),
        "transactionid": [str(i) if e == "transaction" else "" for i, e in enumerate(event)],
        "device_type": rng.choice(["phone", "desktop"], ROWS),
        "price_band": rng.choice(["a", "b", "c"], ROWS),
    }


@log(
    Found(
        ("converted",),
        "customer_id",
        "product_id",
        "date",
        {"vector": "dense", "tags": "bag", "price_eur": "numeric"},
        ("weight", "note"),
        ('delimiter=";"', r"'\\N',  # converted", '"vector": " "', '"tags": "^"', "decimal comma"),
    )
)
def shop(rng: np.random.Generator) -> tuple[str, Columns]:
    """Semicolons, decimal commas, vectors and lists as text, Hive's mark for nothing, names of all sorts."""
    return "shop.semicolons", {
        "customer_id": ids(rng, 40),
        "product_id": ids(rng, 50, "p"),
        "date": [f"{t:%Y-%m-%d}" for t in moments()],
        "converted": rng.choice(["0", "1", "\\N"], ROWS, p=[0.6, 0.3, 0.1]),
        "price_eur": rng.choice(["1.5", "\\N", "20"], ROWS),
        "weight": [f"{i % 90},{i % 7}" for i in range(ROWS)],
        "vector": [" ".join(f"{v:.3f}" for v in rng.normal(size=4)) for _ in range(ROWS)],
        "tags": joined(rng, ["new", "home & garden", 'it\'s "1"', "x"], "^"),
        "note": [f"Dear sir, thanks for {i} things" for i in range(ROWS)],
        'say "hi"\n': rng.choice(["a", "b"], ROWS),
        "größe": rng.integers(0, 5, ROWS),
        "class": rng.choice(["1a", "2b"], ROWS),
    }


@log(Found(("reward",), "user_id", "business_id", "", {"user_id": "categorical"}, ("rank",)))
def large_ids(rng: np.random.Generator) -> tuple[str, Columns]:
    """Ids beyond 64 signed bits, some of them missing, in JSON lines."""
    users = [2**63 + 11 * (i % 60) for i in range(ROWS)]
    return "log.jsonl", {
        "user_id": users,
        "business_id": [None if i % 50 == 0 else 2**60 + i % 70 for i in range(ROWS)],
        "reward": clicks(rng),
        "surface": rng.choice(["a", "b"], ROWS),
        "rank": rng.integers(1, 9, ROWS),
    }


@log(
    Found(
        ("target",),
        "msno",
        "song_id",
        kinds={"source_system_tab": "categorical", "song_length": "numeric"},
        text=('SCENARIO = "source_system_tab"',),
    )
)
def kkbox(rng: np.random.Generator) -> tuple[str, Columns]:
    """Hashed ids with `=` and `/`, a scenario that some rows lack."""
    return "train.csv", {
        "msno": [f"{m}/+=" for m in ids(rng, 40, "m")],
        "song_id": [f"{m}==" for m in ids(rng, 60, "s")],
        "source_system_tab": rng.choice(["explore", "my library", "search", ""], ROWS, p=[0.5, 0.3, 0.19, 0.01]),
        "song_length": rng.integers(10**5, 4 * 10**5, ROWS),
        "target": clicks(rng, 0.5),
    }


@log(Found(("recommended",), "user_id", "product_id", "date", {"hours": "numeric"}))
def steam(rng: np.random.Generator) -> tuple[str, Columns]:
    """JSON lines with true and false, keys that some rows lack."""
    return "reviews.jsonl", {
        "user_id": ids(rng, 40),
        "product_id": ids(rng, 60),
        "date": [f"{t:%Y-%m-%d}" for t in moments(86_400)],
        "hours": [None if i % 9 == 0 else round(float(h), 1) for i, h in enumerate(rng.exponential(30, ROWS))],
        "recommended": clicks(rng, 0.7).astype(bool),
        "early_access": rng.choice(["no", "yes"], ROWS),
    }


@log(
    Found(
        ("is_buy",),
        "userid",
        "goods_id",
        "ds",
        {"seq": "sequence", "city": "categorical"},
        text=(r"delimiter='\x01'", "'\\\\N',", r"'\x02'"),
    )
)
def hive(rng: np.random.Generator) -> tuple[str, Columns]:
    """A table as Hive writes it: its delimiters, `\\N`, dates as digits."""
    return "000000_0.hive", {
        "userid": ids(rng, 40),
        "goods_id": ids(rng, 60),
        "seq": ["\x02".join(map(str, ids(rng, 60, size=k))) for k in rng.integers(1, 9, ROWS)],
        "city": rng.choice(["\\N", "Hangzhou", "Paris"], ROWS),
        "ds": [f"{t:%Y%m%d}" for t in moments(7200)],
        "is_buy": clicks(rng),
    }
