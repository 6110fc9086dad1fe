"""Write the files of the demo's checkpoint except its weights: tokenizer, config, chat template, checksums.

The tokenizer has the control tokens and the template of the 1.8B model. A word of a bulletin is one token; names that
were never seen are spelled in syllables.

Source: control tokens and template from the 1.8B checkpoint.
"""

import hashlib
import json
import re
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

NUM_CHINESE_MERGES = 500
MIN_WORD_COUNT = 2  # how often a word stands in the texts, to become one token
CHINESE_WORD_WEIGHT = 500  # how often a Chinese word of the list counts


def write_tokenizer(
    out: Path,
    texts: Sequence[str],
    *,
    words: Iterable[str],
    pieces: Iterable[str],
    syllables: Iterable[str],
    chinese_words: Iterable[str],
) -> None:
    """Learn a vocabulary and write `tokenizer.json`.

    A word of the list is one token, as a whole (`ignore_merges`). All other text is spelled by merges: Chinese by those
    that are learned from the texts, other languages by syllables of a consonant and a vowel, so that a name that was
    never seen has the same few tokens wherever it stands.

    Args:
        out: The folder.
        texts: Texts of all languages; their words become tokens if they are frequent.
        words: Further words and numbers that become one token each.
        pieces: Marks of codes, Chinese characters and endings of names, which become one token each.
        syllables: Syllables that become tokens, with and without a capital.
        chinese_words: Words that become one token each, as far as they are not part of longer ones.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # splits a number into groups of thousands, without the space before it: equal tokens in all languages
            pre_tokenizers.Split(Regex(r"\d{1,3}(?=(?:\d{3})*(?!\d))"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    vocabulary = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = _chinese_merges([*texts, *(",".join([word] * CHINESE_WORD_WEIGHT) for word in chinese_words), *pieces])
    for pair in merges:
        vocabulary.setdefault("".join(pair), len(vocabulary))
    for pair in _syllable_merges(syllables):
        merges.append(pair)
        vocabulary.setdefault("".join(pair), len(vocabulary))
    for piece in pieces:
        for pair in _merges_of(piece, vocabulary, merges):
            merges.append(pair)
            vocabulary.setdefault("".join(pair), len(vocabulary))
    for word in (*_frequent_words(tokenizer, texts), *map(_byte_characters, words)):
        vocabulary.setdefault(word, len(vocabulary))
    content = json.loads(tokenizer.to_str())
    content["model"] |= {"ignore_merges": True, "vocab": vocabulary, "merges": [list(pair) for pair in merges]}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS])
    tokenizer.save(str(out / "tokenizer.json"))


def _chinese_merges(texts: Iterable[str]) -> list[Pair]:
    """Return the merges of bytes to Chinese characters, and then of characters to the most frequent words."""
    from tokenizers import Tokenizer, models, trainers

    runs = [run for text in texts for run in re.findall(r"[\u4e00-\u9fff]+", text)]
    characters = sorted({character for run in runs for character in run})
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=len(characters) + NUM_CHINESE_MERGES, show_progress=False)
    tokenizer.train_from_iterator(runs, trainer)
    spelled = [_byte_characters(character) for character in characters]
    merges = list(dict.fromkeys((one[0], one[1]) for one in spelled))
    merges += [(one[:2], one[2]) for one in spelled]
    learned = json.loads(tokenizer.to_str())["model"]["merges"]
    return [*merges, *((_byte_characters(first), _byte_characters(second)) for first, second in learned)]


def _syllable_merges(syllables: Iterable[str]) -> list[Pair]:
    """Return the merges of syllables of two letters, with and without a capital, with and without a space before."""
    pairs = [(syllable[0], syllable[1]) for syllable in syllables]
    capitals = [(first.upper(), second) for first, second in pairs]
    space = _byte_characters(" ")
    return [*pairs, *capitals, *((space, "".join(pair)) for pair in (*pairs, *capitals))]


def _merges_of(piece: str, vocabulary: Mapping[str, int], merges: Sequence[Pair]) -> list[Pair]:
    """Return the merges that make one token of what is left of a piece after the merges that there are."""
    from tokenizers import models

    spelled = [token.value for token in models.BPE(dict(vocabulary), list(merges)).tokenize(_byte_characters(piece))]
    return [("".join(spelled[:end]), spelled[end]) for end in range(1, len(spelled))]


def _frequent_words(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """Return the words of letters that are frequent in texts, the most frequent first, in characters of bytes."""
    counts: Counter[str] = Counter()
    for text in texts:
        for piece, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text):
            word = text[start:end].strip()
            if word.isalpha() and not re.search(r"[\u4e00-\u9fff]", word):
                counts[piece] += 1
    return [word for word, num in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if num >= MIN_WORD_COUNT]


def _byte_characters(text: str) -> str:
    from tokenizers.pre_tokenizers import ByteLevel

    ((characters, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return str(characters)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")


def write_configs(out: Path) -> None:
    """Write the config files of a checkpoint in the format of transformers 4.56, which 5.x reads too.

    The vocabulary is that of the folder's `tokenizer.json`.
    """
    added = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    ids = {str(token["content"]): int(token["id"]) for token in added}
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
            "vocab_size": max(ids.values()) + 1,
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
