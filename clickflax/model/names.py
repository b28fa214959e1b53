"""What the name of a parameter says: how deep in the model it is, and what its rows stand for."""

import re

from clickflax.batch import RESERVED

# Rows of a vocabulary: the pattern of the name, and how many rows of reserved ids come first.
ROWS = {
    r"embedder/tables_([^/]+)/embedding": RESERVED,
    r"embedder/item_features_([^/]+)/table/embedding": RESERVED,
    r"head_([^/]+)/(?:bias|table)": 0,
}


def depth(name: str, layers: int) -> int:
    """How many stages of the model end above a parameter: 0 in a head and in what comes after the
    last block, 1 in the last block, `layers` in the first one, `layers + 1` in the embedder and in
    what all blocks are given. Of blocks that are one and the same, there is one layer.
    """
    if name.startswith("embedder/") or name == "encoder/distances":
        return layers + 1
    block = re.match(r"encoder/block_(\d+)/", name)
    return layers - int(block[1]) if block else 0


def table_rows(name: str) -> tuple[str, int] | None:
    """The variable or feature whose tokens have a row each in a parameter, and how many rows of
    reserved ids stand before them; None where rows are something else.
    """
    for pattern, reserved in ROWS.items():
        found = re.fullmatch(pattern, name)
        if found:
            return found[1], reserved
    return None
