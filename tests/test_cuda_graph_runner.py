"""Captured steps, emulated on the CPU: same text, fixed addresses, no host synchronisation, fallback to plain steps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hymt_batch.decode import cuda_graph_runner, graph, network_patch, noise, self_check, slots
from hymt_batch.decode.async_copy import FINITE, TOKEN, AsyncCopy, SampledTokens, from_ring
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.decoder import Decoder
from hymt_batch.decode.engine import find
from hymt_batch.decode.generate import decode_batch
from hymt_batch.decode.graph import EmulatedGraphs, Step
from hymt_batch.decode.request import Completion
from hymt_batch.decode.sampling import GREEDY, SamplingParams
from hymt_batch.decode.sequence import Counters, SequenceState
from hymt_batch.decode.settings import DecodeConfig, Method, resolve_sampling_params
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.errors import DeviceError, StoppedError
from hymt_batch.model import synthetic
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.settings import RecommendedSampling
from hymt_batch.model.synthetic import Shape
from hymt_batch.records import Prompt
from tests.fakes.engine import make_context, make_requests
from tests.test_slots import SAMPLED, loaded, prompts, stopping_after, with_memory_errors

pytestmark = pytest.mark.core

LANGS = ("fr", "de", "zh")


@pytest.fixture(scope="module")
def hymt() -> LoadedModel:
    return loaded(DeviceMapConfig(strategy=Strategy.cpu))


@pytest.fixture(scope="module")
def ids(hymt: LoadedModel) -> list[list[int]]:
    return prompts(hymt, 40, LANGS)


@pytest.fixture(scope="module")
def plain(hymt: LoadedModel, ids: list[list[int]]) -> list[Completion]:
    """The completions of plain steps."""
    return decode(hymt, ids, None)[0]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make buckets so small that the lengths in a test fall into several of them."""
    monkeypatch.setattr(graph, "LENGTH_BUCKET", 32)
    monkeypatch.setattr(graph, "SLOT_BUCKETS", (1, 2, 4, 8))


class CheckedGraphs(EmulatedGraphs):
    """Emulates a graph strictly: a replay fails if the tensors or settings of the capture have changed."""

    def __init__(self) -> None:
        self.owner: CudaGraphRunner
        self.num_released = 0

    def _snapshot(self) -> tuple[Any, ...]:
        owner = self.owner
        tensors = [
            *(tensor for pair in owner.cache.layers.values() for tensor in pair),
            owner.last_tokens,
            owner.state,
            owner.ring,
        ]
        if owner.sampling_params.repetition_penalty != 1.0:
            tensors.append(owner.seen)
        rope = [getattr(module, "rope_type", None) for module in owner.hymt.network.modules()]
        return (
            *((tensor.data_ptr(), tensor.shape) for tensor in tensors),
            owner.sampling_params,
            owner.logprobs,
            owner.read_every,
            rope,
        )

    def capture(self, step: Step) -> Step:
        snapshot, num_released = self._snapshot(), self.num_released

        def replay() -> None:
            assert snapshot == self._snapshot(), "a graph would read storage or settings that have changed"
            assert num_released == self.num_released, "the memory of the graph was freed"
            step()

        return replay

    def release(self) -> None:
        self.num_released += 1


def checked_runner(hymt: Any, backend: CheckedGraphs | None = None) -> CudaGraphRunner:
    backend = backend or CheckedGraphs()
    backend.owner = CudaGraphRunner(hymt, GREEDY, backend)
    return backend.owner


def decode(
    hymt: Any, ids: Sequence[Sequence[int]], runner: CudaGraphRunner | None, **options: Any
) -> tuple[list[Completion], Counters]:
    sampling_params, limits = options.pop("sampling_params", GREEDY), options.pop("limits", [200] * len(ids))
    stop = options.pop("check_stop", lambda: None)
    settings = DecodeConfig(stages=options.pop("stages", 1), read_every=options.pop("read_every", 1))
    context = make_context(hymt, settings=settings, **{"max_rows": 8, "max_tokens": 99_999, **options})
    engine = SlotEngine(context, runner)
    return engine.generate(make_requests(ids, limits, sampling_params), stop), engine.counters


@pytest.mark.parametrize("read_every", [1, 4])
@pytest.mark.parametrize("max_rows", [1, 3, 8, 64])
@pytest.mark.usefixtures("short")
def test_captured_steps_give_the_text_of_plain_steps(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion], max_rows: int, read_every: int
) -> None:
    order = random.Random(max_rows).sample(range(40), 40)
    runner = checked_runner(hymt)
    completions, counters = decode(hymt, [ids[n] for n in order], runner, max_rows=max_rows, read_every=read_every)
    assert completions == [plain[n] for n in order]
    assert counters.steps == counters.replays + counters.captures
    assert counters.captures == len(runner.graphs) <= 9 * len({key[1] for key in runner.graphs})
    assert counters.replays > 0.6 * counters.steps
    assert counters.host_reads <= (counters.steps + 40) / read_every + 1, "one read per `read_every` passes"
    assert counters.useful_row_steps == sum(len(row.ids) for row in plain)


def test_captured_steps_give_the_text_of_generate(hymt: LoadedModel, ids: list[list[int]]) -> None:
    expected = [decode_batch(hymt, make_requests([prompt], [200], GREEDY), lambda: None)[0] for prompt in ids[:6]]
    assert decode(hymt, ids[:6], checked_runner(hymt), max_rows=4)[0] == expected


@pytest.mark.parametrize("read_every", [1, 4])
@pytest.mark.parametrize(
    "sampling_params", [SAMPLED, SamplingParams(True, 0.7, 0.6, 20, 1.05), SamplingParams(False, 1.0, 1.0, 0, 1.3)]
)
@pytest.mark.usefixtures("short")
def test_captured_and_plain_steps_sample_the_same_tokens(
    hymt: LoadedModel, ids: list[list[int]], sampling_params: SamplingParams, read_every: int
) -> None:
    limits = [5 + 3 * (n % 9) for n in range(20)]
    expected, _ = decode(hymt, ids[:20], None, sampling_params=sampling_params, limits=limits, max_rows=1)
    runner = checked_runner(hymt)
    completions, counters = decode(
        hymt, ids[:20], runner, sampling_params=sampling_params, limits=limits, max_rows=7, read_every=read_every
    )
    assert completions == expected
    assert counters.replays > 0


def test_noise_on_the_device_equals_that_on_the_host() -> None:
    seeds = [random.Random(7).getrandbits(64) for _ in range(64)] + [0, 2**64 - 1, 2**63]
    for step in (0, 1, 4095):
        expected = [noise.as_int64(noise.rng_key(seed, step)) for seed in seeds]
        int64_seeds = torch.tensor([noise.seed_as_int64(seed) for seed in seeds])
        assert noise.rng_keys(int64_seeds, torch.full_like(int64_seeds, step)).tolist() == expected


def test_captured_steps_return_logprobs(hymt: LoadedModel, ids: list[list[int]]) -> None:
    expected, _ = decode(hymt, ids[:9], None, logprobs=True)
    completions, _ = decode(hymt, ids[:9], checked_runner(hymt), logprobs=True, read_every=3)
    assert [completion.mean_logprob for completion in completions] == pytest.approx(
        [completion.mean_logprob for completion in expected], abs=1e-5
    )


@pytest.mark.usefixtures("short")
def test_graphs_are_kept_between_parts_and_dropped_when_the_storage_moves(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion]
) -> None:
    backend = CheckedGraphs()
    runner = checked_runner(hymt, backend)
    by_length = sorted(range(40), key=lambda n: -len(ids[n]))
    longer, shorter = by_length[:20], by_length[20:]
    assert decode(hymt, [ids[n] for n in longer], runner)[0] == [plain[n] for n in longer]
    _, counters = decode(hymt, [ids[n] for n in longer], runner)
    assert (counters.captures, counters.replays) == (0, counters.steps), "all steps were replays"
    assert decode(hymt, [ids[n] for n in shorter], runner)[0] == [plain[n] for n in shorter]
    assert backend.num_released == 0, "shorter rows fit in the storage"
    completions, counters = decode(hymt, [ids[n] for n in longer], runner, max_rows=16)
    assert completions == [plain[n] for n in longer]
    assert backend.num_released == 1
    assert counters.captures > 0
    decode(hymt, ids[:9], runner, read_every=2)
    assert backend.num_released == 2, "the ring was reallocated"


@pytest.mark.usefixtures("short")
def test_slots_are_added_when_the_longest_rows_are_finished(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion]
) -> None:
    limits = [len(row.ids) + 1 for row in plain]
    limits[0] = 2000
    completions, counters = decode(hymt, ids, checked_runner(hymt), limits=limits, max_rows=16, max_tokens=4500)
    assert [row.ids for row in completions] == [row.ids for row in plain]
    assert counters.row_steps / counters.steps > 4


@pytest.mark.parametrize("read_every", [1, 3])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("short")
def test_running_out_of_memory_loses_no_row(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion], seed: int, read_every: int
) -> None:
    broken = with_memory_errors(hymt, share=0.05, seed=seed)
    completions, counters = decode(broken, ids, checked_runner(broken), max_rows=16, read_every=read_every)
    assert completions == plain
    assert counters.out_of_memory == broken.network.num_errors > 0
    few_rows = with_memory_errors(hymt, max_rows=3)
    assert decode(few_rows, ids, checked_runner(few_rows), max_rows=32, read_every=read_every)[0] == plain


@pytest.mark.usefixtures("short")
def test_non_finite_numbers_do_not_affect_later_rows_in_the_slot(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion]
) -> None:
    broken = with_memory_errors(hymt)
    real, calls = broken.network.model, [0]

    def model(**inputs: Any) -> Any:
        output = real(**inputs)
        calls[0] += 1
        if calls[0] == 2:
            output.last_hidden_state[0] = float("nan")
            for keys, values in inputs["past_key_values"].layers.values():
                keys[0], values[0] = float("nan"), float("inf")
        return output

    broken.network.model = model
    completions, _ = decode(broken, ids, checked_runner(broken), max_rows=4, read_every=3)
    bad = [index for index, row in enumerate(completions) if row.finish_reason == "non_finite"]
    assert len(bad) == 1
    assert [row for n, row in enumerate(completions) if n not in bad] == [
        row for n, row in enumerate(plain) if n not in bad
    ]


class FailingGraphs(CheckedGraphs):
    """Captures a few steps, then fails."""

    def __init__(self, num_captures: int, error: RuntimeError) -> None:
        super().__init__()
        self.remaining, self.error = num_captures, error

    def capture(self, step: Step) -> Step:
        self.remaining -= 1
        if self.remaining < 0:
            raise self.error
        return super().capture(step)


@pytest.mark.parametrize("num_captures", [0, 2])
@pytest.mark.parametrize("error", [RuntimeError("not permitted while capturing"), torch.OutOfMemoryError("CUDA out")])
@pytest.mark.usefixtures("short")
def test_a_failed_capture_loses_no_row_and_is_not_retried(
    hymt: LoadedModel,
    ids: list[list[int]],
    plain: list[Completion],
    caplog: pytest.LogCaptureFixture,
    num_captures: int,
    error: Any,
) -> None:
    backend = FailingGraphs(num_captures, error)
    runner = checked_runner(hymt, backend)
    completions, counters = decode(hymt, ids, runner, read_every=2)
    assert completions == plain
    assert (counters.captures, counters.out_of_memory) == (num_captures, 0)
    assert runner.disabled_reason == str(error)
    assert decode(hymt, ids, runner)[0] == plain
    assert backend.remaining == -1
    assert caplog.text.count("capture is now off") == 1


def test_an_aborted_call_leaves_no_graphs_or_storage_behind(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion]
) -> None:
    runner = checked_runner(hymt)
    with pytest.raises(StoppedError):
        decode(hymt, ids, runner, check_stop=stopping_after(9))
    assert not runner.graphs
    assert not runner.cache.layers
    assert decode(hymt, ids, runner)[0] == plain


def test_networks_with_dynamic_rope_run_without_captured_steps(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = checked_runner(hymt)
    monkeypatch.setattr(slots, "has_dynamic_rope", lambda network: True)
    completions, counters = decode(hymt, ids, runner)
    assert completions == plain
    assert counters.captures == counters.replays == 0
    assert decode(hymt, ids, runner, stages=2)[0] == plain


class NoHostSync(TorchDispatchMode):
    """Fails on operations that make the host wait for a GPU: host tensors, values that it reads, shapes from data."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal.default", "item")

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not any(part in name for part in self.WAITS), f"{name} waits"
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs or {})):
            if isinstance(tensor, torch.Tensor):
                assert tensor.device.type == "meta", f"{name} takes a host tensor"
                if name.startswith("aten.index"):
                    # on a GPU, torch first creates a scalar that is written by index on the host
                    assert tensor.ndim > 0, f"{name} writes a scalar"
                    assert tensor.dtype is not torch.bool or tensor is args[0], f"{name} indexes by a mask"
        self.seen.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "sampling_params",
    [
        GREEDY,
        SamplingParams(False, 1.0, 1.0, 0, 1.05),
        SamplingParams(True, 0.7, 0.6, 20, 1.05),
        SamplingParams(True, 1.5, 1.0, 0, 1.0),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_never_synchronises_with_the_host(
    sampling_params: SamplingParams, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run steps on the meta device, which has shapes but no values, like a busy GPU seen from the host."""
    # transformers 4.56 disables autocast around its RoPE computation, which torch does not support on the meta device
    monkeypatch.setattr(torch, "autocast", lambda **settings: nullcontext())
    cpu_model = synthetic.make_model(Shape["demo"], dtype, 0)
    cpu_model.network.to("meta")
    hymt = replace(cpu_model, device="meta")
    runner = CudaGraphRunner(hymt, sampling_params, EmulatedGraphs())
    with torch.inference_mode(), network_patch.patch_network(hymt.network, 300):
        assert not network_patch.has_dynamic_rope(hymt.network)
        runner.start(sampling_params, Counters(), 8, 40, max_tokens=9999, read_every=4, logprobs=True)
        runner._allocate_state()
        runner.run_step(8, 256)  # allocates the storage
        with NoHostSync() as watched:
            runner.run_step(8, 256)
            runner.run_step(4, 256)
    assert (runner.seen is None) == (sampling_params.repetition_penalty == 1.0)
    assert {"aten.index_put_.default", "aten.index_copy_.default", "aten.argmax.default"} <= watched.seen


def test_operations_that_make_the_host_wait_are_detected() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool, device="meta")
    indices = torch.zeros(4, dtype=torch.int64, device="meta")
    with NoHostSync(), pytest.raises(AssertionError, match="writes a scalar"):
        mask[indices, indices] = True
    with NoHostSync(), pytest.raises(AssertionError, match="a host tensor"):
        indices + torch.zeros(4)
    with NoHostSync(), pytest.raises(AssertionError, match="waits"):
        indices.sum().item()
    with NoHostSync(), pytest.raises(AssertionError, match=r"by a mask|nonzero"):
        indices[mask[0]]


def test_slots_and_lengths_fall_into_few_buckets() -> None:
    assert [graph.bucket_slots(num, 64) for num in (1, 3, 9, 33, 64)] == [1, 4, 16, 48, 64]
    assert [graph.bucket_slots(num, 200) for num in (65, 97, 129, 200)] == [96, 128, 160, 200]
    assert graph.bucket_slots(5, 6) == 6
    assert len({graph.bucket_slots(num, 512) for num in range(1, 513)}) == 22
    assert [graph.bucket_length(num) for num in (1, 256, 257)] == [256, 256, 512]


def test_a_copy_has_the_values_of_the_time_when_it_started() -> None:
    row = SequenceState(0, [1], 1, 0)
    ring = torch.zeros(2, 3, 4, dtype=torch.int64)
    ring[1, TOKEN], ring[1, FINITE] = 7, 1
    sampled = SampledTokens((row,), torch.tensor([5]), torch.tensor([True]), None)
    copy = AsyncCopy([sampled, from_ring([row], ring, 1, logprobs=True)])
    ring.zero_()
    first, second = copy.wait()
    assert (first.tokens.tolist(), first.finite.tolist()) == ([5], [True])
    assert (second.tokens.tolist(), second.finite.tolist()) == ([7], [1])
    assert second.logprobs is not None


def make_decoder(hymt: LoadedModel, **settings: Any) -> Decoder:
    """Return a decoder with an engine that is not checked yet."""
    config = DecodeConfig(engine=settings.pop("engine", "slots"), capture=True, **settings)
    sampling_params = resolve_sampling_params(config, RecommendedSampling())
    context = make_context(hymt, settings=config, sampling_params=sampling_params, max_rows=8, max_tokens=99_999)
    engine, card = find(config.engine).open_engine(context), RecommendedSampling()
    return Decoder(engine, context, max_context=hymt.max_context, seed=0, card=card, check_stop=lambda: None)


@pytest.mark.parametrize("method", list(Method))
def test_the_self_check_accepts_correct_captured_steps(hymt: LoadedModel, method: Method) -> None:
    decoder = make_decoder(hymt, method=method, read_every=2)
    engine: Any = decoder.engine
    assert engine.self_check(lambda: None) is engine
    assert engine.graph_runner is not None
    assert engine.graph_runner.graphs
    assert decoder.take_degraded() == ()


@pytest.mark.parametrize(
    "fault", ["wrong tokens", "a lost position", "cannot be captured", "breaks", "wrong after 40 tokens"]
)
def test_the_self_check_falls_back_to_plain_steps_if_captured_ones_are_wrong(
    hymt: LoadedModel, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    decoder = make_decoder(hymt)
    engine: Any = decoder.engine
    runner, run_step, num_steps = engine.graph_runner, engine.graph_runner.run_step, list[int]()

    def run(num_slots: int, length: int) -> None:
        if fault == "breaks":
            raise RuntimeError("shape mismatch")
        run_step(num_slots, length)
        assert runner.ring is not None
        assert runner.state is not None
        num_steps.append(1)
        if fault == "wrong tokens" or (fault == "wrong after 40 tokens" and len(num_steps) > 40):
            runner.ring[:, TOKEN] += 1
        elif fault == "wrong after 40 tokens":
            return
        else:
            runner.state[cuda_graph_runner.POSITION] -= 1

    if fault == "cannot be captured":
        runner.backend = FailingGraphs(0, RuntimeError("operation not permitted when stream is capturing"))
    else:
        runner.run_step = run  # type: ignore[method-assign]
    assert engine.self_check(lambda: None) is engine, "the engine continues with plain steps"
    assert engine.graph_runner is None
    assert decoder.take_degraded() == (cuda_graph_runner.NOT_CAPTURED,)
    assert "decode.capture: capture is now off" in caplog.text


def test_a_gpu_error_in_the_self_check_ends_the_process(hymt: LoadedModel) -> None:
    engine: Any = make_decoder(hymt).engine

    def run(num_slots: int, length: int) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine.graph_runner.run_step = run
    with pytest.raises(DeviceError, match=r"decode\.capture=false"):
        engine.self_check(lambda: None)


def test_in_low_precision_near_ties_pass_and_other_differences_do_not() -> None:
    agree = partial(self_check.row_matches, exact=False, tolerance=0.5)
    assert agree([(1, -0.1), (2, -0.7), (3, -0.1)], [(1, -0.2), (4, -0.8), (9, -5.0)])
    assert not agree([(1, -0.1), (2, -0.1)], [(1, -0.2), (4, -3.0)])
    assert not agree([(1, -0.1)], [(1, float("nan"))])
    assert not self_check.row_matches([(1, -0.1)], [(2, -0.1)], exact=True, tolerance=1.0)


def test_the_reason_why_steps_cannot_be_captured_is_reported(
    hymt: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    config = SimpleNamespace(model_type="hunyuan_v1_dense")
    fake: Any = SimpleNamespace(network=SimpleNamespace(config=config), placement=None, device="cuda:0")
    assert cuda_graph_runner.unsupported_reason(fake, 1) == ""
    assert "several" in cuda_graph_runner.unsupported_reason(fake, 2)
    fake.placement = SimpleNamespace(devices=("cuda:0", "cpu"))
    assert "several" in cuda_graph_runner.unsupported_reason(fake, 1)
    fake.placement, config.quantization_config = None, {"quant_method": "gptq"}
    assert "quantised" in cuda_graph_runner.unsupported_reason(fake, 1)
    config.model_type = "hy_v3"
    assert "experts" in cuda_graph_runner.unsupported_reason(fake, 1)
    assert make_decoder(hymt, engine="generate").engine.environment["capture"] is False
    assert make_decoder(hymt, stages=2).take_degraded() == (cuda_graph_runner.NOT_CAPTURED,)
    assert "decode.capture=true has no effect: it requires decode.engine=slots" in caplog.text


def test_a_part_that_continued_without_captured_steps_is_marked(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion]
) -> None:
    decoder, correct = make_decoder(hymt), make_decoder(hymt)
    segment: Any = SimpleNamespace(index=0)
    rows = [
        Prompt(row_id=f"in.txt#{n}", segment=segment, ids=tuple(prompt_ids), num_source_tokens=99, tgt_lang="fr")
        for n, prompt_ids in enumerate(ids[:9])
    ]
    engine: Any = decoder.engine
    engine.graph_runner.backend = FailingGraphs(1, RuntimeError("no"))
    engine.graph_runner.backend.owner = engine.graph_runner
    assert [row.text for row in decoder.run(rows)] == [row.text for row in correct.run(rows)]
    assert decoder.take_degraded() == (cuda_graph_runner.NOT_CAPTURED,)
    decoder.run(rows[:2])
    assert decoder.take_degraded() == (cuda_graph_runner.NOT_CAPTURED,), "every later part is marked too"
    assert correct.take_degraded() == ()
    assert engine.graph_runner is None


@pytest.mark.usefixtures("short")
def test_graphs_are_dropped_before_the_storage_moves(
    hymt: LoadedModel, ids: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = CheckedGraphs()
    runner = checked_runner(hymt, backend)
    row = SequenceState(0, ids[0], 200, 0)
    with torch.inference_mode(), network_patch.patch_network(hymt.network, 400):
        runner.start(GREEDY, Counters(), 1, len(row.prompt_ids) + 2, max_tokens=9999)
        runner.prefill([row], 0)
        capacity = runner.cache.capacity
        while row.position < capacity:  # longer than the announced length
            runner.step([row])
        assert backend.num_released == 0
        runner.step([row])
        assert (backend.num_released, len(runner.graphs)) == (1, 1)
        assert runner.cache.capacity > capacity

        real_resize = runner.cache.resize

        def resize(*arguments: Any) -> None:
            assert not runner.graphs
            real_resize(*arguments)

        monkeypatch.setattr(runner.cache, "resize", resize)
        runner.resize(3, row.position + 1, 300)
        assert backend.num_released == 2
        runner.resize(2, row.position + 1, 300)
        assert runner.cache.num_slots == 3, "there are already more than two slots"
        runner.step([row])
        runner.resize(1)
        assert (runner.cache.num_slots, backend.num_released) == (1, 3)
