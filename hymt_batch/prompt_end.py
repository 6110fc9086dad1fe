"""How every prompt of a job ends, for the reports of `plan` and `doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from hymt_batch.prompt import GenerationPrompt, PromptConfig


@dataclass(frozen=True, slots=True)
class PromptEnd:
    """How every prompt ends, for reports: its last token and the reason."""

    token: str  # "" if unknown
    id: int | None  # None if unknown
    added: bool  # True if the generation prompt is added
    by: str  # what decided `added`: a setting or the model card

    def __str__(self) -> str:
        last = "not known without the model's files" if self.id is None else f"{self.token} (id {self.id})"
        return f"{last}: {'with' if self.added else 'without'} the generation prompt, {self.by}"


def describe_end(config: PromptConfig, card_default: bool, last_token: tuple[str, int] | None) -> PromptEnd:
    """Describe how prompts end.

    Args:
        config: The prompt settings.
        card_default: True if the model card adds the generation prompt.
        last_token: Text and id of the last token; None if unknown.
    """
    added = config.adds_generation_prompt(card_default)
    if config.add_generation_prompt is GenerationPrompt.auto:
        by = "as in the model card"
    else:
        agrees = "like" if added is card_default else "unlike"
        by = f"set by prompt.add_generation_prompt={config.add_generation_prompt.value}, {agrees} the model card"
    token, id = last_token or ("", None)
    return PromptEnd(token, id, added, by)
