"""Made-up dialogues of a given shape, as training samples: their tokens mean nothing, their lengths are what counts."""

from dataclasses import asdict, dataclass

import numpy as np

from proactor_lib.errors import UserError


@dataclass(frozen=True)
class Shape:
    """One dialogue: `turns` turns, K outputs at each, and the most tokens that one row may hold."""

    turns: int
    k: int
    output: int  # tokens an output
    catalog: int  # tokens before the first turn
    turn: int  # tokens a turn
    token_budget: int  # tokens a row
    model: str  # whose training step is timed
    dialogues: int = 1  # a step
    part: int | None = None  # tokens that ours forwards at once; none: token_budget

    @property
    def at_once(self) -> int:
        """Tokens that ours forwards at once."""
        return self.part or self.token_budget

    def as_dict(self) -> dict:
        """The shape as JSON."""
        return asdict(self)


SHAPES = {
    "paper": Shape(47, 8, 120, catalog=2500, turn=45, token_budget=16384, model="smollm2-135m"),  # [paper]
    "laptop": Shape(47, 8, 20, catalog=160, turn=30, token_budget=4096, model="smollm2-135m", part=1600),
    "medium": Shape(12, 8, 20, catalog=160, turn=30, token_budget=4096, model="smollm2-135m"),
    "tiny": Shape(5, 3, 4, catalog=20, turn=6, token_budget=80, model="tiny"),
}


def named(name: str) -> Shape:
    """The shape of that name; UserError for another."""
    if name not in SHAPES:
        raise UserError(f"shape {name!r}: there is none of that name; accepted: {', '.join(SHAPES)}")
    return SHAPES[name]


def samples(shape: Shape, vocabulary: int, seed: int = 0) -> list[dict]:
    """The dialogues' outputs in turn order, as TRL's rows take them; no two outputs of a turn begin alike.

    Advantages are normal numbers, old log-probabilities those of a uniform choice.
    """
    return [sample for n in range(shape.dialogues) for sample in _dialogue(n, shape, vocabulary, seed + n)]


def _dialogue(number: int, shape: Shape, vocabulary: int, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    trunk = rng.integers(vocabulary, size=shape.catalog + shape.turns * shape.turn)
    outputs = []
    for turn in range(1, shape.turns + 1):
        prompt = trunk[: shape.catalog + turn * shape.turn]
        first = rng.choice(vocabulary, size=shape.k, replace=False)
        outputs += [_sample(rng, prompt, np.append(token, rng.integers(vocabulary, size=shape.output - 1)), turn)
                    for token in first]  # fmt: skip
    return [sample | {"dialogue": str(number)} for sample in outputs]


def _sample(rng: np.random.Generator, prompt: np.ndarray, output: np.ndarray, turn: int) -> dict:
    mask = np.repeat([0, 1], [len(prompt), len(output)])
    return {
        "input_ids": np.concatenate([prompt, output]),
        "completion_mask": mask,
        "old_log_probs": np.full(len(mask), -10.0, dtype=np.float32),
        "advantage": float(rng.normal()),
        "group_id": turn,
        "metrics": {},
    }
