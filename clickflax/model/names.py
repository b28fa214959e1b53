"""Depth and rows of a parameter, from its name."""

import re

from clickflax.batch import RESERVED

# Parameters with a row per token: the pattern of the name, and the number of reserved rows.
ROWS = {
    r"embedder/tables_([^/]+)/embedding": RESERVED,
    r"embedder/item_features_([^/]+)/table/embedding": RESERVED,
    r"head_([^/]+)/(?:bias|table)": 0,
}


def depth(name: str, layers: int) -> int:
    """Distance of a parameter from the output, in layers.

    0 in heads and after the last block, 1 in the last block, `layers` in the first one, and
    `layers + 1` in the embedder and in inputs of all blocks. Blocks that share their parameters
    are one layer.
    """
    if name.startswith("embedder/") or name == "encoder/distances":
        return layers + 1
    block = re.match(r"encoder/block_(\d+)/", name)
    return layers - int(block[1]) if block else 0


def table_rows(name: str) -> tuple[str, int] | None:
    """The variable or feature whose tokens are the rows of a parameter, and the number of reserved
    rows before them; None if rows are not tokens.
    """
    for pattern, reserved in ROWS.items():
        match = re.fullmatch(pattern, name)
        if match:
            return match[1], reserved
    return None
