"""The demo model translates bulletins it was not trained on; its bulletins, corpus and checkpoint are as documented."""

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.codes import find_codes
from hymt_batch.demo import __main__ as demo
from hymt_batch.demo import checkpoint, example, grammar, measure
from hymt_batch.model import demo_models

pytestmark = pytest.mark.core

NUM_ROWS = 40
GOLDEN = [
    grammar.Text(
        "It will be windy in Antwerp and London. It will be 13 degrees warmer in Antwerp than in Brussels. "
        "Up to 33.5 millimetres of rain may fall in Antwerp by Sunday.",
        "Le temps sera venteux à Anvers et à Londres. Il fera 13 degrés de plus à Anvers qu'à Bruxelles. "
        "Jusqu'à 33,5 millimètres de pluie pourraient tomber à Anvers d'ici dimanche.",
        "In Antwerpen und London wird es windig. Es wird in Antwerpen 13 Grad wärmer als in Brüssel. "
        "In Antwerpen können bis Sonntag bis zu 33,5 Millimeter Regen fallen.",
        "安特卫普和伦敦天气多风。安特卫普的气温将比布鲁塞尔高13度。到周日，安特卫普的降雨量可能达到33.5毫米。",
    ),
    grammar.Text(
        "Thunderstorms will move from Dublin towards The Hague this weekend. There is a 45% chance of hail.",
        "Des orages se déplaceront de Dublin vers La Haye ce week-end. Il y a 45\u202f% de risque de grêle.",
        "Gewitter ziehen am Wochenende von Dublin nach Den Haag. Die Wahrscheinlichkeit für Hagel liegt bei 45\xa0%.",
        "本周末雷雨将从都柏林移向海牙。冰雹的概率为45%。",
    ),
]
GOLDEN_DIGEST = "065a1bbb66bf74eed20988f1418678fc7875dfafe6398050f9f2b5b1bd481ae2"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint.MODEL_DIR)


def test_the_same_seed_always_gives_the_same_bulletins() -> None:
    assert grammar.sample(7, 2) == GOLDEN
    digest = hashlib.sha256("\n".join(f"{b.en}|{b.fr}|{b.de}|{b.zh}" for b in grammar.sample(0, 2000)).encode())
    assert digest.hexdigest() == GOLDEN_DIGEST


def test_sampled_bulletins_were_never_trained_on() -> None:
    sampled = {bulletin.en for bulletin in grammar.sample(3, 2000)}
    trained = {bulletin.en for bulletin in itertools.islice(grammar.stream(3, held_out=False), 20_000)}
    assert all(grammar.is_held_out(text) for text in sampled)
    assert not any(grammar.is_held_out(text) for text in trained)
    assert not sampled & trained


def test_an_english_bulletin_has_one_translation() -> None:
    seen: dict[str, grammar.Text] = {}
    for bulletin in itertools.islice(grammar.stream(11, held_out=False), 20_000):
        assert seen.setdefault(bulletin.en, bulletin) == bulletin


def test_bulletins_are_short_and_long_and_mostly_different() -> None:
    bulletins = grammar.sample(5, 2000)
    lengths = [len(bulletin.en.split()) for bulletin in bulletins]
    assert min(lengths) <= 5
    assert max(lengths) >= 40
    assert len({bulletin.en for bulletin in bulletins}) > 1900


def test_an_unknown_language_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"does not have the language 'es'\. Use one of fr, de, zh"):
        grammar.reference(grammar.sample(0, 1)[0], "es")


def test_sample_writes_matching_lines_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from hymt_batch.demo.__main__ import main; status = main(sys.argv[1:]); "
        "sys.exit(status or 'torch' in sys.modules or 'transformers' in sys.modules)"
    )
    command = ["sample", "--seed", "4", "--num", "9", "--tgt-lang", "de", "--out", str(tmp_path / "new")]
    subprocess.run([sys.executable, "-W", "error", "-c", code, *command], check=True)
    bulletins = grammar.sample(4, 9)
    assert (tmp_path / "new/src.txt").read_bytes() == "".join(f"{b.en}\n" for b in bulletins).encode()
    assert (tmp_path / "new/ref.txt").read_bytes() == "".join(f"{b.de}\n" for b in bulletins).encode()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--num", "0", "--tgt-lang", "fr", "--out", "x"], "'0' is not a whole number of 1 or more"),
        (
            ["sample", "--num", "3", "--seed", "-1", "--tgt-lang", "fr", "--out", "x"],
            "'-1' is not a whole number of 0 or more",
        ),
        (["sample", "--num", "3", "--tgt-lang", "es", "--out", "x"], "invalid choice: 'es'"),
        ([], "required: COMMAND"),
    ],
)
def test_a_usage_error_is_reported_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main(arguments)
    assert caught.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(stderr)


def test_an_unwritable_folder_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file")
    assert demo.main(["sample", "--num", "1", "--tgt-lang", "fr", "--out", str(tmp_path / "taken")]) == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert "taken" in stderr
    assert demo.main(["check", "--model", str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err


def test_sample_writes_lines_with_codes(tmp_path: Path) -> None:
    command = ["sample", "--codes", "--seed", "4", "--num", "30", "--tgt-lang", "zh", "--out", str(tmp_path)]
    assert demo.main(command) == 0
    sources, right = ((tmp_path / name).read_text(encoding="utf-8").splitlines() for name in ("src.txt", "ref.txt"))
    assert len(sources) == len(right) == 30
    assert all(find_codes(source) or "**" in source or "~~" in source or "`" in source for source in sources)


def test_the_corpus_is_what_the_command_writes(tmp_path: Path) -> None:
    assert demo.main(["corpus", "--out", str(tmp_path)]) == 0
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in demo.CORPUS_DIR.iterdir()}


def test_the_corpus_has_blank_and_repeated_lines() -> None:
    lines = demo.corpus_lines()
    texts = [line.en for line in lines if line]
    assert lines.count(None) >= 5
    assert len(texts) - len(set(texts)) >= 5
    assert all(grammar.is_held_out(text) for text in texts)


def test_the_model_files_match_their_checksums() -> None:
    checksums = dict(
        reversed(line.split("  ")) for line in (checkpoint.MODEL_DIR / "SHA256SUMS").read_text().splitlines()
    )
    files = [path for path in checkpoint.MODEL_DIR.iterdir() if path.name != "SHA256SUMS"]
    assert checksums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert list(demo_models.NAMES)[-1] == checksums["model.safetensors"]


def test_the_weights_match_the_config_exactly() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(checkpoint.MODEL_DIR, dtype="auto", output_loading_info=True)
    assert type(model).__name__ == "HunYuanDenseV1ForCausalLM"
    assert not any(info.values())
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.top_k == 20


@pytest.mark.parametrize(
    "text",
    [
        "",
        " a  b ",
        "\t\r\n\n x\u00a0\u202fy\u3000z\u2028",
        "Ärger über ﬁ: e\u0301 é İ ſ K",
        "将以下文本翻译为中文，注意：１２３",
        "🏳️‍🌈 👩🏽‍🚀 \U0010ffff \ufeff\ufffd\x00\x7f",
        "मौसम الطقس อากาศ བོད་ᠮᠣᠩᠭᠣᠯ",
    ],
)
def test_the_tokenizer_is_lossless(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    ids = tokenizer(text)["input_ids"]
    assert not set(ids) & set(tokenizer.all_special_ids)


def test_control_tokens_are_one_id_each_at_the_end_of_the_vocabulary(tokenizer: Any) -> None:
    ids = [tokenizer(token)["input_ids"] for token in checkpoint.CONTROL_TOKENS]
    first = len(tokenizer) - len(ids)
    assert ids == [[first + index] for index in range(len(ids))]
    config = json.loads((checkpoint.MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    assert config["bos_token_id"] == tokenizer.bos_token_id == ids[0][0]
    assert config["eos_token_id"] == tokenizer.eos_token_id == ids[1][0]
    assert config["pad_token_id"] == tokenizer.pad_token_id == ids[2][0]
    assert len(tokenizer) == config["vocab_size"]


def test_the_chat_template_is_that_of_the_1_8b_model(tokenizer: Any) -> None:
    user = {"role": "user", "content": "A {{ b }}\n\n'c'"}
    system = {"role": "system", "content": "S"}
    answer = {"role": "assistant", "content": "D"}

    def render(messages: list[dict[str, str]], add: bool) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add))

    begin, text = "<｜hy_begin▁of▁sentence｜>", "<｜hy_User｜>A {{ b }}\n\n'c'"
    assert render([user], True) == f"{begin}{text}<｜hy_Assistant｜>"
    assert render([user], False) == f"{begin}{text}<｜hy_place▁holder▁no▁8｜>"
    assert render([system, user], True) == f"{begin}S<｜hy_place▁holder▁no▁3｜>{text}<｜hy_Assistant｜>"
    turn = "<｜hy_Assistant｜>D<｜hy_place▁holder▁no▁2｜>"
    assert render([user, answer, user], True) == f"{begin}{text}{turn}{text}<｜hy_Assistant｜>"


def test_held_out_bulletins_are_translated_exactly() -> None:
    results = measure.measure(checkpoint.MODEL_DIR, num_rows=NUM_ROWS, seed=2, dtypes=["float32"], kinds=["plain"])
    assert [result.tgt_lang for result in results] == list(grammar.TARGETS)
    for result in results:
        assert result.num_rows - result.num_exact <= 1, result


@pytest.mark.parametrize("kind", ["codes", "format", "terms", "context"])
def test_held_out_examples_of_every_kind_are_translated_exactly(kind: str) -> None:
    results = measure.measure(checkpoint.MODEL_DIR, num_rows=NUM_ROWS, seed=1, dtypes=["float32"], kinds=[kind])
    for result in results:
        assert result.num_rows - result.num_exact <= 1, result


def test_check_measures_the_shipped_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["check", "--num", "2"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]} == set(example.KINDS)


def test_an_english_prompt_can_request_chinese() -> None:
    bulletins = grammar.sample(6, 20)
    outputs = measure.translate(checkpoint.MODEL_DIR, [bulletin.en for bulletin in bulletins], "zh", in_chinese=False)
    assert sum(output == bulletin.zh for output, bulletin in zip(outputs, bulletins, strict=True)) >= 19


def test_the_batch_does_not_change_a_translation() -> None:
    texts = [bulletin.en for bulletin in grammar.sample(9, 12)]
    together = measure.translate(checkpoint.MODEL_DIR, texts, "fr")
    assert measure.translate(checkpoint.MODEL_DIR, texts, "fr", batch_size=1) == together
    assert measure.translate(checkpoint.MODEL_DIR, texts[::-1], "fr", batch_size=5)[::-1] == together


@pytest.mark.parametrize("text", ["", "Hello, world!", "The cat sat on the mat. " * 5, "天气 " * 40, "😀"])
def test_decoding_other_kinds_of_text_ends(text: str) -> None:
    (output,) = measure.translate(checkpoint.MODEL_DIR, [text], "de")
    assert len(output) < 1000
