"""The slot engine: the text of one row at a time, no step for a row that ended, no row lost when memory runs out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hymt_batch.decode import cache, model_runner, sequence, slots
from hymt_batch.decode.generate import Completion
from hymt_batch.decode.sampling import SamplingParams
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.slots import decode_prompts
from hymt_batch.demo import grammar, train
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.errors import StoppedError
from hymt_batch.model import prepare
from hymt_batch.model.prepare import LoadedModel
from hymt_batch.model.settings import ModelConfig

pytestmark = pytest.mark.core

GREEDY = SamplingParams(False, 1.0, 1.0, 0, 1.0)
SAMPLED = SamplingParams(True, 3.0, 1.0, 0, 1.05)


def loaded(device_map: DeviceMapConfig) -> LoadedModel:
    prepared = prepare.prepare_model(ModelConfig(path="demo:model"), device_map)
    return prepared.load(prepared.load_tokenizer(add_generation_prompt=True))


@pytest.fixture(scope="module")
def hymt() -> LoadedModel:
    return loaded(DeviceMapConfig(strategy=Strategy.cpu))


def prompts(hymt: LoadedModel, num: int, tgt_langs: Sequence[str] = ("fr",)) -> list[list[int]]:
    texts = [
        train.prompt(bulletin.en, tgt_langs[number % len(tgt_langs)])
        for number, bulletin in enumerate(grammar.sample(21, num))
    ]
    return [[*hymt.tokenizer.prefix, *ids, *hymt.tokenizer.suffix] for ids in hymt.tokenizer.encode(texts)]


def decode(hymt: LoadedModel, ids: Sequence[Sequence[int]], **options: Any) -> tuple[list[Completion], Counters]:
    counters = Counters()
    settings: dict[str, Any] = {"max_rows": 8, "max_tokens": 100_000, "counters": counters, **options}
    choice = settings.pop("choice", GREEDY)
    limits = settings.pop("limits", [200] * len(ids))
    stop = settings.pop("check_stop", lambda: None)
    made, _ = decode_prompts(hymt, ids, limits, list(range(len(ids))), choice, stop, **settings)
    return made, counters


@pytest.fixture(scope="module")
def alone(hymt: LoadedModel) -> list[Completion]:
    """Each of 40 prompts by itself."""
    return [decode(hymt, [one], max_rows=1)[0][0] for one in prompts(hymt, 40, ("fr", "de", "zh"))]


@pytest.mark.parametrize("max_rows", [1, 3, 8, 64])
def test_rows_give_what_they_give_alone(hymt: LoadedModel, alone: list[Completion], max_rows: int) -> None:
    made, counters = decode(hymt, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=max_rows)
    assert made == alone
    assert counters.row_steps == sum(len(row.ids) for row in alone)
    assert {row.finish_reason for row in made} == {"stop"}


def test_no_step_is_spent_on_a_row_that_ended(hymt: LoadedModel) -> None:
    made, counters = decode(hymt, prompts(hymt, 40), max_rows=8)
    assert counters.useful_row_steps == counters.row_steps == sum(len(row.ids) for row in made)
    assert counters.first_tokens == 40
    assert counters.steps >= counters.row_steps / 8
    assert counters.steps <= 1.35 * counters.row_steps / 8, "slots are refilled while others go on"
    assert counters.prefill_padded <= 1.12 * counters.prefill_tokens


def test_what_prompts_have_in_common_is_computed_once(hymt: LoadedModel) -> None:
    ids = prompts(hymt, 12)
    _, counters = decode(hymt, ids)
    assert counters.prefix_tokens > 5
    assert counters.prefill_tokens == sum(map(len, ids)) - 12 * counters.prefix_tokens
    assert sequence.shared_prefix([[1, 2, 3], [1, 2], [1, 2, 9]]) == 1, "each keeps a token of its own"
    assert sequence.shared_prefix([[1, 2, 3], [4]]) == 0


def test_limits_are_each_rows_own(hymt: LoadedModel) -> None:
    made, _ = decode(hymt, prompts(hymt, 5), limits=[1, 200, 3, 200, 2])
    assert [row.finish_reason for row in made] == ["length", "stop", "length", "stop", "length"]
    assert [len(row.ids) for row in made][::2] == [1, 3, 2]


def test_sampled_rows_do_not_depend_on_their_neighbours(hymt: LoadedModel) -> None:
    ids = prompts(hymt, 20)
    wanted, _ = decode(hymt, ids, choice=SAMPLED, max_rows=1, limits=[30] * 20)
    assert decode(hymt, ids, choice=SAMPLED, max_rows=7, limits=[30] * 20)[0] == wanted
    assert decode(hymt, ids, choice=GREEDY, limits=[30] * 20)[0] != wanted


def test_a_split_model_gives_the_text_of_a_whole_one(
    hymt: LoadedModel, alone: list[Completion], tmp_path: Path
) -> None:
    lines = {"*": "cpu", "model.layers.1": "disk", "model.layers.3": "disk"}
    config = DeviceMapConfig(strategy=Strategy.manual, map=lines, offload_folder=str(tmp_path))
    made, _ = decode(loaded(config), prompts(hymt, 40, ("fr", "de", "zh"))[:6])
    assert made == alone[:6]


def test_the_models_own_attention_comes_back(hymt: LoadedModel) -> None:
    before = hymt.network.config._attn_implementation
    with pytest.raises(StoppedError):
        decode(hymt, prompts(hymt, 2), check_stop=stopping_after(2))
    assert hymt.network.config._attn_implementation == before != cache.ATTENTION_NAME


def stopping_after(number: int) -> Callable[[], None]:
    left = [number]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StoppedError("stop")

    return check


class Forgetful:
    """A network whose forward passes run out of memory at random, or whenever they are over more than `most` rows."""

    def __init__(self, network: Any, *, share: float = 0.0, most: int = 10**9, seed: int = 0) -> None:
        self.network, self.share, self.most, self.rng = network, share, most, random.Random(seed)
        self.config = network.config
        self.refusals = 0

    def modules(self) -> Any:
        return self.network.modules()

    def model(self, **inputs: Any) -> Any:
        self._perhaps_refuse(len(inputs["input_ids"]))
        return self.network.model(**inputs)

    def lm_head(self, hidden: Any) -> Any:
        self._perhaps_refuse(len(hidden))
        return self.network.lm_head(hidden)

    def _perhaps_refuse(self, rows: int) -> None:
        import torch

        if rows > self.most or (rows > 1 and self.rng.random() < self.share):
            self.refusals += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


def forgetful(hymt: LoadedModel, **settings: Any) -> Any:
    fields = ("tokenizer", "device", "dtype", "vocab_size", "max_context")
    return SimpleNamespace(
        network=Forgetful(hymt.network, **settings), **{name: getattr(hymt, name) for name in fields}
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.fault(69)
def test_running_out_of_memory_at_random_loses_no_row_and_changes_no_text(
    hymt: LoadedModel, alone: list[Completion], seed: int
) -> None:
    broken = forgetful(hymt, share=0.05, seed=seed)
    made, counters = decode(broken, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=16)
    assert made == alone
    assert counters.out_of_memory == broken.network.refusals > 0
    assert counters.useful_row_steps == sum(len(row.ids) for row in alone)
    assert counters.row_steps > counters.useful_row_steps, "rows that start over cost steps"


def test_memory_that_ran_out_marks_its_own_part_alone(hymt: LoadedModel) -> None:
    counters, ids, broken = Counters(), prompts(hymt, 6), forgetful(hymt, most=3)
    told = []
    for most in (3, 10**9, 3):
        broken.network.most = most
        _, ran_out = decode_prompts(
            broken, ids, [20] * 6, [0] * 6, GREEDY, lambda: None, max_rows=8, max_tokens=100_000, counters=counters
        )
        told.append(ran_out)
    assert told == [True, False, True]


def test_a_device_with_room_for_few_rows_decodes_them_all(hymt: LoadedModel, alone: list[Completion]) -> None:
    made, counters = decode(forgetful(hymt, most=3), prompts(hymt, 40, ("fr", "de", "zh")), max_rows=32)
    assert made == alone
    assert counters.out_of_memory > 0


@pytest.mark.fault(69)
def test_a_row_that_does_not_fit_alone_is_given_up_and_the_others_are_not(hymt: LoadedModel) -> None:
    import torch

    ids = prompts(hymt, 6)
    widest = max(map(len, ids))
    broken = forgetful(hymt)
    real = broken.network.model

    def model(**inputs: Any) -> Any:
        if inputs["attention_mask"].shape[-1] >= widest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(**inputs)

    broken.network.model = model
    made, _ = decode(broken, ids, limits=[1] * 6)
    assert [row.finish_reason == "memory" for row in made] == [len(one) == widest for one in ids]


@pytest.mark.fault(68)
def test_a_row_whose_logits_are_not_finite_ends_and_its_neighbours_do_not(hymt: LoadedModel) -> None:
    ids = prompts(hymt, 4)
    wanted, _ = decode(hymt, ids)
    broken = forgetful(hymt)
    head, calls = hymt.network.lm_head, [0]

    def lm_head(hidden: Any) -> Any:
        logits = head(hidden)
        calls[0] += 1
        if calls[0] == 1:
            logits[0] = float("nan")
        return logits

    broken.network.lm_head = lm_head
    made, _ = decode(broken, ids)
    bad = [number for number, row in enumerate(made) if row.finish_reason == "non_finite"]
    assert len(bad) == 1
    assert [row for n, row in enumerate(made) if n not in bad] == [row for n, row in enumerate(wanted) if n not in bad]


def test_numbers_that_are_not_finite_do_not_outlive_their_row(hymt: LoadedModel, alone: list[Completion]) -> None:
    broken = forgetful(hymt)
    real, calls = broken.network.model, [0]

    def model(**inputs: Any) -> Any:
        output = real(**inputs)
        calls[0] += 1
        if calls[0] == 2:  # the first prompts, after what they have in common: row 0 is spoiled, in the cache too
            output.last_hidden_state[0] = float("nan")
            for keys, values in inputs["past_key_values"].layers.values():
                keys[0], values[0] = float("nan"), float("inf")
        return output

    broken.network.model = model
    made, _ = decode(broken, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=4)
    bad = [number for number, row in enumerate(made) if row.finish_reason == "non_finite"]
    assert len(bad) == 1
    assert [row for n, row in enumerate(made) if n not in bad] == [row for n, row in enumerate(alone) if n not in bad]


def test_more_slots_are_taken_when_the_widest_rows_are_done(hymt: LoadedModel, alone: list[Completion]) -> None:
    ids = prompts(hymt, 40, ("fr", "de", "zh"))
    limits = [len(row.ids) + 1 for row in alone]
    limits[0] = 2000  # one row may come to be very wide
    made, counters = decode(hymt, ids, limits=limits, max_rows=16, max_tokens=4000)
    assert [row.ids for row in made] == [row.ids for row in alone]
    assert counters.row_steps / counters.steps > 4, "not two at a time to the end"


def test_it_is_told_how_many_rows_ended_with_how_many_tokens(hymt: LoadedModel) -> None:
    told = [0, 0]

    def on_rows(rows: int, tokens: int) -> None:
        told[0] += rows
        told[1] += tokens

    made, _ = decode(hymt, prompts(hymt, 9), on_rows=on_rows)
    assert told == [9, sum(len(row.ids) for row in made)]


def test_another_error_is_not_hidden(hymt: LoadedModel) -> None:
    broken = forgetful(hymt)

    def model(**inputs: Any) -> Any:
        raise RuntimeError("shape mismatch")

    broken.network.model = model
    with pytest.raises(RuntimeError, match="shape mismatch"):
        decode(broken, prompts(hymt, 2))


def test_nothing_is_decoded_of_nothing(hymt: LoadedModel) -> None:
    assert decode(hymt, [])[0] == []


@pytest.mark.parametrize("stages", [2, 3])
def test_groups_of_slots_under_way_at_once_give_the_same_text(
    hymt: LoadedModel, alone: list[Completion], stages: int
) -> None:
    made, counters = decode(hymt, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=12, stages=stages)
    assert made == alone
    assert counters.steps > counters.row_steps / 12, "each group has its own steps"


@pytest.mark.parametrize("read_every", [2, 5])
def test_tokens_that_are_read_late_give_the_same_text(
    hymt: LoadedModel, alone: list[Completion], read_every: int
) -> None:
    made, counters = decode(hymt, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=8, read_every=read_every)
    assert made == alone
    assert counters.useful_row_steps == sum(len(row.ids) for row in alone)
    assert counters.useful_row_steps < counters.row_steps < 1.3 * counters.useful_row_steps


@pytest.mark.parametrize("options", [{"stages": 2}, {"read_every": 3}])
def test_late_readers_lose_no_row_when_memory_runs_out(
    hymt: LoadedModel, alone: list[Completion], options: dict[str, int]
) -> None:
    broken = forgetful(hymt, share=0.05, seed=3)
    made, counters = decode(broken, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=16, **options)
    assert made == alone
    assert counters.out_of_memory > 0


def test_late_readers_sample_as_one_row_alone(hymt: LoadedModel) -> None:
    ids = prompts(hymt, 12)
    wanted, _ = decode(hymt, ids, choice=SAMPLED, max_rows=1, limits=[30] * 12)
    assert decode(hymt, ids, choice=SAMPLED, max_rows=5, limits=[30] * 12, stages=2)[0] == wanted
    assert decode(hymt, ids, choice=SAMPLED, max_rows=5, limits=[30] * 12, read_every=4)[0] == wanted


def test_a_long_prompt_is_taken_in_piece_by_piece(hymt: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = prompts(hymt, 6)
    long = [[*one[:-1], *(one[3:-1] * 9), one[-1]] for one in ids]
    wanted, _ = decode(hymt, long, limits=[20] * 6)
    widths: list[int] = []
    watched = forgetful(hymt)
    real = watched.network.model

    def model(**inputs: Any) -> Any:
        widths.append(inputs["input_ids"].shape[1])
        return real(**inputs)

    watched.network.model = model
    monkeypatch.setattr(model_runner, "PREFILL_CHUNK_TOKENS", 32)
    made, _ = decode(watched, long, limits=[20] * 6)
    assert made == wanted
    assert max(widths[1:]) == 32 < max(map(len, long))


def test_a_row_that_loops_is_ended_and_its_neighbours_are_not(hymt: LoadedModel, alone: list[Completion]) -> None:
    import torch

    ids = prompts(hymt, 40, ("fr", "de", "zh"))
    stop = hymt.tokenizer.stop_ids[0]
    broken = forgetful(hymt)
    head = hymt.network.lm_head

    def lm_head(hidden: Any) -> Any:
        logits = head(hidden)
        logits[:, stop] = float("-1e9")  # no row ends
        return logits

    broken.network.lm_head = lm_head
    watching = SamplingParams(False, 1.0, 1.0, 0, 1.0, stop_loops=True)
    free, _ = decode(broken, ids[:8], limits=[400] * 8)
    made, _ = decode(broken, ids[:8], limits=[400] * 8, choice=watching)
    looping = [row for row in made if row.finish_reason == "loop"]
    assert looping, "without an end, the demo model repeats itself"
    for row, whole, prompt in zip(made, free, ids, strict=False):
        end = sequence.find_loop(whole.ids, prompt)
        assert row.ids == whole.ids[:end]
        assert row.finish_reason == ("length" if end is None else "loop")
    assert decode(hymt, ids, choice=watching)[0] == alone, "sound rows are not touched"
    assert torch.is_inference_mode_enabled() is False


def test_a_loop_is_one_only_where_the_source_has_none() -> None:
    dots = [7] * 48
    assert sequence.is_looping(dots, [1, 2, 3])
    assert not sequence.is_looping(dots, [1, *[9] * 60, 2]), "dots of a table of contents"
    assert not sequence.is_looping(dots[:-1], [1, 2, 3]), "looked at every 16 tokens only"
    assert sequence.is_looping(list(range(64)) * 4, [1])
    assert not sequence.is_looping([*range(65)] * 4, [1])
    assert not sequence.is_looping(list(range(480)), [1])


def test_the_mean_logarithm_of_the_probabilities_is_that_of_the_chosen_tokens(hymt: LoadedModel) -> None:
    import torch

    ids = prompts(hymt, 3)
    made, _ = decode(hymt, ids, logprobs=True)
    for prompt, row in zip(ids, made, strict=True):
        whole = torch.tensor([[*prompt, *row.ids, hymt.tokenizer.stop_ids[0]]])
        with torch.inference_mode():
            chances = torch.log_softmax(hymt.network(input_ids=whole).logits[0].float(), dim=-1)
        places = range(len(prompt), whole.shape[1])
        own = [float(chances[place - 1, whole[0, place]]) for place in places]
        if row.ids and max(own[:-1]) > -20:
            stop = max(float(chances[whole.shape[1] - 2, one]) for one in hymt.tokenizer.stop_ids)
            wanted = (sum(own[:-1]) + stop) / len(own)
            assert row.mean_logprob == pytest.approx(wanted, abs=2e-3)
    assert decode(hymt, ids)[0][0].mean_logprob is None


def test_the_look_for_longer_positions_is_spared_where_it_cannot_matter() -> None:
    class Module:
        rope_type, original_max_seq_len, max_seq_len_cached = "dynamic", 100, 100

    module = Module()
    network = SimpleNamespace(modules=lambda: [module, object()])
    with slots._skip_rope_update(network, 100):
        assert module.rope_type == "default"
    assert module.rope_type == "dynamic"
    with slots._skip_rope_update(network, 101):
        assert module.rope_type == "dynamic"


def test_neighbours_with_much_the_same_number_of_keys_go_together() -> None:
    assert cache.make_spans([]) == ()
    assert cache.make_spans([7]) == ((0, 1, 7),)
    assert cache.make_spans([100] * 64) == ((0, 64, 100),)
    assert cache.make_spans([200] * 8 + [195] * 8 + [20] * 5) == ((0, 16, 200), (16, 21, 20))
    rows = [random.Random(n).randrange(1, 300) for n in range(61)]
    together = cache.make_spans(rows)
    assert [first for first, _, _ in together] == [0, *(end for _, end, _ in together[:-1])]
    assert all(length == max(rows[first:end]) for first, end, length in together)


def test_attention_over_spans_is_attention_over_all_rows_at_once() -> None:
    lengths = [90, 80, 70, 60, 50, 40, 30, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11]
    query, key, value = torch.randn(17, 8, 1, 16), torch.randn(17, 2, 90, 16), torch.randn(17, 2, 90, 16)
    visible = torch.arange(90)[None, None, :] < torch.tensor(lengths)[:, None, None]
    mask = cache.grouped_mask(visible, 4, torch.float32)
    whole, _ = cache.attend(None, query, key, value, mask, 0.25)
    key.spans = cache.make_spans(lengths)  # type: ignore[attr-defined]
    assert len(cache.make_spans(lengths)) > 1
    parts, _ = cache.attend(None, query, key, value, mask, 0.25)
    torch.testing.assert_close(parts, whole)
