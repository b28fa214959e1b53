"""The files of the other sources, damaged: an error, or each row is counted."""

import pathlib
import random
from typing import Any

from clickflax.data.store import open_dataset
from clickflax.preparation.main import prepare
from clickflax.preparation.options import Options
from experiments.fuzzing.logs import accounts
from experiments.fuzzing.mutate import mutate_bytes

SOURCES: dict[str, dict[str, str]] = {
    "ml-1m": {
        "ratings.dat": "1::1::5::978300760\n1::2::3::978302109\n2::1::4::978302110\n",
        "movies.dat": "1::Alien (1979)::Horror|Sci-Fi\n2::B::Drama\n",
        "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    },
    "ml-100k": {
        "u.data": "1\t1\t5\t881250949\n1\t2\t3\t881250950\n2\t1\t4\t881250951\n",
        "u.item": "1|A (1995)|01-Jan-1995||u|0|1\n2|C|x||u|1|0\n",
        "u.genre": "unknown|0\nAction|1\n",
        "u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
    },
    "recbole": {
        "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "u1\ti1\t3\t978300760\nu1\ti2\t4.5\t978300761\nu2\ti1\t1\t978300762\n",
        "x.item": "item_id:token\ttitle:token_seq\tprice:float\ni1\tToy Story\t9.5\ni2\tHeat\t\n",
        "x.user": "user_id:token\tage:token\nu1\t24\nu2\t7\n",
    },
    "pairs": {"pairs.txt": "1 a\n1 b\n2 b\n2 c\n1 a\n"},
    "sequences": {
        "lines.txt": "1 a b\n2 b c\n3 a\n",
        "attributes.json": '{"a": ["x", 2], "b": []}',
    },
    "sessions": {"train.txt": "a b\nb c\n", "test.txt": "c b a\n"},
}


def damaged_source(chance: random.Random, folder: pathlib.Path) -> str | None:
    """A source of which one file is damaged."""
    name = chance.choice(list(SOURCES))
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    for old in raw.iterdir():
        old.unlink()
    files = {file: text.encode() for file, text in SOURCES[name].items()}
    hit = chance.choice(list(files))
    files[hit] = mutate_bytes(files[hit], chance)
    for file, data in files.items():
        (raw / file).write_bytes(data)
    options: dict[str, Any] = {"on_bad_rows": chance.choice(("skip", "error"))}
    path = raw
    if name in ("pairs", "sequences"):
        path = raw / next(iter(files))
        if name == "sequences":
            options["attributes"] = raw / "attributes.json"
    prepare(name, path, folder / "out", Options(threads=1, memory="1GB", **options), True)
    return accounts(open_dataset(folder / "out"), None)
