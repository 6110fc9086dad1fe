"""Train the demo model and measure it: tokenizer, weights, checkpoint files, exact translations.

The model is a `HunYuanDenseV1ForCausalLM` with the 1.8B model's chat format, rope and prompts, at 1/1600 of its size.
It learns only the kinds of examples in `example`. All seeds are fixed, so two runs on one machine give the same bytes.
Another processor may round differently; a new run is therefore judged by its exact translations, not by a checksum.

A run that was stopped continues from its last save, with the same result: a save a minute, in `training.pt` beside the
model. This file does not know jobs, configuration or devices. It needs torch 2.9 or later, for Muon; measuring needs
only the requirements of the package.
"""

import itertools
import logging
import math
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from hymt_batch.demo import checkpoint, curriculum, example, grammar, lexicon, measure, network, vocabulary
from hymt_batch.demo.curriculum import NUM_STEPS
from hymt_batch.demo.measure import Exactness, render

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Row = tuple[list[int], list[int], list[float]]  # tokens of the prompt, of the answer, and their weights
Batch = tuple["Tensor", "Tensor", "Tensor"]

NUM_THREADS = 2  # each computes the gradient of its own batch: they meet once a step
POOL_ROWS = 512  # rows that are sorted by length, so that batches need little padding
WARMUP_STEPS = 60
DECAY_SHARE = 0.82  # of the steps, at the end
MUON_LR = 0.02  # matrices of the layers
ADAMW_LR = 3e-3  # embedding and norms
MIN_LR_FACTOR = 0.005  # last learning rate as a share of the highest
SAVE_EVERY_S = 60
SAVED = "training.pt"

# the longest bulletin grows from MIN_CHARS to MAX_CHARS in CURRICULUM_STEPS steps, then no limit
MIN_CHARS, MAX_CHARS, CURRICULUM_STEPS = 50, 400, 2_000
SEED = 20260101
IGNORE_INDEX = -100  # label of a token without a loss; torch's default


def build(out: Path, *, num_steps: int = NUM_STEPS) -> list[Exactness]:
    """Train the demo model into the folder `out`, or go on with it, and measure it there."""
    import torch

    torch.use_deterministic_algorithms(True)
    # nothing reads such memory, and filling it takes time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_flush_denormal(True)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # of an operation; this recipe has its own threads, whose sums have a fixed order
    out.mkdir(parents=True, exist_ok=True)
    if not (out / SAVED).exists():
        vocabulary.write_tokenizer(out, SEED)
        checkpoint.write_configs(out)
    _train(out, num_steps)
    (out / SAVED).unlink(missing_ok=True)
    checkpoint.write_checksums(out)
    return measure.measure(out)


def _train(out: Path, num_steps: int) -> None:
    import torch
    from safetensors.torch import save
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(out), dtype=torch.float32).train()
    log.info("train parameters=%d steps=%d", model.num_parameters(), num_steps)
    network.fuse_norms(model)
    network.answer_only(model)
    tokenizer = AutoTokenizer.from_pretrained(out)
    training = Training(model, tokenizer, num_steps)
    if (out / SAVED).exists():
        training.load(out / SAVED)
        log.info("train continues step=%d", training.step)
    else:
        vectors = model.model.embed_tokens.weight
        vectors.data = lexicon.embedding(tokenizer, _translations(), vectors.shape[1])
    training.run(out / SAVED)
    # lm_head is tied to the embedding and therefore not stored
    weights = {
        name: weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"
    }
    # not save_file, whose file other users cannot read
    (out / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))


def _translations() -> list[tuple[str, str]]:
    return [
        (row.text.en, row.text.in_language(tgt_lang))
        for kind in ("plain", "context")
        for row in itertools.islice(example.stream(kind, SEED, held_out=False), 3_000)
        for tgt_lang in row.targets
    ]


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

    def _train_step(self, batches: "Sequence[Batch]", threads: ThreadPoolExecutor) -> float:
        """Take a step with the gradients of a batch for each thread, and return its loss."""
        import torch

        sum_of_weights = sum(float(weights.sum()) for _, _, weights in batches)
        results = list(threads.map(lambda batch: self._gradients(batch, sum_of_weights), batches))
        for parameter, *gradients in zip(self.parameters, *(result[1] for result in results), strict=True):
            parameter.grad = sum(gradients[1:], gradients[0])
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, max_lr in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = max_lr * self._lr_factor()
        list(threads.map(lambda pair: pair[0].step(), self.optimizers))
        return sum(result[0] for result in results)

    def _gradients(self, batch: "Batch", sum_of_weights: float) -> "tuple[float, Sequence[Tensor]]":
        import torch

        input_ids, labels, weights = batch
        in_answer = labels != IGNORE_INDEX
        hidden = self.model.model(input_ids=input_ids, use_cache=False, in_answer=in_answer).last_hidden_state
        loss = network.answer_loss(
            hidden, self.model.lm_head.weight, labels[in_answer], weights[in_answer] / sum_of_weights
        )
        return loss.item(), torch.autograd.grad(loss, self.parameters)

    def _lr_factor(self) -> float:
        """Return the learning rate as a share of the highest: it rises, stays, and falls."""
        rise = (self.step + 1) / WARMUP_STEPS
        fall = (self.num_steps - self.step) / max(1.0, DECAY_SHARE * self.num_steps)
        return max(MIN_LR_FACTOR, min(1.0, rise, fall))

    def _batches(self, pool: int, step: int) -> "list[Batch]":
        """Return the batches of a pool of rows, short texts first in the first steps.

        Returns:
            input_ids [B, T] int64, padded on the right, and labels [B, T] int64: the next token if it belongs to the
            answer, else IGNORE_INDEX, and weights [B, T] float32 of the loss; in random order.
        """
        stage = curriculum.stage_of(step)
        max_chars: float = math.inf
        if step < CURRICULUM_STEPS:
            max_chars = MIN_CHARS + (MAX_CHARS - MIN_CHARS) * step / CURRICULUM_STEPS
        prompts: list[str] = []
        answers: list[str] = []
        names: list[list[str]] = []  # the translations of each row's terms, and of places that could be ones
        for row, tgt_lang, in_chinese in curriculum.rows(SEED + 100 * (pool + 1), stage):
            if len(row.text.en) <= max_chars:
                prompts.append(row.prompt(tgt_lang, in_chinese=in_chinese).join(self.turn))
                answers.append(row.answer(tgt_lang) + checkpoint.EOS)
                names.append([str(getattr(name, tgt_lang)) for name in (*row.terms, *grammar.CITIES) if row.terms])
            if len(prompts) == POOL_ROWS:
                break
        prompt_ids = self.tokenizer(prompts, add_special_tokens=False)["input_ids"]
        encoded = self.tokenizer(answers, add_special_tokens=False, return_offsets_mapping=True)
        answer_weights = [
            _weights(answer, places, offsets, stage.name_weight)
            for answer, places, offsets in zip(answers, names, encoded["offset_mapping"], strict=True)
        ]
        rows = sorted(
            zip(prompt_ids, encoded["input_ids"], answer_weights, strict=True),
            key=lambda row: len(row[0]) + len(row[1]),
        )
        batches: list[list[Row]] = [[]]
        for ids in rows:
            if batches[-1] and (len(batches[-1]) + 1) * (len(ids[0]) + len(ids[1])) > stage.max_batch_tokens:
                batches.append([])
            batches[-1].append(ids)
        rng = Random(SEED + pool)
        return [self._tensors(batches.pop(int(rng.random() * len(batches)))) for _ in range(len(batches))]

    def _tensors(self, rows: "list[Row]") -> "Batch":
        import torch

        width = max(len(head) + len(tail) for head, tail, _ in rows)
        input_ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), IGNORE_INDEX)
        weights = torch.zeros(len(rows), width)
        for index, (head, tail, tail_weights) in enumerate(rows):
            end = len(head) + len(tail)
            input_ids[index, :end] = torch.tensor(head + tail)
            labels[index, len(head) - 1 : end - 1] = torch.tensor(tail)
            weights[index, len(head) - 1 : end - 1] = torch.tensor(tail_weights)
        return input_ids, labels, weights


def _weights(answer: str, names: Sequence[str], offsets: Sequence[tuple[int, int]], name_weight: float) -> list[float]:
    """Return the weight of the loss of each token of an answer: that of a name is `name_weight`."""
    spans = [found.span() for found in re.finditer("|".join(map(re.escape, names)), answer) if names]
    return [
        name_weight if any(start < last and end > first for first, last in spans) else 1.0 for start, end in offsets
    ]
