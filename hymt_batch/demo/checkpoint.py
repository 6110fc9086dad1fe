"""Write the files of the demo's checkpoint except its weights: tokenizer, config, chat template, checksums.

The tokenizer has the control tokens and the template of the 1.8B model. Its vocabulary is learned from bulletins alone,
and then grows by merges that leave the tokens of bulletins as they are.

Source: control tokens and template from the 1.8B checkpoint.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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

Pair = tuple[str, str]

PLAIN_VOCAB_SIZE = 1393  # of the tokens that are learned from bulletins
VOCAB_SIZE = 1850
WORD_WEIGHT = 2000  # how often a word that becomes one token counts


def write_tokenizer(
    out: Path, bulletins: Sequence[str], numbers: Iterable[str], others: Iterable[str], words: Iterable[str]
) -> None:
    """Learn a vocabulary and write `tokenizer.json`.

    Args:
        out: The folder.
        bulletins: Plain bulletins, their prompts and translations, from which the vocabulary is learned.
        numbers: Numbers that become one token each, so that the model copies them as a whole.
        others: Texts of the other kinds, whose words only add tokens: those of bulletins stay as they are.
        words: Words, marks of codes and Chinese characters that become one token each, as far as bulletins allow it.
    """
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
    tokenizer.train_from_iterator([*bulletins, *(" ".join([number] * WORD_WEIGHT) for number in numbers)], trainer)
    content = json.loads(tokenizer.to_str())
    taken = {pair for word in _words(tokenizer, bulletins) for pair in itertools.pairwise(word)}
    # no merges of marks that happen to meet: a code has the same tokens whatever stands beside it
    further = _words(tokenizer, others, only_letters=True)
    for word in words:
        spelled = tokenizer.model.tokenize(_byte_characters(word))
        further[tuple(piece.value for piece in spelled)] += WORD_WEIGHT
    for first, second in _further_merges(further, taken, set(content["model"]["vocab"])):
        content["model"]["vocab"][first + second] = len(content["model"]["vocab"])
        content["model"]["merges"].append([first, second])
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS])
    tokenizer.save(str(out / "tokenizer.json"))


def _words(tokenizer: Any, texts: Iterable[str], *, only_letters: bool = False) -> Counter[tuple[str, ...]]:
    """Count the words of texts, each as its tokens; a run of other characters is a word unless only letters count."""
    words: Counter[str] = Counter()
    for text in texts:
        for piece, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text):
            if not only_letters or text[start:end].strip().isalpha():
                words[piece] += 1
    return Counter({tuple(t.value for t in tokenizer.model.tokenize(word)): num for word, num in words.items()})


def _further_merges(words: Counter[tuple[str, ...]], taken: set[Pair], vocabulary: set[str]) -> list[Pair]:
    """Return the merges that shorten words most and leave the pairs that are taken as they are."""
    merges: list[Pair] = []
    while len(merges) < VOCAB_SIZE - PLAIN_VOCAB_SIZE - len(CONTROL_TOKENS):
        pairs: Counter[Pair] = Counter()
        for word, num in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += num
        best = max((p for p in pairs if p not in taken and "".join(p) not in vocabulary), key=lambda p: (pairs[p], p))
        merges.append(best)
        words = Counter({_merged(word, best): num for word, num in words.items()})
    return merges


def _byte_characters(text: str) -> str:
    from tokenizers.pre_tokenizers import ByteLevel

    ((characters, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return str(characters)


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


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")


def write_configs(out: Path) -> None:
    """Write the config files of a checkpoint in the format of transformers 4.56, which 5.x reads too."""
    ids = control_token_ids()
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


def control_token_ids() -> dict[str, int]:
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


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS, which lists every other file of the folder in the format of `sha256sum`."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8", newline="\n")
