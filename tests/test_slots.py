"""The slot engine gives the text of one row at a time, wastes no steps, and loses no row when memory runs out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hymt_batch.decode import model_runner, network_patch, sequence, slot_attention, slots
from hymt_batch.decode.cache import PrefixCache
from hymt_batch.decode.request import Completion
from hymt_batch.decode.sampling import GREEDY, SamplingParams
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.demo import example, grammar
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.errors import StoppedError
from hymt_batch.model import prepare
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.settings import ModelConfig
from tests.fakes.engine import make_context, make_requests

pytestmark = pytest.mark.core

SAMPLED = SamplingParams(True, 3.0, 1.0, 0, 1.05)


def loaded(device_map: DeviceMapConfig) -> LoadedModel:
    prepared = prepare.prepare_model(ModelConfig(path="demo:model"), device_map)
    return prepared.load(prepared.load_tokenizer(add_generation_prompt=True))


@pytest.fixture(scope="module")
def hymt() -> LoadedModel:
    return loaded(DeviceMapConfig(strategy=Strategy.cpu))


def prompts(hymt: LoadedModel, num: int, tgt_langs: Sequence[str] = ("fr",)) -> list[list[int]]:
    texts = [
        example.prompt(bulletin.en, tgt_langs[index % len(tgt_langs)])
        for index, bulletin in enumerate(grammar.sample(21, num))
    ]
    return [[*hymt.tokenizer.prefix, *ids, *hymt.tokenizer.suffix] for ids in hymt.tokenizer.encode(texts)]


def decode(hymt: LoadedModel, ids: Sequence[Sequence[int]], **options: Any) -> tuple[list[Completion], Counters]:
    sampling_params = options.pop("sampling_params", GREEDY)
    limits, stop = options.pop("limits", [200] * len(ids)), options.pop("check_stop", lambda: None)
    settings = DecodeConfig(stages=options.pop("stages", 1), read_every=options.pop("read_every", 1))
    engine = slots.open_engine(make_context(hymt, settings=settings, **{"max_rows": 8, **options}))
    return engine.generate(make_requests(ids, limits, sampling_params), stop), engine.counters


@pytest.fixture(scope="module")
def alone(hymt: LoadedModel) -> list[Completion]:
    """The completions of 40 prompts, decoded one at a time."""
    return [decode(hymt, [prompt], max_rows=1)[0][0] for prompt in prompts(hymt, 40, ("fr", "de", "zh"))]


@pytest.mark.parametrize("max_rows", [1, 3, 8, 64])
def test_rows_give_the_same_text_as_alone(hymt: LoadedModel, alone: list[Completion], max_rows: int) -> None:
    completions, counters = decode(hymt, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=max_rows)
    assert completions == alone
    assert counters.row_steps == sum(len(row.ids) for row in alone)
    assert {row.finish_reason for row in completions} == {"stop"}


def test_no_step_is_spent_on_a_finished_row(hymt: LoadedModel) -> None:
    completions, counters = decode(hymt, prompts(hymt, 40), max_rows=8)
    assert counters.useful_row_steps == counters.row_steps == sum(len(row.ids) for row in completions)
    assert counters.first_tokens == 40
    assert counters.steps >= counters.row_steps / 8
    assert counters.steps <= 1.35 * counters.row_steps / 8, "slots are refilled while other rows continue"
    assert counters.prefill_padded <= 1.12 * counters.prefill_tokens


def test_the_common_prefix_of_prompts_is_computed_once(hymt: LoadedModel) -> None:
    ids = prompts(hymt, 12)
    _, counters = decode(hymt, ids)
    assert counters.prefix_tokens > 5
    assert counters.prefill_tokens == sum(map(len, ids)) - 12 * counters.prefix_tokens
    assert sequence.shared_prefix([[1, 2, 3], [1, 2], [1, 2, 9]]) == 1, "at least one token of each prompt is left over"
    assert sequence.shared_prefix([[1, 2, 3], [4]]) == 0


def test_each_row_has_its_own_limit(hymt: LoadedModel) -> None:
    completions, _ = decode(hymt, prompts(hymt, 5), limits=[1, 200, 3, 200, 2])
    assert [row.finish_reason for row in completions] == ["length", "stop", "length", "stop", "length"]
    assert [len(row.ids) for row in completions][::2] == [1, 3, 2]


def test_sampled_rows_do_not_depend_on_their_neighbours(hymt: LoadedModel) -> None:
    ids = prompts(hymt, 20)
    expected, _ = decode(hymt, ids, sampling_params=SAMPLED, max_rows=1, limits=[30] * 20)
    assert decode(hymt, ids, sampling_params=SAMPLED, max_rows=7, limits=[30] * 20)[0] == expected
    assert decode(hymt, ids, sampling_params=GREEDY, limits=[30] * 20)[0] != expected


def test_a_split_model_gives_the_text_of_a_whole_one(
    hymt: LoadedModel, alone: list[Completion], tmp_path: Path
) -> None:
    device_map = {"*": "cpu", "model.layers.1": "disk", "model.layers.3": "disk"}
    config = DeviceMapConfig(strategy=Strategy.manual, map=device_map, offload_folder=str(tmp_path))
    completions, _ = decode(loaded(config), prompts(hymt, 40, ("fr", "de", "zh"))[:6])
    assert completions == alone[:6]


def test_the_models_own_attention_is_restored(hymt: LoadedModel) -> None:
    original = hymt.network.config._attn_implementation
    with pytest.raises(StoppedError):
        decode(hymt, prompts(hymt, 2), check_stop=stopping_after(2))
    assert hymt.network.config._attn_implementation == original != slot_attention.ATTENTION_NAME


def stopping_after(num_calls: int) -> Callable[[], None]:
    remaining = [num_calls]

    def check() -> None:
        remaining[0] -= 1
        if remaining[0] < 0:
            raise StoppedError("stop")

    return check


class OutOfMemoryNetwork:
    """A network whose forward passes run out of memory at random, or always with more than `max_rows` rows."""

    def __init__(self, network: Any, *, share: float = 0.0, max_rows: int = 10**9, seed: int = 0) -> None:
        self.network, self.share, self.max_rows, self.rng = network, share, max_rows, random.Random(seed)
        self.config = network.config
        self.num_errors = 0

    def modules(self) -> Any:
        return self.network.modules()

    def model(self, **inputs: Any) -> Any:
        self._maybe_fail(len(inputs["input_ids"]))
        return self.network.model(**inputs)

    def lm_head(self, hidden: Any) -> Any:
        self._maybe_fail(len(hidden))
        return self.network.lm_head(hidden)

    def _maybe_fail(self, rows: int) -> None:
        import torch

        if rows > self.max_rows or (rows > 1 and self.rng.random() < self.share):
            self.num_errors += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


def with_memory_errors(hymt: LoadedModel, **settings: Any) -> Any:
    return replace(hymt, network=OutOfMemoryNetwork(hymt.network, **settings))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.fault(69)
def test_running_out_of_memory_at_random_loses_no_row_and_changes_no_text(
    hymt: LoadedModel, alone: list[Completion], seed: int
) -> None:
    broken = with_memory_errors(hymt, share=0.05, seed=seed)
    completions, counters = decode(broken, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=16)
    assert completions == alone
    assert counters.out_of_memory == broken.network.num_errors > 0
    assert counters.useful_row_steps == sum(len(row.ids) for row in alone)
    assert counters.row_steps > counters.useful_row_steps, "rows that start over cost extra steps"


def test_running_out_of_memory_is_reported_only_for_the_call_in_which_it_happened(hymt: LoadedModel) -> None:
    ids, broken = prompts(hymt, 6), with_memory_errors(hymt, max_rows=3)
    engine, reported = SlotEngine(make_context(broken, max_rows=8)), []
    for max_rows in (3, 10**9, 3):
        broken.network.max_rows = max_rows
        engine.generate(make_requests(ids, [20] * 6, GREEDY), lambda: None)
        reported.append(engine.take_degraded())
    assert reported == [("oom_split",), (), ("oom_split",)]


def test_a_device_with_memory_for_few_rows_decodes_all_rows(hymt: LoadedModel, alone: list[Completion]) -> None:
    completions, counters = decode(
        with_memory_errors(hymt, max_rows=3), prompts(hymt, 40, ("fr", "de", "zh")), max_rows=32
    )
    assert completions == alone
    assert counters.out_of_memory > 0


@pytest.mark.fault(69)
def test_a_row_that_does_not_fit_alone_fails_and_the_others_do_not(hymt: LoadedModel) -> None:
    import torch

    ids = prompts(hymt, 6)
    longest = max(map(len, ids))
    broken = with_memory_errors(hymt)
    real_model = broken.network.model

    def model(**inputs: Any) -> Any:
        if inputs["attention_mask"].shape[-1] >= longest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real_model(**inputs)

    broken.network.model = model
    completions, _ = decode(broken, ids, limits=[1] * 6)
    assert [row.finish_reason == "memory" for row in completions] == [len(prompt) == longest for prompt in ids]


@pytest.mark.fault(68)
def test_a_row_whose_logits_are_not_finite_ends_and_its_neighbours_do_not(hymt: LoadedModel) -> None:
    ids = prompts(hymt, 4)
    expected, _ = decode(hymt, ids)
    broken = with_memory_errors(hymt)
    head, calls = hymt.network.lm_head, [0]

    def lm_head(hidden: Any) -> Any:
        logits = head(hidden)
        calls[0] += 1
        if calls[0] == 1:
            logits[0] = float("nan")
        return logits

    broken.network.lm_head = lm_head
    completions, _ = decode(broken, ids)
    bad = [index for index, row in enumerate(completions) if row.finish_reason == "non_finite"]
    assert len(bad) == 1
    assert [row for n, row in enumerate(completions) if n not in bad] == [
        row for n, row in enumerate(expected) if n not in bad
    ]


def test_non_finite_numbers_do_not_affect_later_rows_in_the_slot(hymt: LoadedModel, alone: list[Completion]) -> None:
    broken = with_memory_errors(hymt)
    real, calls = broken.network.model, [0]

    def model(**inputs: Any) -> Any:
        output = real(**inputs)
        calls[0] += 1
        if calls[0] == 2:  # the first prompts, after the common prefix: make row 0 non-finite, also in the cache
            output.last_hidden_state[0] = float("nan")
            for keys, values in inputs["past_key_values"].layers.values():
                keys[0], values[0] = float("nan"), float("inf")
        return output

    broken.network.model = model
    completions, _ = decode(broken, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=4)
    bad = [index for index, row in enumerate(completions) if row.finish_reason == "non_finite"]
    assert len(bad) == 1
    assert [row for n, row in enumerate(completions) if n not in bad] == [
        row for n, row in enumerate(alone) if n not in bad
    ]


def test_slots_are_added_when_the_longest_rows_are_finished(hymt: LoadedModel, alone: list[Completion]) -> None:
    ids = prompts(hymt, 40, ("fr", "de", "zh"))
    limits = [len(row.ids) + 1 for row in alone]
    limits[0] = 2000  # one row may become very long
    completions, counters = decode(hymt, ids, limits=limits, max_rows=16, max_tokens=4000)
    assert [row.ids for row in completions] == [row.ids for row in alone]
    assert counters.row_steps / counters.steps > 4, "not only two rows at a time until the end"


def test_the_callback_gets_the_number_of_finished_rows_and_of_their_tokens(hymt: LoadedModel) -> None:
    totals = [0, 0]

    def on_finished(rows: int, tokens: int) -> None:
        totals[0] += rows
        totals[1] += tokens

    completions, _ = decode(hymt, prompts(hymt, 9), on_finished=on_finished)
    assert totals == [9, sum(len(row.ids) for row in completions)]


def test_other_errors_are_raised(hymt: LoadedModel) -> None:
    broken = with_memory_errors(hymt)

    def model(**inputs: Any) -> Any:
        raise RuntimeError("shape mismatch")

    broken.network.model = model
    with pytest.raises(RuntimeError, match="shape mismatch"):
        decode(broken, prompts(hymt, 2))


def test_no_prompts_give_no_completions(hymt: LoadedModel) -> None:
    assert decode(hymt, [])[0] == []


@pytest.mark.parametrize("stages", [2, 3])
def test_several_groups_of_slots_give_the_same_text(hymt: LoadedModel, alone: list[Completion], stages: int) -> None:
    completions, counters = decode(hymt, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=12, stages=stages)
    assert completions == alone
    assert counters.steps > counters.row_steps / 12, "each group has its own steps"


@pytest.mark.parametrize("read_every", [2, 5])
def test_tokens_that_are_read_late_give_the_same_text(
    hymt: LoadedModel, alone: list[Completion], read_every: int
) -> None:
    completions, counters = decode(hymt, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=8, read_every=read_every)
    assert completions == alone
    assert counters.useful_row_steps == sum(len(row.ids) for row in alone)
    assert counters.useful_row_steps < counters.row_steps < 1.3 * counters.useful_row_steps


@pytest.mark.parametrize("options", [{"stages": 2}, {"read_every": 3}])
def test_reading_tokens_late_loses_no_row_when_memory_runs_out(
    hymt: LoadedModel, alone: list[Completion], options: dict[str, int]
) -> None:
    broken = with_memory_errors(hymt, share=0.05, seed=3)
    completions, counters = decode(broken, prompts(hymt, 40, ("fr", "de", "zh")), max_rows=16, **options)
    assert completions == alone
    assert counters.out_of_memory > 0


def test_reading_tokens_late_samples_the_same_as_one_row_alone(hymt: LoadedModel) -> None:
    ids = prompts(hymt, 12)
    expected, _ = decode(hymt, ids, sampling_params=SAMPLED, max_rows=1, limits=[30] * 12)
    assert decode(hymt, ids, sampling_params=SAMPLED, max_rows=5, limits=[30] * 12, stages=2)[0] == expected
    assert decode(hymt, ids, sampling_params=SAMPLED, max_rows=5, limits=[30] * 12, read_every=4)[0] == expected


def test_a_long_prompt_is_prefilled_in_chunks(hymt: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = prompts(hymt, 6)
    long_prompts = [[*prompt[:-1], *(prompt[3:-1] * 9), prompt[-1]] for prompt in ids]
    expected, _ = decode(hymt, long_prompts, limits=[20] * 6)
    widths: list[int] = []
    watched = with_memory_errors(hymt)
    real = watched.network.model

    def model(**inputs: Any) -> Any:
        widths.append(inputs["input_ids"].shape[1])
        return real(**inputs)

    watched.network.model = model
    monkeypatch.setattr(model_runner, "PREFILL_CHUNK_TOKENS", 32)
    completions, _ = decode(watched, long_prompts, limits=[20] * 6)
    assert completions == expected
    assert max(widths[1:]) == 32 < max(map(len, long_prompts))


def test_a_looping_row_is_stopped_and_its_neighbours_are_not(hymt: LoadedModel, alone: list[Completion]) -> None:
    import torch

    ids = prompts(hymt, 40, ("fr", "de", "zh"))
    stop = hymt.tokenizer.stop_ids[0]
    broken = with_memory_errors(hymt)
    head = hymt.network.lm_head

    def lm_head(hidden: Any) -> Any:
        logits = head(hidden)
        logits[:, stop] = float("-1e9")  # no row samples an end token
        return logits

    broken.network.lm_head = lm_head
    watching = SamplingParams(False, 1.0, 1.0, 0, 1.0, stop_loops=True)
    unstopped, _ = decode(broken, ids[:8], limits=[400] * 8)
    completions, _ = decode(broken, ids[:8], limits=[400] * 8, sampling_params=watching)
    looping = [row for row in completions if row.finish_reason == "loop"]
    assert looping, "without an end token, the demo model repeats itself"
    for row, unstopped_row, prompt in zip(completions, unstopped, ids, strict=False):
        end = sequence.find_loop(unstopped_row.ids, prompt)
        assert row.ids == unstopped_row.ids[:end]
        assert row.finish_reason == ("length" if end is None else "loop")
    assert decode(hymt, ids, sampling_params=watching)[0] == alone, "rows without a loop are unchanged"
    assert torch.is_inference_mode_enabled() is False


def test_a_loop_is_ignored_if_the_source_has_one_too() -> None:
    dots = [7] * 48
    assert sequence.is_looping(dots, [1, 2, 3])
    assert not sequence.is_looping(dots, [1, *[9] * 60, 2]), "dots of a table of contents"
    assert not sequence.is_looping(dots[:-1], [1, 2, 3]), "checked only every 16 tokens"
    assert sequence.is_looping(list(range(64)) * 4, [1])
    assert not sequence.is_looping([*range(65)] * 4, [1])
    assert not sequence.is_looping(list(range(480)), [1])


def test_the_mean_logprob_is_that_of_the_chosen_tokens(hymt: LoadedModel) -> None:
    import torch

    ids = prompts(hymt, 3)
    completions, _ = decode(hymt, ids, logprobs=True)
    for prompt, row in zip(ids, completions, strict=True):
        input_ids = torch.tensor([[*prompt, *row.ids, hymt.tokenizer.stop_ids[0]]])
        with torch.inference_mode():
            all_logprobs = torch.log_softmax(hymt.network(input_ids=input_ids).logits[0].float(), dim=-1)
        positions = range(len(prompt), input_ids.shape[1])
        logprobs = [float(all_logprobs[position - 1, input_ids[0, position]]) for position in positions]
        if row.ids and max(logprobs[:-1]) > -20:
            stop = max(float(all_logprobs[input_ids.shape[1] - 2, stop_id]) for stop_id in hymt.tokenizer.stop_ids)
            expected = (sum(logprobs[:-1]) + stop) / len(logprobs)
            assert row.mean_logprob == pytest.approx(expected, abs=2e-3)
    assert decode(hymt, ids)[0][0].mean_logprob is None


def test_the_rope_update_is_skipped_only_where_it_has_no_effect() -> None:
    class Module:
        rope_type, original_max_seq_len, max_seq_len_cached = "dynamic", 100, 100

    module = Module()
    network = SimpleNamespace(modules=lambda: [module, object()])
    with network_patch._skip_rope_update(network, 100):
        assert module.rope_type == "default"
    assert module.rope_type == "dynamic"
    with network_patch._skip_rope_update(network, 101):
        assert module.rope_type == "dynamic"


def test_neighbours_with_similar_numbers_of_keys_form_one_span() -> None:
    assert slot_attention.make_spans([]) == ()
    assert slot_attention.make_spans([7]) == ((0, 1, 7),)
    assert slot_attention.make_spans([100] * 64) == ((0, 64, 100),)
    assert slot_attention.make_spans([200] * 8 + [195] * 8 + [20] * 5) == ((0, 16, 200), (16, 21, 20))
    rows = [random.Random(n).randrange(1, 300) for n in range(61)]
    spans = slot_attention.make_spans(rows)
    assert [first for first, _, _ in spans] == [0, *(end for _, end, _ in spans[:-1])]
    assert all(length == max(rows[first:end]) for first, end, length in spans)


def test_attention_over_spans_equals_attention_over_all_rows() -> None:
    lengths = [90, 80, 70, 60, 50, 40, 30, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11]
    query, key, value = torch.randn(17, 8, 1, 16), torch.randn(17, 2, 90, 16), torch.randn(17, 2, 90, 16)
    visible = torch.arange(90)[None, None, :] < torch.tensor(lengths)[:, None, None]
    mask = slot_attention.grouped_mask(visible, 4, torch.float32)
    whole, _ = slot_attention.attend(None, query, key, value, mask, 0.25)
    key.spans = slot_attention.make_spans(lengths)  # type: ignore[attr-defined]
    assert len(slot_attention.make_spans(lengths)) > 1
    by_span, _ = slot_attention.attend(None, query, key, value, mask, 0.25)
    torch.testing.assert_close(by_span, whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_by_products_is_as_exact_as_the_one_of_torch(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, length, capacity = 24, 90, 128

    def randoms(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    query = 3 * randoms(rows, 8, 1, 64)  # scores of some 25, which bfloat16 alone would round by up to 0.06
    stored_key, stored_value = randoms(rows, 2, capacity, 64), randoms(rows, 2, capacity, 64)
    lengths = torch.arange(1, rows + 1) * length // rows
    visible = torch.arange(length)[None, None, :] < lengths[:, None, None]
    mask = slot_attention.grouped_mask(visible, 4, dtype)
    key, value = stored_key[:, :, :length], stored_value[:, :, :length]
    exact = torch.nn.functional.scaled_dot_product_attention(
        query.view(rows, 2, 4, 64).double(), key.double(), value.double(), attn_mask=mask.double(), scale=0.125
    ).view(rows, 1, 8, 64)

    def error(result: torch.Tensor) -> float:
        return float((result.double() - exact).norm() / exact.norm())

    monkeypatch.setattr(slot_attention, "_prefers_products", lambda: True)
    calls = []
    original = slot_attention._attend_by_products
    monkeypatch.setattr(slot_attention, "_attend_by_products", lambda *a, **k: (calls.append(a), original(*a, **k))[1])
    by_products, _ = slot_attention.attend(None, query, key, value, mask, 0.125)
    assert len(calls) == 1
    spanned = key.clone()
    spanned.spans = ((0, 17, int(lengths[16])), (17, 24, length))  # type: ignore[attr-defined]
    by_span, _ = slot_attention.attend(None, query, spanned, value, mask, 0.125)
    assert len(calls) == 2, "the second span has few rows, which are faster with torch's attention"
    with monkeypatch.context() as torch_only:
        torch_only.setattr(slot_attention, "MIN_PRODUCT_HEADS", {})
        by_torch, _ = slot_attention.attend(None, query, key, value, mask, 0.125)
    monkeypatch.setattr(slot_attention, "_prefers_products", lambda: False)
    slot_attention.attend(None, query, key, value, mask, 0.125)
    assert len(calls) == 2 + (dtype is torch.float32), "in bfloat16 they are used on some processors only"
    assert error(by_products) <= 1.3 * error(by_torch)
    assert error(by_span) <= 1.3 * error(by_torch)
    calls.clear()
    monkeypatch.setattr(slot_attention, "_prefers_products", lambda: True)
    monkeypatch.setattr(slot_attention, "PRODUCT_BYTES", 5 * 2 * length * 64 * dtype.itemsize)
    in_blocks, _ = slot_attention.attend(None, query, key, value, mask, 0.125)
    assert len(calls) == 5, "5 rows at once"
    assert error(in_blocks) <= 1.3 * error(by_torch)


def test_products_are_not_used_where_they_are_inexact_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    prefers = slot_attention._prefers_products.__wrapped__
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert prefers()
    original = slot_attention._attend_by_products
    with monkeypatch.context() as inexact:
        inexact.setattr(slot_attention, "_attend_by_products", lambda *a, **k: original(*a, **k) * 1.01)
        assert not prefers()
    with monkeypatch.context() as amx:
        amx.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
        assert not prefers()
    with monkeypatch.context() as no_mkldnn:
        no_mkldnn.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert not prefers()
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not prefers(), "a version of torch that cannot tell"


def test_the_values_of_the_common_prefix_are_no_view_of_a_larger_product() -> None:
    heads = torch.randn(1, 5, 6, 16)
    keys, values = heads[:, :, 2:4].transpose(1, 2), heads[:, :, 4:].transpose(1, 2)
    prefix = PrefixCache(torch.arange(5))
    assert all(map(torch.equal, prefix.update(keys, values, 0), (keys, values)))
    for stored, given in zip(prefix.layers[0], (keys, values), strict=True):
        assert torch.equal(stored, given)
        assert stored.untyped_storage().nbytes() == given.numel() * given.element_size()
