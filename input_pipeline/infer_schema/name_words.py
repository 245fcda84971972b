"""What the words of a column's name say: whose it is, an id, a scenario, an outcome of the auction."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tt_jax.schema import Tower

USER_WORDS = (
    "user", "uid", "member", "visitor", "customer", "viewer", "client", "account", "subscriber", "reviewer", "reader",
    "listener", "buyer", "shopper", "person", "consumer", "household", "msno", "cookie", "device", "idfa", "gaid",
    "oaid", "imei", "ip",
)  # fmt: skip
# The most specific first: of several the first one is the ad. An ad group has many ads, a campaign many ad groups.
AD_WORDS = (
    "ad", "creative", "banner", "item", "iid", "product", "goods", "sku", "asin", "isbn", "stock", "video", "vid",
    "movie", "film", "song", "track", "article", "news", "doc", "document", "post", "photo", "note", "book", "listing",
    "offer", "content", "coupon", "deal", "recipe", "job", "hotel", "restaurant", "business", "poi", "venue", "game",
    "anime", "course", "adgroup", "adset", "campaign", "advertiser",
)  # fmt: skip
REQUEST_WORDS = (
    "request", "req", "auction", "bid", "impression", "imp", "query", "session", "search", "srch", "display", "trace",
    "invoice",
)  # fmt: skip
_SIDES: dict[Tower, tuple[str, ...]] = {
    "query": (*USER_WORDS, "query", "request", "context", "ctx", "surface", "hour"),
    "ad": (*AD_WORDS, "author", "publisher", "brand", "seller", "music"),
}
_NOT_ALONE = {"device", "job", "stock", "note", "deal", "game", "account"}  # an id only if it says so: `device_id`
SCENARIO_WORDS = ("scenario", "surface", "tab", "placement", "channel", "domain", "scene", "site", "page")
_ID_ENDINGS = ("id", "no", "code", "key", "uuid", "guid", "hash", "idx", "index", "sk")
_OF_A_NUMBER = ("no", "num", "number", "index", "idx", "nr")
_AUCTION = re.compile(r"(position|pos|rank|ranking|slot)$")
_GLUED_AUCTION = re.compile(
    r"(ad|banner|display|search|result|item|show|click|list|impression)(position|pos|rank|slot)$"
)
_NOT_OF_THE_AUCTION = {"time", "hour", "day", "date", "page"}  # `time_slot`, `page_rank`


def words_of(name: str) -> tuple[str, ...]:
    """Those of a name, in lower case: `isLongView_2` is `is long view 2`."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    words = re.findall(r"[0-9]+|[^\W\d_]+", parted)
    return tuple(re.sub(r"\bad (group|set)\b", r"ad\1", " ".join(words)).split())  # which are no ads


def side_of(words: Sequence[str]) -> Tower | None:
    """The tower that the first word of a name speaks of."""
    first = words[0] if words else ""
    for tower, names in _SIDES.items():
        if first in names or first.rstrip("s") in names or (len(words) == 1 and first.removesuffix("id") in names):
            return tower
    return None


def id_rank(words: Sequence[str], of: Sequence[str], id_only: bool = False) -> tuple[int, int, int] | None:
    """How well a name is that of the id of one of some things, the first ones first, lower is better; None if of none.

    `item_id`, `itemid`, `item_no` or `id_item`, else `item` (unless `id_only`); after all others `clicked_item_id`.
    """
    for position, thing in enumerate(of):
        named = len(words) == 2 and words[0] == thing and words[1] in _ID_ENDINGS
        if named or tuple(words) in ((f"{thing}id",), ("id", thing)):
            return 0, position, 0
        if tuple(words) == (thing,) and not id_only and thing not in _NOT_ALONE:
            return 0, position, 1
        if tuple(words[-2:]) == (thing, "id"):
            return 1, position, 0
    return None


def is_of_the_auction(words: Sequence[str]) -> bool:
    """Whether it is the place that an ad got: `position`, `ad_rank`, `slot_no`, `bannerpos`."""
    kept = list(words)
    while len(kept) > 1 and (kept[-1].isdigit() or kept[-1] in _OF_A_NUMBER):
        kept.pop()
    if not kept or _NOT_OF_THE_AUCTION & set(kept):
        return False
    return bool(_AUCTION.fullmatch(kept[-1]) or _GLUED_AUCTION.fullmatch(kept[-1]))
