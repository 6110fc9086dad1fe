"""Train the demo model and measure it: tokenizer, weights, checkpoint files, exact translations.

The model is a `HunYuanDenseV1ForCausalLM` with the 1.8B model's chat format, rope and prompts, at 1/2000 of its size.
It learns only the kinds of examples in `example`. All seeds are fixed, so two runs on one machine give the same bytes.
Another processor may round differently; a new run is therefore judged by its exact translations, not by a checksum.

A run that was stopped continues from its last save, with the same result: a save a minute, in `training.pt` beside the
model. This file does not know jobs, configuration or devices. It needs torch 2.9 or later, for Muon; measuring needs
only the requirements of the package.

The weights in the package began with those of the first demo model, which knew plain bulletins alone, in place of the
first stage; each later stage was a run of its own (`--from`, `--stage`).
"""

import itertools
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from hymt_batch.demo import checkpoint, curriculum, example, grammar, invented, measure, network, terms
from hymt_batch.demo.curriculum import CHINESE_PROMPT_SHARE, NUM_STEPS, stage_of
from hymt_batch.demo.measure import Exactness, render

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

NUMBERS = [str(number) for number in (*range(10, 100), *range(100, 135, 5), *range(150, 950, 50))]
NUM_THREADS = 2  # each computes the gradient of its own batch: they meet once a step
MAX_BATCH_TOKENS = 1024  # of a thread, including padding
POOL_ROWS = 512  # rows that are sorted by length, so that batches need little padding
WARMUP_STEPS = 200  # of each stage
DECAY_SHARE = 0.7  # of the steps of each stage, at its end
MUON_LR = 0.02  # matrices of the layers
ADAMW_LR = 3e-3  # embedding and norms
MIN_LR_FACTOR = 0.005  # last learning rate as a share of the highest
SAVE_EVERY_S = 60
SAVED = "training.pt"

# in the first stage, the longest bulletin grows from MIN_CHARS to MAX_CHARS in CURRICULUM_STEPS steps, then no limit
MIN_CHARS, MAX_CHARS, CURRICULUM_STEPS = 50, 400, 2_000
SEED = 20260101
IGNORE_INDEX = -100  # label of a token without a loss; torch's default


def build(out: Path, *, num_steps: int = NUM_STEPS, start: Path | None = None, stage: int = 2) -> list[Exactness]:
    """Train the demo model into the folder `out`, or go on with it, and measure it there.

    Args:
        out: Folder of the model.
        num_steps: Steps of all stages.
        start: Folder of a model that has finished the stage before `stage`; its weights are where `stage` begins.
        stage: The stage that begins with the weights of `start`, from 2.
    """
    import torch

    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # of an operation; this recipe has its own threads, whose sums have a fixed order
    out.mkdir(parents=True, exist_ok=True)
    if not (out / SAVED).exists():
        checkpoint.write_tokenizer(out, list(_plain_texts()), NUMBERS, _other_texts(), _words())
        checkpoint.write_configs(out)
    _train(out, num_steps, start, stage)
    (out / SAVED).unlink(missing_ok=True)
    checkpoint.write_checksums(out)
    return measure.measure(out)


def _plain_texts() -> Iterator[str]:
    rng = Random(SEED)
    bulletins = grammar.stream(SEED, held_out=False)
    for _ in range(10_000):
        bulletin = next(bulletins)
        tgt_lang = grammar.TARGETS[int(rng.random() * 3)]
        yield example.prompt(bulletin.en, tgt_lang, in_chinese=rng.random() < CHINESE_PROMPT_SHARE[tgt_lang])
        yield grammar.reference(bulletin, tgt_lang)


def _words() -> list[str]:
    """Return the words and marks that become one token each."""
    return [*terms.SOUNDS, *invented.NAMES, *invented.WORDS, *invented.SIMPLE_TAGS, *invented.MARKS]


def _other_texts() -> Iterator[str]:
    for row, tgt_lang, in_chinese in itertools.islice(curriculum.rows(SEED, curriculum.STAGES[1]), 5_000):
        if row.kind != "plain":
            yield row.prompt(tgt_lang, in_chinese=in_chinese)
            yield row.answer(tgt_lang)


def _train(out: Path, num_steps: int, start: Path | None, stage: int) -> None:
    import torch
    from safetensors.torch import save
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(out), dtype=torch.float32).train()
    log.info("train parameters=%d steps=%d", model.num_parameters(), num_steps)
    network.fuse_norms(model)
    network.answer_only(model)
    training = Training(model, AutoTokenizer.from_pretrained(out), num_steps)
    if (out / SAVED).exists():
        training.load(out / SAVED)
        log.info("train continues step=%d", training.step)
    elif start:
        network.copy_weights(model, out, start)
        training.step = sum(earlier.num_steps for earlier in curriculum.STAGES[: stage - 1])
    training.run(out / SAVED)
    # lm_head is tied to the embedding and therefore not stored
    weights = {
        name: weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"
    }
    # not save_file, whose file other users cannot read
    (out / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))


class Training:
    """The state of a training run: weights, optimizers, and the next step and pool of rows."""

    def __init__(self, model: Any, tokenizer: Any, num_steps: int) -> None:
        import torch

        self.model, self.tokenizer, self.num_steps = model, tokenizer, num_steps
        self.step = self.pool = 0
        self.cpu_s = 0.0  # of the runs before this one
        self.turn = render(tokenizer, "@").split("@")  # what stands before and after a prompt
        self.parameters = list(model.parameters())
        matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
        others = [p for p in model.model.layers.parameters() if p.ndim != 2]
        others += [model.model.embed_tokens.weight, model.model.norm.weight]
        # reaches a lower loss than AdamW alone in the same number of steps; one for each thread
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Muon(matrices[thread::NUM_THREADS], weight_decay=0.01), MUON_LR)
            for thread in range(NUM_THREADS)
        ]
        self.optimizers.append((torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.98)), ADAMW_LR))

    def save(self, path: Path) -> None:
        import torch

        temporary = path.with_suffix(".tmp")
        torch.save(
            {
                "step": self.step,
                "pool": self.pool,
                "cpu_s": self.cpu_s + time.process_time(),
                "model": self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            },
            temporary,
        )
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        import torch

        saved = torch.load(path, weights_only=True)
        self.step, self.pool, self.cpu_s = saved["step"], saved["pool"], saved["cpu_s"]
        self.model.load_state_dict(saved["model"])
        for (optimizer, _), state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)

    def run(self, path: Path) -> None:
        """Train to the last step, with a save every minute."""
        saved_at = time.monotonic()
        losses: list[float] = []
        with ThreadPoolExecutor(NUM_THREADS) as threads, ThreadPoolExecutor(1) as reader:
            upcoming = reader.submit(self._batches, self.pool, self.step)
            while self.step < self.num_steps:
                batches = upcoming.result()
                steps = list(zip(*[iter(batches)] * NUM_THREADS, strict=False))
                self.pool += 1
                # the length of its rows follows from the step before it, so that a run can go on from any pool
                upcoming = reader.submit(self._batches, self.pool, self.step + len(steps))
                for step_batches in steps[: self.num_steps - self.step]:
                    losses.append(self._train_step(step_batches, threads))
                    self.step += 1
                    if self.step % 100 == 0 or self.step == self.num_steps:
                        mean, cpu_s = sum(losses) / len(losses), self.cpu_s + time.process_time()
                        log.info("train step=%d loss=%.5f processor_s=%.0f", self.step, mean, cpu_s)
                        losses.clear()
                if time.monotonic() - saved_at > SAVE_EVERY_S:
                    self.save(path)
                    saved_at = time.monotonic()

    def _train_step(self, batches: "Sequence[tuple[Tensor, Tensor]]", threads: ThreadPoolExecutor) -> float:
        """Take a step with the gradients of a batch for each thread, and return its loss."""
        import torch

        num_labels = sum(int((labels != IGNORE_INDEX).sum()) for _, labels in batches)
        results = list(threads.map(lambda batch: self._gradients(batch[0], batch[1], num_labels), batches))
        for parameter, *gradients in zip(self.parameters, *(result[1] for result in results), strict=True):
            parameter.grad = sum(gradients[1:], gradients[0])
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, max_lr in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = max_lr * self._lr_factor()
        list(threads.map(lambda pair: pair[0].step(), self.optimizers))
        return sum(result[0] for result in results)

    def _gradients(self, input_ids: "Tensor", labels: "Tensor", num_labels: int) -> "tuple[float, Sequence[Tensor]]":
        import torch
        from torch.nn import functional

        in_answer = labels != IGNORE_INDEX
        hidden = self.model.model(input_ids=input_ids, use_cache=False, in_answer=in_answer).last_hidden_state
        logits = self.model.lm_head(hidden)
        loss = functional.cross_entropy(logits, labels[in_answer], reduction="sum") / num_labels
        return loss.item(), torch.autograd.grad(loss, self.parameters)

    def _lr_factor(self) -> float:
        """Return the learning rate as a share of the highest: in each stage it rises, stays, and falls."""
        index, first = stage_of(self.step)
        last = (
            self.num_steps
            if index == len(curriculum.STAGES) - 1
            else min(self.num_steps, first + curriculum.STAGES[index].num_steps)
        )
        rise = (self.step - first + 1) / WARMUP_STEPS
        fall = (last - self.step) / max(1.0, DECAY_SHARE * (last - first))
        return curriculum.STAGES[index].lr_factor * max(MIN_LR_FACTOR, min(1.0, rise, fall))

    def _batches(self, pool: int, step: int) -> "list[tuple[Tensor, Tensor]]":
        """Return the batches of a pool of rows, short texts first in the first steps.

        Returns:
            input_ids [B, T] int64, padded on the right, and labels [B, T] int64: the next token if it belongs to the
            answer, else IGNORE_INDEX; in random order.
        """
        index, first = stage_of(step)
        max_chars: float = math.inf
        if step < CURRICULUM_STEPS:
            max_chars = MIN_CHARS + (MAX_CHARS - MIN_CHARS) * step / CURRICULUM_STEPS
        prompts: list[str] = []
        answers: list[str] = []
        is_new = step < first + curriculum.STAGES[index].num_new_word_steps
        for row, tgt_lang, in_chinese in curriculum.rows(
            SEED + 100 * (pool + 1), curriculum.STAGES[index], is_new=is_new
        ):
            if len(row.text.en) <= max_chars:
                prompts.append(row.prompt(tgt_lang, in_chinese=in_chinese).join(self.turn))
                answers.append(row.answer(tgt_lang) + checkpoint.EOS)
            if len(prompts) == POOL_ROWS:
                break
        prompt_ids = self.tokenizer(prompts, add_special_tokens=False)["input_ids"]
        answer_ids = self.tokenizer(answers, add_special_tokens=False)["input_ids"]
        rows = sorted(zip(prompt_ids, answer_ids, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        batches: list[list[tuple[list[int], list[int]]]] = [[]]
        for ids in rows:
            if batches[-1] and (len(batches[-1]) + 1) * (len(ids[0]) + len(ids[1])) > MAX_BATCH_TOKENS:
                batches.append([])
            batches[-1].append(ids)
        rng = Random(SEED + pool)
        return [self._tensors(batches.pop(int(rng.random() * len(batches)))) for _ in range(len(batches))]

    def _tensors(self, rows: "list[tuple[list[int], list[int]]]") -> "tuple[Tensor, Tensor]":
        import torch

        width = max(len(head) + len(tail) for head, tail in rows)
        input_ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), IGNORE_INDEX)
        for index, (head, tail) in enumerate(rows):
            end = len(head) + len(tail)
            input_ids[index, :end] = torch.tensor(head + tail)
            labels[index, len(head) - 1 : end - 1] = torch.tensor(tail)
        return input_ids, labels
