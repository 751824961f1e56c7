"""A dialogue's outputs of all turns as one prefix tree, each shared token forwarded once [ours].

TRL's `TreeRow` builds the tree. It lays segments out in depth-first order; here the *trunk* (the dialogue itself)
stands first and everything that branches off it follows, in blocks: the layout that `tree_attention` is made for.
"""

import math

import torch

from proactor_lib.artf.training.trl_async import TreeRow


class DialogueRow(TreeRow):
    """One row: TRL's trie, laid out trunk first. `add` samples in turn order, then `pack`."""

    def pack(self) -> dict[str, torch.Tensor]:
        """The row as tensors, keys as TRL's `TreeRow.pack` (N tokens, M loss terms), three of them with our meaning.

        `tree_cu_seqlens_q` (blocks + 1): block boundaries, the trunk first; `tree_cu_seqlens_k` (N): trunk_limit;
        `tree_kv_index` (N): subtree_end; `tree_max_seqlens` (2): trunk tokens, longest block.
        """
        order, limit, boundaries = self._layout()
        packed = torch.empty(len(order), dtype=torch.long)
        packed[torch.tensor(order)] = torch.arange(len(order))
        depth, end = self._depths(), self._subtree_ends(order, packed.tolist())
        boundaries = torch.tensor(boundaries, dtype=torch.int32)
        row = {
            "input_ids": torch.tensor([self.tokens[n] for n in order]),
            "position_ids": torch.tensor([depth[n] for n in order]),
            "tree_kv_index": torch.tensor(end),
            "tree_cu_seqlens_q": boundaries,
            "tree_cu_seqlens_k": torch.tensor(limit),
            "tree_max_seqlens": torch.stack([boundaries[1], boundaries.diff().max()]).long(),
        }
        return row | self._loss_terms(packed)

    def _layout(self) -> tuple[list[int], list[int], list[int]]:
        """Nodes in packed order, the trunk_limit of each, and the block boundaries."""
        trunk, branches = self._trunk()
        order, limit, boundaries = list(trunk), list(range(1, len(trunk) + 1)), [0, len(trunk)]
        for seen, roots in branches:
            for root in roots:
                nodes = self._preorder(root)
                order += nodes
                limit += [seen] * len(nodes)
            boundaries.append(len(order))
        return order, limit, boundaries

    def _trunk(self) -> tuple[list[int], list[tuple[int, list[int]]]]:
        """The heaviest path up to a trained token, and what branches off: (trunk tokens before it, its roots)."""
        size = [1] * len(self.tokens)
        for node in range(len(self.tokens) - 1, -1, -1):  # children have larger numbers than their parents
            size[node] += sum(size[child] for child in self.children[node].values())
        trained = self._trained_nodes()
        trunk, branches, level = [], [], list(self.roots.values())
        while level:
            heaviest = max(level, key=size.__getitem__)
            if heaviest in trained:
                return trunk, [*branches, (len(trunk), level)]
            if len(level) > 1:
                branches.append((len(trunk), [n for n in level if n != heaviest]))
            trunk.append(heaviest)
            level = list(self.children[heaviest].values())
        return trunk, branches

    def _trained_nodes(self) -> set[int]:
        """Nodes that a trained token is predicted from."""
        pairs = zip(self.samples, self.sample_nodes, strict=True)
        return {nodes[i - 1] for sample, nodes in pairs for i in sample["completion_mask"].nonzero()[0] if i}

    def _preorder(self, root: int) -> list[int]:
        nodes, stack = [], [root]
        while stack:
            nodes.append(stack.pop())
            stack.extend(reversed(self.children[nodes[-1]].values()))
        return nodes

    def _depths(self) -> list[int]:
        depth = [0] * len(self.tokens)
        for node, children in enumerate(self.children):
            for child in children.values():
                depth[child] = depth[node] + 1
        return depth

    def _subtree_ends(self, order: list[int], packed: list[int]) -> list[int]:
        """For each packed position, one past the last packed position of its subtree within its own block."""
        end = list(range(1, len(order) + 1))
        for position in range(len(order) - 1, -1, -1):
            for child in self.children[order[position]].values():
                end[position] = max(end[position], end[packed[child]])
        return end

    def _loss_terms(self, packed: torch.Tensor) -> dict[str, torch.Tensor]:
        """Next-token labels (N); of M loss terms: predecessor's position, old log-probability, advantage, sample."""
        labels = torch.full((len(self.tokens),), -100)
        index, old, advantages, segment = [], [], [], []
        for i, (sample, nodes) in enumerate(zip(self.samples, self.sample_nodes, strict=True)):
            trained = sample["completion_mask"].nonzero()[0]
            trained = trained[trained > 0]
            positions = packed[torch.tensor(nodes)[trained - 1]]
            labels[positions] = torch.as_tensor(sample["input_ids"][trained])
            index.append(positions)
            old.append(torch.as_tensor(sample["old_log_probs"][trained], dtype=torch.float32))
            advantages.append(torch.full((len(trained),), float(sample["advantage"])))
            segment.append(torch.full((len(trained),), i))
        return {
            "shift_labels": labels,
            "token_index": torch.cat(index),
            "old_log_probs": torch.cat(old),
            "advantages": torch.cat(advantages),
            "segment_id": torch.cat(segment),
        }


def dialogue_rows(samples: list[dict], token_budget: float = math.inf) -> list[DialogueRow]:
    """Rows of at most `token_budget` packed tokens; without one, one row per dialogue. Samples come in turn order.

    A sample of another dialogue opens a new row, and so does one that does not fit. ValueError if one alone does not.
    """
    rows: list[DialogueRow] = []
    for sample in samples:
        if len(sample["input_ids"]) > token_budget:
            raise ValueError(f"an output's row has {len(sample['input_ids'])} tokens, token_budget is {token_budget}")
        if not rows or rows[-1].dialogue != sample["dialogue"] or not rows[-1].fits(sample, token_budget):
            rows.append(DialogueRow())
            rows[-1].dialogue = sample["dialogue"]
        rows[-1].add(sample)
    return rows
