"""A domain that nobody planned for: a catalog file and JSONL files, no code."""

import json

CATALOG = {
    "domain": "zoo",
    "version": "1",
    "actions": [
        {"name": "feed", "description": "feed an animal", "effect": "write", "preconditions": [],
         "params": [{"name": "animal", "type": "string", "required": True}]},
        {"name": "open_gate", "effect": "write", "preconditions": ["feed"], "params": []},
    ],
}  # fmt: skip
SAID = ["Hello.", "The {0} is hungry.", "Then feed the {0}.", "Done.", "Open the gate now.", "It is open."]
ANIMALS = ["lion", "owl", "zebra", "seal"]


def write_zoo(folder, train=2):
    """`train` dialogues to train on, two to try and two to test; the parameters that name the folder.

    The windows of the first action are (2, 2, 3) in all of them, of the second (5, 5, 5).
    """
    folder.mkdir()
    (folder / "catalog.json").write_text(json.dumps(CATALOG))
    for split, count in {"train": train, "dev": 2, "test": 2}.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(_line(split, i)) + "\n" for i in range(count)))
    return {"dataset": "jsonl", "data_dir": str(folder)}


def _line(split, number):
    animal = ANIMALS[number % len(ANIMALS)]
    turns = [{"speaker": "keeper" if i % 2 else "visitor", "text": s.format(animal)} for i, s in enumerate(SAID)]
    log = [
        {"turn": 3, "name": "feed", "params": {"animal": animal}},
        {"turn": 5, "name": "open_gate", "params": {}},
    ]
    return {"id": f"{split}{number}", "domain": "zoo", "turns": turns, "observed": log}
