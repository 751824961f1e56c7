"""What a training run works with: its folders, base model and dialogues."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from proactor_lib import models
from proactor_lib.artf.serving.placement import on_gpu
from proactor_lib.artf.training.episodes import DialogueSampler, Episode
from proactor_lib.artf.training.tokens import DialogueTokens, dialogue_tokens, reference_tokens
from proactor_lib.params import Params
from proactor_lib.run_folder import RunFolder


@dataclass(frozen=True)
class Job:
    """What a training run works with."""

    run: RunFolder

    @property
    def params(self) -> Params:
        return self.run.params

    @property
    def folder(self) -> Path:
        return self.run.training

    @property
    def sft_adapter(self) -> Path:
        """Where the warm start leaves its adapter."""
        return self.folder / "sft"

    @property
    def equal_time_adapter(self) -> Path:
        """Where SFT for as long leaves its own."""
        return self.folder / "sft_equal_time"

    @property
    def adapter(self) -> Path:
        """Where the trained policy's adapter ends up."""
        return self.folder / "adapter"

    @cached_property
    def base(self) -> str:
        """The base model's folder."""
        return models.resolve(self.params.model)

    @cached_property
    def served(self) -> str:
        """The weights that servers hold: the trainer's 4-bit ones, dequantised unless `serve_weights` is nf4."""
        return models.served_weights(self.base, self.params.quantization, self.params.serve_weights)

    def trainer_base(self) -> models.TrainerBase:
        """Make what its trainer loads the base from, where it is not there yet."""
        from proactor_lib.artf.training.sft import trainer_base

        return trainer_base(self.base, self.params)

    @property
    def server_dtype(self) -> str:
        """The type of numbers that servers compute with."""
        return models.dtype_name(self.params.server_dtype, on_gpu(self.params.device))

    @cached_property
    def tokenizer(self):
        return models.load_tokenizer(self.base)

    @cached_property
    def dialogue_tokens(self) -> Callable[[Episode], DialogueTokens]:
        """A visit's prompts as tokens; the same dialogue is tokenised once. (Splits may share ids: SGD's do.)"""
        made: dict[tuple, DialogueTokens] = {}

        def of(visit: Episode) -> DialogueTokens:
            if (key := (visit.dialogue.id, visit.dialogue.turns)) not in made:
                made[key] = dialogue_tokens(self.tokenizer, visit, self.params.chat_template_args)
            return made[key]

        return of

    def reference_tokens(self, visit: Episode, turn: int) -> list[int]:
        """What the visit's references say at `turn`, as an output's tokens, and no more than an output may have."""
        return reference_tokens(self.tokenizer, visit.references, turn)[: self.params.max_completion_tokens]

    def cut_references(self) -> tuple[float, int]:
        """The share of train's turns with a reference whose right output is longer than one may be; the longest, in
        tokens."""
        lengths = [
            len(reference_tokens(self.tokenizer, case.references, turn))
            for case in self.run.split("train") for turn in range(1, len(case.dialogue.turns) + 1)
            if any(r.window.covers(turn) for r in case.references)
        ]  # fmt: skip
        cut = sum(length > self.params.max_completion_tokens for length in lengths)
        return cut / max(len(lengths), 1), max(lengths, default=0)

    def visits(self, turns_per_dialogue: int | None, split: str = "train", first: int = 0) -> DialogueSampler:
        """A split's visits; for `turns_per_dialogue` and `first` see there."""
        p = self.params
        return DialogueSampler(self.run.split(split), turns_per_dialogue, p.seed, p.open_share, first)


def adapters_served(params: Params) -> bool:
    """Whether servers hold policies as adapters; else merged into their weights."""
    return params.policy_sync == "adapter" or (params.policy_sync == "auto" and on_gpu(params.device))
