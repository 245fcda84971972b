"""KuaiRand-Pure (Gao et al., CIKM 2022, doi 10.1145/3511808.3557624), the log of a short-video feed. To copy.

A recipe is one schema and one join: `read` streams the log and joins what is known of user and video *before* the
impression; `ads` gives the corpus. The source directory holds, as Parquet or under the owners' CSV names,

    train, eval, test                          the log by period, any of them (or the owners' logs, split here by time)
    user_features, video_features_basic        one row a user, one a video
    user_history                               optional: what each user watched before the log begins

The last day of `train` is the split `valid`, to select by: what is to be evaluated on `eval` learns from both. The
histories end before the log begins, by the owners' date (by the clock, three training rows have the time of their
user's last entry), so popularity and rates made of them know nothing of its future.
"""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions on import)

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from input_pipeline.readers import STRICT, Chunk, Errors, ReadError, first_below
from input_pipeline.readers import read as read_tables
from input_pipeline.values.column_names import require_columns
from tt_jax.schema import Feature, Schema, Task, Tower, Transform

DIM = 16  # of every embedding, so that all of them are one fused table
SPLITS = ("train", "valid", "eval", "test")
TABS = (1, 0, 4, 6, 2)  # a scenario each; the other ten have 1.4 % of the rows
SCENARIOS = (*(f"tab{t}" for t in TABS), "other")
LABELS = {"click": "is_click", "long_view": "long_view", "like": "is_like"}

_USERS, _VIDEOS = ("user_features", "user_features_pure"), ("video_features_basic", "video_features_basic_pure")
_HISTORY = "user_history"  # Parquet only: it has lists
_SUFFIXES = (".parquet", ".csv")
_IDS = pa.list_(pa.int32())
_NO_HISTORY = pa.schema(
    {"user_id": pa.int64(), "history_len": pa.int32(), "watch_seq": _IDS, "like_seq": _IDS, "long_watch_seq": _IDS}
).empty_table()
_PERIODS = ("train", "eval", "test")
_OWNERS_LOGS = ("log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv")
_BEIJING_MS, _DAY_MS = 8 * 3_600_000, 86_400_000
_LOG_DAY = 19_107  # 2022-04-25, the first day of the log, in days since 1970
_FIRST_DATE = 20_220_425  # of the owners' logs, the `date` from which on the histories are of the days before
# Beginnings of the splits but the first, Unix ms: 2022-05-03, 2022-05-04 and 2022-05-06, 00:00 in Beijing.
_STARTS = (1_651_507_200_000, 1_651_593_600_000, 1_651_766_400_000)

_USER_TEXTS = {
    "user_active_degree": (
        "2_14_day_new", "30day_retention", "UNKNOWN", "day_new", "full_active", "high_active", "low_active",
        "middle_active", "single_low_active",
    ),
    "follow_user_num_range": ("0", "(0,10]", "(10,50]", "(50,100]", "(100,150]", "(150,250]", "(250,500]", "500+"),
    "fans_user_num_range": (
        "0", "[1,10)", "[10,100)", "[100,1k)", "[1k,5k)", "[5k,1w)", "[1w,10w)", "[10w,100w)", "[100w,1000w)",
    ),
    "friend_user_num_range": ("0", "[1,5)", "[5,30)", "[30,60)", "[60,120)", "[120,250)", "250+"),
    "register_days_range": ("8-14", "15-30", "31-60", "61-90", "91-180", "181-365", "366-730", "730+"),
}  # fmt: skip
_USER_INTS = {
    "is_live_streamer": (-124, 1), "is_video_author": (0, 1),
    **{f"onehot_feat{i}": tuple(range(n)) for i, n in enumerate((2, 7, 50))},
    **{f"onehot_feat{i + 4}": tuple(range(n)) for i, n in enumerate((15, 34, 3, 118))},
    **{f"onehot_feat{i + 9}": tuple(range(n)) for i, n in enumerate((7, 5, 5, 2, 2, 2, 2, 2, 2))},
}  # fmt: skip
_USER_HASHED = {"onehot_feat3": 16_384, "onehot_feat8": 8_192}
# Mean and standard deviation, over the rows of the train split, of log1p of counts and of log-odds.
_USER_COUNTS = {
    "follow_user_num": (4.9, 1.6), "fans_user_num": (3.9, 2.0), "friend_user_num": (3.0, 2.0),
    "register_days": (6.8, 0.9), "history_len": (3.9, 0.9),
}  # fmt: skip
_USER_ODDS = {"user_long_watch_log_odds": (-0.7, 0.85), "user_like_log_odds": (-4.5, 0.9)}
_VIDEO_ODDS = {"video_long_watch_log_odds": (-0.7, 0.8), "video_like_log_odds": (-4.2, 0.85)}
_HISTORIES = {"watch_seq": 24, "long_watch_seq": 24, "like_seq": 8}  # slots; the file has the last 50
_TAG_HISTORIES = {"long_watch_tags": ("long_watch_seq", 24), "like_tags": ("like_seq", 8)}
_TAGS = tuple(range(70))
_VIDEO_TYPES = ("NORMAL", "AD", "UNKNOWN")
_UPLOAD_TYPES = (
    "AiCutVideo", "FollowShoot", "Kmovie", "LipsSync", "LongCamera", "LongImport", "LongPicture", "PhotoCopy",
    "PictureSet", "ShareFromOtherApp", "ShortCamera", "ShortImport", "UNKNOWN", "Web",
)  # fmt: skip
_MUSIC_TYPES = (4, 7, 8, 9, 11)
_DURATION_BUCKETS = tuple(range(24))  # half octaves of a second
_PRIOR_WATCHES = {"long_watch": 10.0, "like": 30.0}  # a rate made of few watches is drawn to the mean of all


def schema(_source: object = None) -> Schema:
    """Features, tasks and scenarios, the same for every source."""

    def category(name: str, tower: Tower, values: tuple[str, ...] | tuple[int, ...]) -> Feature:
        dtype = "int" if isinstance(values[0], int) else "string"
        return Feature(name, "categorical", tower, dtype, DIM, vocabulary=values)

    def hashed(name: str, tower: Tower, rows: int) -> Feature:
        return Feature(name, "categorical", tower, "int", DIM, hash_size=rows)

    def number(name: str, tower: Tower, mean: float, std: float, transform: Transform = "none") -> Feature:
        return Feature(name, "numeric", tower, transform=transform, mean=mean, std=std, indicator=True)

    def history(name: str, slots: int, shares: str) -> Feature:
        return Feature(name, "sequence", "query", "int", DIM, max_length=slots, shares=shares)

    query = (
        hashed("user_id", "query", 2**17),
        category("scenario", "query", SCENARIOS),
        category("hour", "query", tuple(range(24))),
        # A number, so that the trend goes on: in a log of ten days, the day of the week would stand for the day.
        Feature("day", "numeric", "query", mean=4.0, std=2.6),
        *(category(name, "query", values) for name, values in _USER_TEXTS.items()),
        *(category(name, "query", values) for name, values in _USER_INTS.items()),
        *(hashed(name, "query", rows) for name, rows in _USER_HASHED.items()),
        *(history(name, slots, "video_id") for name, slots in _HISTORIES.items()),
        *(history(name, slots, "tag") for name, (_, slots) in _TAG_HISTORIES.items()),
        *(number(name, "query", *stats, transform="log1p") for name, stats in _USER_COUNTS.items()),
        *(number(name, "query", *stats) for name, stats in _USER_ODDS.items()),
    )
    ad = (
        *(hashed(name, "ad", 2**16) for name in ("video_id", "author_id", "music_id")),
        Feature("tag", "bag", "ad", "int", DIM, vocabulary=_TAGS, max_length=3),
        category("video_type", "ad", _VIDEO_TYPES),
        category("upload_type", "ad", _UPLOAD_TYPES),
        category("music_type", "ad", _MUSIC_TYPES),
        category("duration_bucket", "ad", _DURATION_BUCKETS),
        number("video_duration", "ad", 11.1, 1.1, "log1p"),
        number("server_height", "ad", 7.0, 0.25, "log1p"),
        number("aspect_ratio", "ad", 1.5, 0.5),
        number("upload_age", "ad", 15.0, 1.0),
        number("video_watches", "ad", 5.6, 1.4, "log1p"),
        *(number(name, "ad", *stats) for name, stats in _VIDEO_ODDS.items()),
    )
    return Schema(
        "kuairand_pure", query + ad, tuple(Task(name, label) for name, label in LABELS.items()),
        scenario="scenario", scenarios=SCENARIOS, user_id="user_id", ad_id="video_id", time="time_ms", slices=("tab",),
    )  # fmt: skip


def read(source: str | Path, errors: Errors = STRICT, parts: Collection[str] | None = None) -> Iterator[Chunk]:
    """The log, joined. `errors` gets its bad rows. `parts`: only these files.

    Raises `ReadError` if the directory does not hold it, or a table lacks a column.
    """
    users, videos = _side_tables(source)
    for chunk in _log(source, errors, parts):
        require_columns(chunk.file, chunk.table, ("user_id", "video_id", "time_ms", "tab", *LABELS.values()))
        log = chunk.table.select(["user_id", "video_id", "time_ms", "tab", *LABELS.values()])
        columns = {name: log.column(name) for name in log.column_names}
        columns.update(_context(log))
        for side, key in ((users, "user_id"), (videos, "video_id")):
            joined = side.take(pc.index_in(log.column(key).cast(pa.int64()), side.column(key).combine_chunks()))
            columns.update({name: joined.column(name) for name in joined.column_names if name != key})
        yield Chunk(chunk.split, chunk.file, chunk.first_row, pa.table(columns), chunk.rows)


def ads(source: str | Path) -> pa.Table:
    """The corpus: every video with its ad features, `bid` (1: there are none in this log) and `eligible`."""
    _, videos = _side_tables(source)
    corpus = videos.select([f.name for f in schema().tower_features("ad")])
    corpus = corpus.append_column("bid", pa.array(np.ones(len(corpus), np.float32)))
    return corpus.append_column("eligible", pa.array(np.ones(len(corpus), bool)))


def parts(source: str | Path) -> list[str]:
    """The files of the log, in the order of reading. Raises `ReadError` if there are none."""
    for names in ([f"{period}{suffix}" for period in _PERIODS for suffix in _SUFFIXES], _OWNERS_LOGS):
        if files := [path for name in names if (path := first_below(source, name))]:
            return files
    names = ", ".join(f"{period}.parquet" for period in _PERIODS)
    raise ReadError(f"{source}: no log: expected {names} or {_OWNERS_LOGS[1]}")


def _log(source: str | Path, errors: Errors, chosen: Collection[str] | None) -> Iterator[Chunk]:
    """The log as it is stored, by split."""
    for path in (path for path in parts(source) if chosen is None or path in chosen):
        for file, first_row, table in read_tables(path, errors=errors):
            require_columns(file, table, ("date", "time_ms"))
            split = np.searchsorted(_STARTS, table.column("time_ms").to_numpy(), side="right")
            split = np.where(table.column("date").to_numpy() < _FIRST_DATE, -1, split)
            for i, name in enumerate(SPLITS):
                rows = np.flatnonzero(split == i)
                if len(rows):
                    yield Chunk(name, file, first_row, table.take(pa.array(rows)), rows)


def _context(log: pa.Table) -> dict[str, pa.Array]:
    """Scenario, hour of the day 0..23 and days since the log began, with their fraction, in Beijing time."""
    tab = log.column("tab").combine_chunks().cast(pa.int64())
    scenario = pc.fill_null(pc.index_in(tab, pa.array(TABS)), len(TABS))
    scenario = pc.if_else(pc.is_valid(tab), scenario, None)  # the encoder names the row of a missing one
    local = log.column("time_ms").to_numpy() + _BEIJING_MS
    return {
        "scenario": pa.array(SCENARIOS).take(scenario),
        "hour": pa.array(local % _DAY_MS // 3_600_000),
        "day": pa.array(local / _DAY_MS - _LOG_DAY),
    }


def _side_tables(source: str | Path) -> tuple[pa.Table, pa.Table]:
    """What is known of each user and of each video before the log begins, the columns named as the features."""
    users, videos = _whole_table(source, *_USERS), _whole_table(source, *_VIDEOS)
    ints, counts = ("user_id", *_USER_INTS, *_USER_HASHED), [c for c in _USER_COUNTS if c != "history_len"]
    require_columns(_USERS[0], users, (*ints, *counts, *_USER_TEXTS))
    users = pa.table({
        **{name: _ints(users.column(name)) for name in ints},
        **{name: users.column(name) for name in counts},
        **{name: users.column(name).cast(pa.string()) for name in _USER_TEXTS},
    })  # fmt: skip
    videos = pa.table(_video_columns(videos))
    history = _whole_table(source, _HISTORY) if first_below(source, f"{_HISTORY}.parquet") else _NO_HISTORY
    require_columns(_HISTORY, history, _NO_HISTORY.column_names)
    user, video = _flat(history, "watch_seq")
    video_ids = videos.column("video_id").combine_chunks()
    position = pc.fill_null(pc.index_in(pa.array(video), video_ids), -1).to_numpy()
    columns = {name: history.column(name) for name in _NO_HISTORY.column_names}
    for name, (seq, _) in _TAG_HISTORIES.items():
        columns[name] = _tags_of(history, seq, videos)
    known = position >= 0
    for kind, prior in _PRIOR_WATCHES.items():
        hit_user, hit_video = _flat(history, f"{kind}_seq")
        hit = np.isin(user << 32 | video, hit_user << 32 | hit_video)  # video ids are below 2^32
        columns[f"user_{kind}_log_odds"] = _log_odds(user, hit, len(history), prior)
        odds = _log_odds(position[known], hit[known], len(videos), prior)
        videos = videos.append_column(f"video_{kind}_log_odds", odds)
    watches = np.bincount(position[known], minlength=len(videos))
    videos = videos.append_column("video_watches", pa.array(watches, mask=watches == 0))
    of_user = pa.table(columns).take(pc.index_in(users.column("user_id"), _ints(history.column("user_id"))))
    for name in columns:
        if name != "user_id":
            users = users.append_column(name, of_user.column(name))
    return users.combine_chunks(), videos.combine_chunks()


def _video_columns(videos: pa.Table) -> dict[str, pa.Array]:
    ints, texts = ("video_id", "author_id", "music_id", "music_type"), ("video_type", "upload_type")
    numbers = ("video_duration", "server_width", "server_height")
    require_columns(_VIDEOS[0], videos, (*ints, *texts, *numbers, "tag", "upload_dt"))
    number = {name: videos.column(name).cast(pa.float64()) for name in numbers}
    seconds = pc.max_element_wise(pc.divide(number["video_duration"], 1000.0), 1.0, skip_nulls=False)
    bucket = pc.floor(pc.multiply(pc.log2(seconds), 2.0))
    bucket = pc.min_element_wise(bucket, float(_DURATION_BUCKETS[-1]), skip_nulls=False)
    uploaded = videos.column("upload_dt").cast(pa.string()).cast(pa.date32()).cast(pa.int32())
    return {
        **{name: _ints(videos.column(name)) for name in ints},
        **{name: videos.column(name).cast(pa.string()) for name in texts},
        "tag": pc.split_pattern(videos.column("tag").cast(pa.string()), ",").cast(pa.list_(pa.int64())),
        "duration_bucket": _ints(bucket),
        "video_duration": number["video_duration"],
        "server_height": number["server_height"],
        "aspect_ratio": pc.divide(number["server_height"], number["server_width"]),
        "upload_age": pc.subtract(pa.scalar(_LOG_DAY, pa.int32()), uploaded),
    }


def _tags_of(history: pa.Table, name: str, videos: pa.Table) -> pa.ListArray:
    """For each user the tags of the videos of that history, in its order."""
    user, video = _flat(history, name)
    at = pc.index_in(pa.array(video), videos.column("video_id").combine_chunks())
    tags = videos.column("tag").combine_chunks().take(at)
    lengths = pc.fill_null(pc.list_value_length(tags), 0).to_numpy()
    of_user = np.bincount(user, lengths, len(history)).astype(np.int32)
    return pa.ListArray.from_arrays(np.cumsum([0, *of_user], dtype=np.int32), tags.flatten())


def _flat(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists as (row of the element, element), int64 both."""
    lists = table.column(name).combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    return np.repeat(np.arange(len(lists)), lengths), lists.flatten().to_numpy().astype(np.int64)


def _log_odds(group: np.ndarray, hit: np.ndarray, groups: int, prior: float) -> pa.Array:
    """Per group the log-odds of a hit, shrunk to the mean of all by `prior` pseudo-watches; null for an empty group."""
    mean = (hit.sum() + 1) / (len(hit) + 2)
    total = np.bincount(group, minlength=groups)
    rate = (np.bincount(group, hit, groups) + prior * mean) / (total + prior)
    return pa.array(np.log(rate / (1 - rate)), mask=total == 0)


def _ints(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Whole numbers, which a column with missing ones has as floats."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return column.cast(pa.int64())


def _whole_table(source: str | Path, *names: str) -> pa.Table:
    path = first_below(source, *(f"{name}{suffix}" for name in names for suffix in _SUFFIXES))
    if path is not None:
        return pa.concat_tables([table for _, _, table in read_tables(path)]).combine_chunks()
    raise ReadError(f"{source}: expected {' or '.join(names)} as {' or '.join(_SUFFIXES)}")
