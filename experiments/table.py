"""README's table of results, from the records that `clickflax evaluate` keeps in run folders.

    python experiments/table.py add runs/bert4rec_ml1m   # keep the record of a run
    python experiments/table.py write                    # write the table into README.md

A record is what the run itself wrote: metrics, protocol, seconds, config, commit, machine.
"""

import argparse
import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results: python experiments/table.py write -->", "<!-- end of results -->"
KEPT = ("commit", "dirty", "versions", "backend", "devices", "cpu", "cores", "data", "started")


def add(run: pathlib.Path) -> pathlib.Path:
    """Copies the record of a run beside this file, without what tells of its place."""
    record = json.loads((run / "test.json").read_text(encoding="utf-8"))
    record["environment"] = {key: record["environment"][key] for key in KEPT}
    record["run"] = run.name
    record["config"]["data"]["path"] = pathlib.Path(record["config"]["data"]["path"]).name
    path = HERE / "results" / f"{run.name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def row(record: dict) -> list[str]:
    """The cells of one record."""
    environment, protocol = record["environment"], record["protocol"]
    seen = "filtered" if protocol["filter_seen"] else "kept"
    machine = f"{environment['cores']} cores"
    if environment["backend"] != "cpu":
        machine = " + ".join(f"{n} x {kind}" for kind, n in environment["devices"].items())
    split = protocol["split"].replace("_", "-")
    return [
        f"[{record['run']}](configs/{record['run']}.py)",
        record["config"]["data"]["path"],
        f"{split}, seen {seen}, {record['users']:,} users",
        f"{record['recall@10']:.4f}",
        f"{record['ndcg@10']:.4f}",
        f"{record['seconds_to_checkpoint']:,.0f} of {record['train_seconds']:,.0f} s",
        machine,
        f"`clickflax train --config=configs/{record['run']}.py --workdir=runs/{record['run']}` "
        f"then `clickflax evaluate --run runs/{record['run']}`",
    ]


def table() -> str:
    """All records as Markdown, by name."""
    head = ["config", "data", "protocol", "R@10", "NDCG@10"]
    head += ["training to the best, of all", "machine", "command"]
    paths = sorted((HERE / "results").glob("*.json"))
    rows = [row(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    lines = [head, ["---", "---", "---", "--:", "--:", "--:", "---", "---"], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_table(text: str) -> str:
    """README with the table of today between its marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("add").add_argument("run", type=pathlib.Path)
    verbs.add_parser("write")
    flags = parser.parse_args()
    if flags.verb == "add":
        print(add(flags.run))
    else:
        README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
