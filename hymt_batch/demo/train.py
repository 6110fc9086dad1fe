"""Train the demo model from scratch and measure it: tokenizer, weights, checkpoint files, exact translations.

The model is a `HunYuanDenseV1ForCausalLM` with the 1.8B model's chat format, rope and prompts, at 1/2000 of its size.
It learns only the kinds of examples in `example`. All seeds are fixed, so two runs on one machine give the same bytes.
Another processor may round differently; a new run is therefore judged by its exact translations, not by a checksum.

A run that was stopped continues from its last save, with the same result: a save a minute, in `training.pt` beside the
model. This file does not know jobs, configuration or devices. It needs torch 2.9 or later, for Muon; measuring needs
only the requirements of the package.

Source: control tokens and template from the 1.8B checkpoint.
"""

import hashlib
import itertools
import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from hymt_batch.demo import example, grammar, terms
from hymt_batch.demo.example import Example

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

MODEL_DIR = Path(__file__).parent / "model"

BOS = "<｜hy_begin▁of▁sentence｜>"
EOS = "<｜hy_place▁holder▁no▁2｜>"
PAD = "<｜hy_▁pad▁｜>"
USER = "<｜hy_User｜>"
ASSISTANT = "<｜hy_Assistant｜>"
SYSTEM_END = "<｜hy_place▁holder▁no▁3｜>"
NO_GENERATION_PROMPT = "<｜hy_place▁holder▁no▁8｜>"
CONTROL_TOKENS = (BOS, EOS, PAD, USER, ASSISTANT, SYSTEM_END, NO_GENERATION_PROMPT)
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{{ '" + BOS + "' + system_message + '" + SYSTEM_END + "' }}"
    "{% else %}{% set loop_messages = messages %}{{ '" + BOS + "' }}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if message['role'] == 'user' %}{{ '" + USER + "' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '" + ASSISTANT + "' + message['content'] + '" + EOS + "' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% else %}{{ '" + NO_GENERATION_PROMPT + "' }}{% endif %}"
)

# share of rows with the Chinese prompt, which the model card asks for if one side is Chinese
CHINESE_PROMPT_SHARE = {"fr": 0.1, "de": 0.1, "zh": 0.8}

# share of rows per target; Chinese shares the fewest words with the other languages and is learned most slowly
TARGET_SHARE = {"fr": 0.3, "de": 0.3, "zh": 0.4}
KIND_SHARE = {"plain": 0.2, "codes": 0.32, "format": 0.1, "terms": 0.22, "context": 0.16}  # in the second stage

PLAIN_VOCAB_SIZE = 1393  # learned from bulletins alone, and kept as it was, so that they have the same tokens as before
VOCAB_SIZE = 1650
NUM_PLAIN_STEPS = 6_500  # first stage: plain bulletins, the longest one growing
NUM_STEPS = 11_500  # of both stages
NUM_THREADS = 2  # each computes the gradient of its own batch: they meet once a step
MAX_BATCH_TOKENS = 1024  # of a thread, including padding
POOL_ROWS = 512  # rows that are sorted by length, so that batches need little padding
WARMUP_STEPS = 200  # of each stage
DECAY_SHARE = 0.4  # of the steps of each stage, at its end
MUON_LR = 0.02  # matrices of the layers
ADAMW_LR = 3e-3  # embedding and norms
SECOND_STAGE_FACTOR = 0.6  # highest learning rate of the second stage, as a share of the first
MIN_LR_FACTOR = 0.005  # last learning rate as a share of the highest
SAVE_EVERY_S = 60
SAVED = "training.pt"

# in the first stage, the longest bulletin grows from MIN_CHARS to MAX_CHARS in CURRICULUM_STEPS steps, then no limit
MIN_CHARS, MAX_CHARS, CURRICULUM_STEPS = 50, 400, 2_000
MIN_EXACT_SHARE = 0.99
MAX_NEW_TOKENS = 256
SEED = 20260101
IGNORE_INDEX = -100  # label of a token without a loss; torch's default


@dataclass(frozen=True, slots=True)
class Exactness:
    """How many of `num_rows` held-out examples were translated exactly."""

    kind: str
    tgt_lang: str
    dtype: str
    num_exact: int
    num_rows: int

    @property
    def share(self) -> float:
        return self.num_exact / self.num_rows


def build(out: Path, *, num_steps: int = NUM_STEPS, start: Path | None = None) -> list[Exactness]:
    """Train the demo model into the folder `out`, or go on with it, and measure it there.

    Args:
        out: Folder of the model.
        num_steps: Steps of both stages.
        start: Folder of a model that has finished the first stage, or any earlier one; its weights are where the second
            stage begins.
    """
    import torch

    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # of an operation; this recipe has its own threads, whose sums have a fixed order
    out.mkdir(parents=True, exist_ok=True)
    if not (out / SAVED).exists():
        _write_tokenizer(out)
        _write_configs(out)
    _train(out, num_steps, start)
    (out / SAVED).unlink(missing_ok=True)
    write_checksums(out)
    return measure(out)


def measure(
    folder: Path,
    *,
    num_rows: int = 100,
    seed: int = 1,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    kinds: Sequence[str] = example.KINDS,
) -> list[Exactness]:
    """Translate held-out examples greedily in left-padded batches and compare them with the right answers."""
    results = []
    for dtype, kind in itertools.product(dtypes, kinds):
        examples = example.sample(kind, seed, num_rows)
        for tgt_lang in examples[0].targets:
            outputs = answer(folder, [row.prompt(tgt_lang) for row in examples], dtype=dtype)
            num_exact = sum(output == row.answer(tgt_lang) for output, row in zip(outputs, examples, strict=True))
            results.append(Exactness(kind, tgt_lang, dtype, num_exact, num_rows))
    return results


def translate(
    folder: Path,
    texts: Sequence[str],
    tgt_lang: str,
    *,
    dtype: str = "float32",
    batch_size: int = 50,
    in_chinese: bool | None = None,
) -> list[str]:
    """Translate texts under the card's plain prompt; see `answer`."""
    prompts = [example.prompt(text, tgt_lang, in_chinese=in_chinese) for text in texts]
    return answer(folder, prompts, dtype=dtype, batch_size=batch_size)


def answer(folder: Path, prompts: Sequence[str], *, dtype: str = "float32", batch_size: int = 50) -> list[str]:
    """Answer prompts greedily on the CPU with transformers alone; the reference for other implementations."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.generation_config = greedy
    turns = [_render(tokenizer, prompt) for prompt in prompts]
    outputs: list[str] = []
    for start in range(0, len(turns), batch_size):
        rows = tokenizer(
            turns[start : start + batch_size],
            add_special_tokens=False,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        with torch.inference_mode():
            tokens = model.generate(**rows, generation_config=greedy)
        translations = tokens[:, rows["input_ids"].shape[1] :]
        outputs += tokenizer.batch_decode(translations, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return outputs


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS, which lists every other file of the folder in the format of `sha256sum`."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in ("SHA256SUMS", SAVED))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8", newline="\n")


def _render(tokenizer: Any, user: str) -> str:
    messages = [{"role": "user", "content": user}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _write_tokenizer(out: Path) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # splits a number into groups of thousands, without the space before it: equal tokens in all languages
            pre_tokenizers.Split(Regex(r"\d{1,3}(?=(?:\d{3})*(?!\d))"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PLAIN_VOCAB_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_plain_texts(), trainer)
    content = json.loads(tokenizer.to_str())
    for first, second in _further_merges(tokenizer):
        content["model"]["vocab"][first + second] = len(content["model"]["vocab"])
        content["model"]["merges"].append([first, second])
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS])
    tokenizer.save(str(out / "tokenizer.json"))


def _plain_texts() -> Iterator[str]:
    rng = Random(SEED)
    bulletins = grammar.stream(SEED, held_out=False)
    for _ in range(10_000):
        bulletin = next(bulletins)
        tgt_lang = grammar.TARGETS[int(rng.random() * 3)]
        yield example.prompt(bulletin.en, tgt_lang, in_chinese=rng.random() < CHINESE_PROMPT_SHARE[tgt_lang])
        yield grammar.reference(bulletin, tgt_lang)
    # makes each of these numbers one token, so that the model copies it as a whole
    for num in [*range(10, 100), *range(100, 135, 5), *range(150, 950, 50)]:
        yield " ".join([str(num)] * 2000)


def _further_merges(tokenizer: Any) -> list[tuple[str, str]]:
    """Return the merges that shorten the other kinds of examples, and leave the tokens of bulletins as they are."""

    def words_of(texts: Iterator[str]) -> Counter[tuple[str, ...]]:
        words: Counter[str] = Counter()
        for text in texts:
            words.update(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
        return Counter({tuple(t.value for t in tokenizer.model.tokenize(word)): num for word, num in words.items()})

    taken = {pair for word in words_of(_plain_texts()) for pair in itertools.pairwise(word)}
    words = words_of(
        text
        for row, tgt_lang, in_chinese in itertools.islice(_rows(SEED, KIND_SHARE), 12_000)
        if row.kind != "plain"
        for text in (row.prompt(tgt_lang, in_chinese=in_chinese), row.answer(tgt_lang))
    )
    words.update({tuple(_byte_characters(sound)): 2000 for sound in terms.SOUNDS})  # one token each
    vocabulary, merges = set(tokenizer.get_vocab()), []
    while len(merges) < VOCAB_SIZE - PLAIN_VOCAB_SIZE - len(CONTROL_TOKENS):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, num in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += num
        best = max((p for p in pairs if p not in taken and "".join(p) not in vocabulary), key=lambda p: (pairs[p], p))
        merges.append(best)
        words = Counter({_merged(word, best): num for word, num in words.items()})
    return merges


def _byte_characters(text: str) -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    ((characters, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return list(characters)


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    if pair[0] not in word:
        return word
    merged: list[str] = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return tuple(merged)


def _rows(seed: int, kind_share: Mapping[str, float]) -> Iterator[tuple[Example, str, bool]]:
    """Yield an endless stream of examples to learn, with the target language and whether the prompt is Chinese."""
    rng = Random(seed)
    streams = {kind: example.stream(kind, seed + index + 1, held_out=False) for index, kind in enumerate(kind_share)}
    while True:
        (kind,) = rng.choices(tuple(kind_share), tuple(kind_share.values()))
        (tgt_lang,) = rng.choices(tuple(TARGET_SHARE), tuple(TARGET_SHARE.values()))
        row = next(streams[kind])
        tgt_lang = tgt_lang if tgt_lang in row.targets else row.targets[0]
        yield row, tgt_lang, rng.random() < CHINESE_PROMPT_SHARE[tgt_lang]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")


def _write_configs(out: Path) -> None:
    """Write the config files of a checkpoint in the format of transformers 4.56, which 5.x reads too."""
    ids = _control_token_ids()
    token_ids = {"bos_token_id": ids[BOS], "eos_token_id": ids[EOS], "pad_token_id": ids[PAD]}
    _write_json(
        out / "config.json",
        {
            "architectures": ["HunYuanDenseV1ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            **token_ids,
            "head_dim": 32,
            "hidden_act": "silu",
            "hidden_size": 128,
            "initializer_range": 0.02,
            "intermediate_size": 352,
            "max_position_embeddings": 262144,
            "model_type": "hunyuan_v1_dense",
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "alpha": 1000.0,
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "type": "dynamic",
            },
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.56.0",
            "use_cache": True,
            "vocab_size": VOCAB_SIZE,
        },
    )
    _write_json(
        out / "generation_config.json",
        {
            **token_ids,
            "do_sample": True,
            "repetition_penalty": 1.05,
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.6,
            "transformers_version": "4.56.0",
        },
    )
    _write_tokenizer_configs(out, ids)


def _control_token_ids() -> dict[str, int]:
    first_id = VOCAB_SIZE - len(CONTROL_TOKENS)
    return {token: first_id + index for index, token in enumerate(CONTROL_TOKENS)}


def _write_tokenizer_configs(out: Path, ids: Mapping[str, int]) -> None:
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    other_tokens = [token for token in CONTROL_TOKENS if token not in special.values()]
    _write_json(out / "special_tokens_map.json", {"additional_special_tokens": other_tokens, **special})
    _write_json(
        out / "tokenizer_config.json",
        {
            "added_tokens_decoder": {
                str(index): {
                    "content": token,
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
                for token, index in ids.items()
            },
            "additional_special_tokens": other_tokens,
            **special,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1000000000000000019884624838656,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def _train(out: Path, num_steps: int, start: Path | None) -> None:
    import torch
    from safetensors.torch import save
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(out), dtype=torch.float32).train()
    log.info("train parameters=%d steps=%d", model.num_parameters(), num_steps)
    _fuse_norms(model)
    training = _Training(model, AutoTokenizer.from_pretrained(out), num_steps)
    if (out / SAVED).exists():
        training.load(out / SAVED)
        log.info("train continues step=%d", training.step)
    elif start:
        _copy_weights(model, out, start)
        training.step = NUM_PLAIN_STEPS
    training.run(out / SAVED)
    # lm_head is tied to the embedding and therefore not stored
    weights = {
        name: weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"
    }
    # not save_file, whose file other users cannot read
    (out / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))


def _fuse_norms(model: Any) -> None:
    """Make each RMSNorm one function with a gradient of its own, which takes a fifth less time of a step."""
    import torch

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, epsilon: float) -> Any:
            scale = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1] + epsilon)
            normed = x * scale
            ctx.save_for_backward(normed, scale, weight)
            return normed * weight

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            normed, scale, weight = ctx.saved_tensors
            (gradient,) = gradients
            product = gradient * normed
            mean = (product @ weight).unsqueeze(-1) / weight.shape[0]
            of_weight = product.reshape(-1, weight.shape[0]).sum(0)
            return (gradient * weight).sub_(normed * mean).mul_(scale), of_weight, None

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = lambda x, module=module: Norm.apply(x, module.weight, module.variance_epsilon)


def _copy_weights(model: Any, folder: Path, start: Path) -> None:
    """Copy the weights of another model; a row of the embedding goes to the token with the same text."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    weights = load_file(start / "model.safetensors")
    embedding = weights.pop("model.embed_tokens.weight")
    vocabularies = [Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab() for path in (start, folder)]
    rows = [(ids, vocabularies[1][token]) for token, ids in vocabularies[0].items() if token in vocabularies[1]]
    old_ids, new_ids = zip(*rows, strict=True)
    model.load_state_dict(weights, strict=False)
    model.model.embed_tokens.weight.data[list(new_ids)] = embedding[list(old_ids)].float()


class _Training:
    """The state of a training run: weights, optimizers, and the next step and pool of rows."""

    def __init__(self, model: Any, tokenizer: Any, num_steps: int) -> None:
        import torch

        self.model, self.tokenizer, self.num_steps = model, tokenizer, num_steps
        self.step = self.pool = 0
        self.cpu_s = 0.0  # of the runs before this one
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
        saved_at, losses = time.monotonic(), [0.0]
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
        results = list(threads.map(lambda batch: self._gradients(*batch, num_labels), batches))
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

        hidden = self.model.model(input_ids=input_ids, use_cache=False).last_hidden_state
        in_answer = labels != IGNORE_INDEX
        logits = self.model.lm_head(hidden[in_answer])
        loss = functional.cross_entropy(logits, labels[in_answer], reduction="sum") / num_labels
        return loss.item(), torch.autograd.grad(loss, self.parameters)

    def _lr_factor(self) -> float:
        """Return the learning rate as a share of the highest: in each stage it rises, stays, and falls."""
        first, last, factor = 0, NUM_PLAIN_STEPS, 1.0
        if self.step >= NUM_PLAIN_STEPS:
            first, last, factor = NUM_PLAIN_STEPS, self.num_steps, SECOND_STAGE_FACTOR
        rise = (self.step - first + 1) / WARMUP_STEPS
        fall = (last - self.step) / max(1.0, DECAY_SHARE * (last - first))
        return factor * max(MIN_LR_FACTOR, min(1.0, rise, fall))

    def _batches(self, pool: int, step: int) -> "list[tuple[Tensor, Tensor]]":
        """Return the batches of a pool of rows, short texts first in the first steps.

        Returns:
            input_ids [B, T] int64, padded on the right, and labels [B, T] int64: the next token if it belongs to the
            answer, else IGNORE_INDEX; in random order.
        """
        is_plain = step < NUM_PLAIN_STEPS
        max_chars: float = math.inf
        if step < CURRICULUM_STEPS:
            max_chars = MIN_CHARS + (MAX_CHARS - MIN_CHARS) * step / CURRICULUM_STEPS
        prompts: list[str] = []
        answers: list[str] = []
        kind_share = {"plain": 1.0} if is_plain else KIND_SHARE
        for row, tgt_lang, in_chinese in _rows(SEED + 100 * (pool + 1), kind_share):
            if len(row.text.en) <= max_chars:
                prompts.append(_render(self.tokenizer, row.prompt(tgt_lang, in_chinese=in_chinese)))
                answers.append(row.answer(tgt_lang) + EOS)
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
