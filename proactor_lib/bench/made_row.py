"""A row of one made-up dialogue, laid out as artf/training/rows.py lays it out, from its shape alone: without TRL."""

from dataclasses import dataclass

import torch

from proactor_lib.bench.shapes import Shape


@dataclass(frozen=True)
class MadeRow:
    """All outputs of a dialogue of `shape`: random tokens, advantages and a uniform policy's log-probabilities."""

    shape: Shape
    vocabulary: int
    seed: int = 0

    @property
    def trunk(self) -> int:
        """Tokens of the trunk: the dialogue but for its last token, which each output of a turn has for itself."""
        return self.shape.catalog + self.shape.turns * self.shape.turn - 1

    @property
    def samples(self) -> range:
        """Numbers of the outputs."""
        return range(self.shape.turns * self.shape.k)

    @property
    def tokens(self) -> range:
        """Numbers of the packed tokens."""
        return range(self.trunk + len(self.samples) * (self.shape.output + 1))

    @property
    def trained(self) -> int:
        """Loss terms."""
        return len(self.samples) * self.shape.output

    @property
    def load(self) -> int:
        """Pairs of tokens of which one sees the other."""
        return int((self._positions() + 1).sum())

    @property
    def seen(self) -> torch.Tensor:
        """Trunk tokens that each output's tokens see."""
        s = self.shape
        return (s.catalog + s.turn * torch.arange(1, s.turns + 1) - 1).repeat_interleave(s.k)

    def _positions(self) -> torch.Tensor:
        branch = self.seen[:, None] + torch.arange(self.shape.output + 1)
        return torch.cat([torch.arange(self.trunk), branch.flatten()])

    def pack(self) -> dict[str, torch.Tensor]:
        """As `DialogueRow.pack`: of N tokens and M loss terms."""
        s, length, outputs, generator = self.shape, self.shape.output + 1, len(self.samples), torch.Generator()
        generator.manual_seed(self.seed)
        ids = torch.randint(self.vocabulary, (len(self.tokens),), generator=generator)
        starts = self.trunk + length * torch.arange(outputs)
        index = (starts[:, None] + torch.arange(s.output)).flatten()
        labels = torch.full_like(ids, -100)
        labels[index] = ids[index + 1]
        boundaries = torch.cat([torch.tensor([0]), self.trunk + s.k * length * torch.arange(s.turns + 1)])
        return {
            "input_ids": ids,
            "position_ids": self._positions(),
            "tree_kv_index": torch.cat(
                [torch.full((self.trunk,), len(ids)), (starts + length).repeat_interleave(length)]
            ),
            "tree_cu_seqlens_q": boundaries.int(),
            "tree_cu_seqlens_k": torch.cat([torch.arange(1, self.trunk + 1), self.seen.repeat_interleave(length)]),
            "tree_max_seqlens": torch.tensor([self.trunk, int(boundaries.diff().max())]),
            "shift_labels": labels,
            "token_index": index,
            "old_log_probs": torch.full((self.trained,), -10.0),
            "advantages": torch.randn(outputs, generator=generator).repeat_interleave(s.output),
            "segment_id": torch.arange(outputs).repeat_interleave(s.output),
        }


def paper_row(row_tokens: int, vocabulary: int) -> MadeRow:
    """One dialogue in the proportions of the paper's, as many of its turns as `row_tokens` packed tokens hold [ours].

    47 turns, K = 8, outputs of 120 tokens, a catalog of 2,500 and 45 tokens per turn, scaled where even one turn is too
    long.
    """
    scale = min(1.0, row_tokens / 3700)
    catalog, turn, output = (max(2, int(n * scale)) for n in (2500, 45, 120))
    each = turn + 8 * (output + 1)
    turns = max(1, min(47, (row_tokens - catalog + 1) // each))
    return MadeRow(Shape(turns, 8, output, catalog=catalog, turn=turn, token_budget=row_tokens, model=""), vocabulary)
