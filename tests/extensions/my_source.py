"""The source `my-shop`: a JSON file of sessions, as an example of a source of your own.

{"sessions": [{"id": "s1", "events": [{"product": "lamp", "time": 1735689600, "price": 40}]}],
 "products": {"lamp": "Red lamp"}}

clickflax prepare my-shop --extension my_source.py --raw shop.json --out data/shop
"""

import json
import pathlib

import pyarrow as pa

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.options import Options
from clickflax.preparation.sources import RawLog, register_source, stage_events


@register_source("my-shop", raw="JSON file of sessions and products")
def read_my_shop(engine: Engine, raw: pathlib.Path, options: Options) -> RawLog:
    """Reads one event per element of `events`, and the titles of products."""
    shop = json.loads(raw.read_text(encoding="utf-8"))
    events = [
        {"sequence": session["id"], "item": event["product"], **event}
        for session in shop["sessions"]
        for event in session["events"]
    ]
    names = ("sequence", "item", "time", "price")
    table = pa.table({name: [event.get(name) for event in events] for name in names})
    titles = {"token": list(shop["products"]), "title": list(shop["products"].values())}
    return RawLog(
        stage_events(engine, table, raw), numeric=("price",), item_features=pa.table(titles)
    )
