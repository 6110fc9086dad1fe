"""Train the demo model from scratch and measure it: tokenizer, weights, checkpoint files, exact translations.

The model is a `HunYuanDenseV1ForCausalLM` with the 1.8B model's chat format, rope and prompts, at 1/2000 of its size.
It learns only the bulletins of `grammar`. All seeds are fixed, so two runs on one machine give the same bytes. Another
processor may round differently; a new run is therefore judged by its exact translations, not by a checksum.

This file does not know jobs, configuration or devices. Training takes about 18 minutes on two idle CPU cores. It needs
torch 2.9 or later, for Muon; measuring needs only the requirements of the package.

Source: prompts from Tencent-Hunyuan/HY-MT (README at 3b33173), control tokens and template from the 1.8B checkpoint.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from hymt_batch.demo import grammar

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

ENGLISH_PROMPT = "Translate the following segment into {}, without additional explanation.\n\n{}"
CHINESE_PROMPT = "将以下文本翻译为{}，注意只需要输出翻译后的结果，不要额外解释：\n\n{}"
ENGLISH_NAMES = {"fr": "French", "de": "German", "zh": "Chinese"}
CHINESE_NAMES = {"fr": "法语", "de": "德语", "zh": "中文"}
# share of rows with the Chinese prompt, which the model card asks for if one side is Chinese
CHINESE_PROMPT_SHARE = {"fr": 0.1, "de": 0.1, "zh": 0.8}

# share of rows per target; Chinese shares the fewest words with the other languages and is learned most slowly
TARGET_SHARE = {"fr": 0.3, "de": 0.3, "zh": 0.4}

VOCAB_SIZE = 1400
NUM_STEPS = 9_000
MAX_BATCH_TOKENS = 1536  # including padding
WARMUP_STEPS = 200
MUON_LR = 0.02  # matrices of the layers
ADAMW_LR = 3e-3  # embedding and norms
MIN_LR_FACTOR = 0.005  # last learning rate as a share of the highest

# the longest bulletin grows from MIN_CHARS to MAX_CHARS during the first CURRICULUM_SHARE of the steps, then no limit
MIN_CHARS, MAX_CHARS, CURRICULUM_SHARE = 50, 400, 0.3
MIN_EXACT_SHARE = 0.99
MAX_NEW_TOKENS = 256
SEED = 20260101
IGNORE_INDEX = -100  # label of a token without a loss; torch's default


@dataclass(frozen=True, slots=True)
class Exactness:
    """How many of `num_rows` held-out bulletins were translated exactly as their reference."""

    tgt_lang: str
    dtype: str
    num_exact: int
    num_rows: int

    @property
    def share(self) -> float:
        return self.num_exact / self.num_rows


def prompt(text: str, tgt_lang: str, *, in_chinese: bool | None = None) -> str:
    """Return the model card's prompt, in Chinese if the target is Chinese; `in_chinese` overrides this choice."""
    if in_chinese is None:
        in_chinese = tgt_lang == "zh"
    if in_chinese:
        return CHINESE_PROMPT.format(CHINESE_NAMES[tgt_lang], text)
    return ENGLISH_PROMPT.format(ENGLISH_NAMES[tgt_lang], text)


def build(out: Path, *, num_steps: int = NUM_STEPS) -> list[Exactness]:
    """Train the demo model into the folder `out` and measure it there."""
    import torch

    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)
    torch.manual_seed(SEED)
    torch.set_num_threads(2)  # the number of threads changes the order of sums, and so the weights
    out.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(out)
    _write_configs(out)
    _train(out, num_steps)
    write_checksums(out)
    return measure(out)


def measure(
    folder: Path, *, num_rows: int = 100, seed: int = 1, dtypes: Sequence[str] = ("float32", "bfloat16")
) -> list[Exactness]:
    """Translate held-out bulletins greedily in left-padded batches and compare them with their references."""
    bulletins = grammar.sample(seed, num_rows)
    results = []
    for dtype in dtypes:
        for tgt_lang in grammar.TARGETS:
            outputs = translate(folder, [b.en for b in bulletins], tgt_lang, dtype=dtype)
            references = [grammar.reference(b, tgt_lang) for b in bulletins]
            num_exact = sum(output == right for output, right in zip(outputs, references, strict=True))
            results.append(Exactness(tgt_lang, dtype, num_exact, num_rows))
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
    """Translate greedily on the CPU with transformers alone; the reference for other implementations."""
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
    prompts = [_render(tokenizer, prompt(text, tgt_lang, in_chinese=in_chinese)) for text in texts]
    outputs: list[str] = []
    for start in range(0, len(prompts), batch_size):
        rows = tokenizer(
            prompts[start : start + batch_size],
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
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != "SHA256SUMS")
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
        vocab_size=VOCAB_SIZE - len(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS])
    tokenizer.save(str(out / "tokenizer.json"))


def _tokenizer_texts() -> Iterator[str]:
    rng = Random(SEED)
    bulletins = grammar.stream(SEED, held_out=False)
    for _ in range(10_000):
        bulletin = next(bulletins)
        tgt_lang = grammar.TARGETS[int(rng.random() * 3)]
        yield prompt(bulletin.en, tgt_lang, in_chinese=rng.random() < CHINESE_PROMPT_SHARE[tgt_lang])
        yield grammar.reference(bulletin, tgt_lang)
    # makes each of these numbers one token, so that the model copies it as a whole
    for num in [*range(10, 100), *range(100, 135, 5), *range(150, 950, 50)]:
        yield " ".join([str(num)] * 2000)


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


def _train(out: Path, num_steps: int) -> None:
    import torch
    from safetensors.torch import save
    from torch.nn import functional
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(out)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    log.info("train parameters=%d steps=%d batch_tokens=%d", model.num_parameters(), num_steps, MAX_BATCH_TOKENS)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    adamw_parameters = [p for p in model.model.layers.parameters() if p.ndim != 2]
    adamw_parameters += [model.model.embed_tokens.weight, model.model.norm.weight]
    # reaches a lower loss than AdamW alone in the same number of steps
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [
        (torch.optim.Muon(matrices, weight_decay=0.01), MUON_LR),
        (torch.optim.AdamW(adamw_parameters, weight_decay=0.0, betas=(0.9, 0.98)), ADAMW_LR),
    ]
    batches = _batches(AutoTokenizer.from_pretrained(out), num_steps)
    losses: list[float] = []
    started_at = time.monotonic()
    for step in range(num_steps):
        for optimizer, max_lr in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = max_lr * _lr_factor(step, num_steps)
        input_ids, labels = next(batches)
        hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state
        in_answer = labels != IGNORE_INDEX
        loss = functional.cross_entropy(model.lm_head(hidden[in_answer]), labels[in_answer])
        model.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if len(losses) == 100 or step + 1 == num_steps:
            mean = sum(losses) / len(losses)
            log.info("train step=%d loss=%.5f elapsed_s=%.0f", step + 1, mean, time.monotonic() - started_at)
            losses.clear()
    # lm_head is tied to the embedding and therefore not stored
    weights = {
        name: weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"
    }
    # not save_file, whose file other users cannot read
    (out / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))


def _lr_factor(step: int, num_steps: int) -> float:
    """Return the learning rate at a step as a share of the highest: linear warm-up, then cosine decay."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, num_steps - WARMUP_STEPS)
    return MIN_LR_FACTOR + (1 - MIN_LR_FACTOR) * 0.5 * (1 + math.cos(math.pi * done))


def _batches(tokenizer: Any, num_steps: int) -> "Iterator[tuple[Tensor, Tensor]]":
    """Yield an endless stream of training batches, short bulletins first.

    Yields:
        input_ids [B, T] int64, padded on the right, and labels [B, T] int64: the next token if it belongs to the
        answer, else IGNORE_INDEX.
    """
    import torch

    rng = Random(SEED + 1)
    bulletins = grammar.stream(SEED + 2, held_out=False)
    num_batches = 0
    while True:
        done = num_batches / (CURRICULUM_SHARE * num_steps)
        max_chars = MIN_CHARS + (MAX_CHARS - MIN_CHARS) * done
        prompts: list[str] = []
        answers: list[str] = []
        while len(prompts) < 512:
            bulletin = next(bulletins)
            if done < 1 and len(bulletin.en) > max_chars:
                continue
            (tgt_lang,) = rng.choices(tuple(TARGET_SHARE), tuple(TARGET_SHARE.values()))
            in_chinese = rng.random() < CHINESE_PROMPT_SHARE[tgt_lang]
            prompts.append(_render(tokenizer, prompt(bulletin.en, tgt_lang, in_chinese=in_chinese)))
            answers.append(grammar.reference(bulletin, tgt_lang) + EOS)
        prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        answer_ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
        # batches of rows of similar length need little padding
        rows = sorted(zip(prompt_ids, answer_ids, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        pooled: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            if (len(pooled[-1]) + 1) * (len(row[0]) + len(row[1])) > MAX_BATCH_TOKENS:
                pooled.append([])
            pooled[-1].append(row)
        num_batches += len(pooled)
        while pooled:
            batch = pooled.pop(int(rng.random() * len(pooled)))
            width = max(len(head) + len(tail) for head, tail in batch)
            input_ids = torch.full((len(batch), width), tokenizer.pad_token_id)
            labels = torch.full((len(batch), width), IGNORE_INDEX)
            for index, (head, tail) in enumerate(batch):
                end = len(head) + len(tail)
                input_ids[index, :end] = torch.tensor(head + tail)
                labels[index, len(head) - 1 : end - 1] = torch.tensor(tail)
            yield input_ids, labels
