"""Online Retail II as a log of purchases, returned purchases and cancellations.

    python experiments/online_retail.py RAW/online-retail/lines.parquet data/online-retail.parquet
    clickflax prepare log --raw data/online-retail.parquet --out data/online-retail --columns \\
        sequence=customer,time=time,item=code,action=action,price=price,quantity=quantity,invoice=invoice,country=country

A line that the same customer cancels later, with an invoice C..., has the action `return`; all
other purchases have `buy`, and cancellations `cancel`. Lines without a customer are dropped. Price
and quantity are log(1 + x), because both range from single units to thousands.
"""

import argparse
import pathlib

import duckdb

QUERY = """
WITH line AS (
    SELECT
        CAST("Customer ID" AS BIGINT) AS customer,
        CAST(InvoiceDate AS TIMESTAMP) AS time,
        StockCode AS code,
        Invoice AS invoice,
        ln(1 + abs(Quantity)) AS quantity,
        ln(1 + Price) AS price,
        Country AS country,
        Invoice LIKE 'C%' AS cancels,
        row_number() OVER () AS number
    FROM read_parquet(?)
    WHERE "Customer ID" IS NOT NULL
),
cancelled AS (
    SELECT customer, code, max(time) AS until FROM line WHERE cancels GROUP BY ALL
)
SELECT
    customer, line.time, code, invoice, quantity, price, country,
    CASE WHEN cancels THEN 'cancel' WHEN until >= line.time THEN 'return' ELSE 'buy' END AS action
FROM line LEFT JOIN cancelled USING (customer, code)
ORDER BY number
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("raw", type=pathlib.Path, help="lines.parquet, as it was published")
    parser.add_argument("out", type=pathlib.Path, help="the Parquet file to write")
    flags = parser.parse_args()
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    lines = duckdb.connect().from_query(QUERY, params=[str(flags.raw)])
    lines.write_parquet(str(flags.out))
    for action, count in lines.aggregate("action, count(*)", "action").order("1").fetchall():
        print(f"{action:8}{count:>10,}")


if __name__ == "__main__":
    main()
