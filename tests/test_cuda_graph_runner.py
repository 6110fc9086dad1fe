"""Captured steps, pretended on the CPU: the same text, addresses that stay, nothing asked of the host, a way back."""

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

from hymt_batch import batch
from hymt_batch.batch import BatchBudget
from hymt_batch.decode import cuda_graph_runner, graph, sampling, self_check, slots
from hymt_batch.decode.async_copy import FINITE, TOKEN, AsyncCopy, SampledTokens, from_ring
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.engine import Decoder
from hymt_batch.decode.generate import Completion, decode_batch
from hymt_batch.decode.graph import EmulatedGraphs, Step
from hymt_batch.decode.sampling import SamplingParams
from hymt_batch.decode.sequence import Counters, SequenceState
from hymt_batch.decode.settings import DecodeConfig, Engine, Method
from hymt_batch.decode.slots import decode_prompts
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.errors import DeviceError, StoppedError
from hymt_batch.model import synthetic
from hymt_batch.model.prepare import LoadedModel
from hymt_batch.model.synthetic import Shape
from hymt_batch.records import Prompt
from tests.test_slots import GREEDY, SAMPLED, forgetful, loaded, prompts, stopping_after

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
    """What the engine's own steps give."""
    return decode_prompts(hymt, ids, [200] * 40, list(range(40)), GREEDY, lambda: None, max_rows=8, max_tokens=99_999)[
        0
    ]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths that occur in a test fall into several buckets."""
    monkeypatch.setattr(graph, "LENGTH_BUCKET", 32)
    monkeypatch.setattr(graph, "SLOT_BUCKETS", (1, 2, 4, 8))


class Frozen(EmulatedGraphs):
    """Like a graph: runs again over the tensors that there were, with the rule that there was, or not at all."""

    def __init__(self) -> None:
        self.owner: CudaGraphRunner
        self.forgotten = 0

    def _held(self) -> tuple[Any, ...]:
        own = self.owner
        tensors = [*(one for pair in own.cache.layers.values() for one in pair), own.last_tokens, own.state, own.ring]
        if own.sampling_params.repetition_penalty != 1.0:
            tensors.append(own.seen)
        rope = [getattr(module, "rope_type", None) for module in own.hymt.network.modules()]
        return (
            *((one.data_ptr(), one.shape) for one in tensors),
            own.sampling_params,
            own.logprobs,
            own.read_every,
            rope,
        )

    def capture(self, step: Step) -> Step:
        held, forgotten = self._held(), self.forgotten

        def again() -> None:
            assert held == self._held(), "a graph would run over what is not there any more"
            assert forgotten == self.forgotten, "its memory was given back"
            step()

        return again

    def release(self) -> None:
        self.forgotten += 1


def frozen(hymt: Any, backend: Frozen | None = None) -> CudaGraphRunner:
    backend = backend or Frozen()
    backend.owner = CudaGraphRunner(hymt, GREEDY, backend)
    return backend.owner


def decode(
    hymt: Any, ids: Sequence[Sequence[int]], steps: CudaGraphRunner | None, **options: Any
) -> tuple[list[Completion], Counters]:
    counters = Counters()
    settings: dict[str, Any] = {"max_rows": 8, "max_tokens": 99_999, "counters": counters, **options}
    choice, limits = settings.pop("choice", GREEDY), settings.pop("limits", [200] * len(ids))
    stop = settings.pop("check_stop", lambda: None)
    made, _ = decode_prompts(hymt, ids, limits, list(range(len(ids))), choice, stop, graph_runner=steps, **settings)
    return made, counters


@pytest.mark.parametrize("read_every", [1, 4])
@pytest.mark.parametrize("max_rows", [1, 3, 8, 64])
@pytest.mark.usefixtures("short")
def test_captured_steps_give_the_text_of_plain_ones(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion], max_rows: int, read_every: int
) -> None:
    order = random.Random(max_rows).sample(range(40), 40)
    steps = frozen(hymt)
    made, counters = decode(hymt, [ids[n] for n in order], steps, max_rows=max_rows, read_every=read_every)
    assert made == [plain[n] for n in order]
    assert counters.steps == counters.replays + counters.captures
    assert counters.captures == len(steps.graphs) <= 9 * len({key[1] for key in steps.graphs})
    assert counters.replays > 0.6 * counters.steps
    assert counters.host_reads <= (counters.steps + 40) / read_every + 1, "one for so many passes"
    assert counters.useful_row_steps == sum(len(row.ids) for row in plain)


def test_captured_steps_give_the_text_of_generate(hymt: LoadedModel, ids: list[list[int]]) -> None:
    wanted = [decode_batch(hymt, [one], [200], [0], GREEDY, lambda: None)[0] for one in ids[:6]]
    assert decode(hymt, ids[:6], frozen(hymt), max_rows=4)[0] == wanted


@pytest.mark.parametrize("read_every", [1, 4])
@pytest.mark.parametrize(
    "choice", [SAMPLED, SamplingParams(True, 0.7, 0.6, 20, 1.05), SamplingParams(False, 1.0, 1.0, 0, 1.3)]
)
@pytest.mark.usefixtures("short")
def test_every_rule_chooses_as_in_plain_steps(
    hymt: LoadedModel, ids: list[list[int]], choice: SamplingParams, read_every: int
) -> None:
    limits = [5 + 3 * (n % 9) for n in range(20)]
    wanted, _ = decode(hymt, ids[:20], None, choice=choice, limits=limits, max_rows=1)
    steps = frozen(hymt)
    made, counters = decode(hymt, ids[:20], steps, choice=choice, limits=limits, max_rows=7, read_every=read_every)
    assert made == wanted
    assert counters.replays > 0


def test_noise_on_the_device_is_that_of_the_host() -> None:
    seeds = [random.Random(7).getrandbits(64) for _ in range(64)] + [0, 2**64 - 1, 2**63]
    for step in (0, 1, 4095):
        wanted = [sampling._as_int64(sampling._rng_key(seed, step)) for seed in seeds]
        own = torch.tensor([sampling.seed_as_int64(seed) for seed in seeds])
        assert sampling.rng_keys(own, torch.full_like(own, step)).tolist() == wanted


def test_logarithms_of_probabilities_come_back(hymt: LoadedModel, ids: list[list[int]]) -> None:
    wanted, _ = decode(hymt, ids[:9], None, logprobs=True)
    made, _ = decode(hymt, ids[:9], frozen(hymt), logprobs=True, read_every=3)
    assert [one.mean_logprob for one in made] == pytest.approx([one.mean_logprob for one in wanted], abs=1e-5)


@pytest.mark.usefixtures("short")
def test_graphs_are_kept_from_part_to_part_and_given_up_when_the_storage_moves(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion]
) -> None:
    backend = Frozen()
    steps = frozen(hymt, backend)
    by_width = sorted(range(40), key=lambda n: -len(ids[n]))
    longer, shorter = by_width[:20], by_width[20:]
    assert decode(hymt, [ids[n] for n in longer], steps)[0] == [plain[n] for n in longer]
    _, counters = decode(hymt, [ids[n] for n in longer], steps)
    assert (counters.captures, counters.replays) == (0, counters.steps), "all of it again"
    assert decode(hymt, [ids[n] for n in shorter], steps)[0] == [plain[n] for n in shorter]
    assert backend.forgotten == 0, "narrower rows have room"
    made, counters = decode(hymt, [ids[n] for n in longer], steps, max_rows=16)
    assert made == [plain[n] for n in longer]
    assert backend.forgotten == 1
    assert counters.captures > 0
    decode(hymt, ids[:9], steps, read_every=2)
    assert backend.forgotten == 2, "the ring is another"


@pytest.mark.usefixtures("short")
def test_more_slots_are_taken_when_the_widest_rows_are_done(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion]
) -> None:
    limits = [len(row.ids) + 1 for row in plain]
    limits[0] = 2000
    made, counters = decode(hymt, ids, frozen(hymt), limits=limits, max_rows=16, max_tokens=4500)
    assert [row.ids for row in made] == [row.ids for row in plain]
    assert counters.row_steps / counters.steps > 4


@pytest.mark.parametrize("read_every", [1, 3])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("short")
def test_running_out_of_memory_loses_no_row(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion], seed: int, read_every: int
) -> None:
    broken = forgetful(hymt, share=0.05, seed=seed)
    made, counters = decode(broken, ids, frozen(broken), max_rows=16, read_every=read_every)
    assert made == plain
    assert counters.out_of_memory == broken.network.refusals > 0
    few = forgetful(hymt, most=3)
    assert decode(few, ids, frozen(few), max_rows=32, read_every=read_every)[0] == plain


@pytest.mark.usefixtures("short")
def test_numbers_that_are_not_finite_do_not_outlive_their_row(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion]
) -> None:
    broken = forgetful(hymt)
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
    made, _ = decode(broken, ids, frozen(broken), max_rows=4, read_every=3)
    bad = [number for number, row in enumerate(made) if row.finish_reason == "non_finite"]
    assert len(bad) == 1
    assert [row for n, row in enumerate(made) if n not in bad] == [row for n, row in enumerate(plain) if n not in bad]


class Failing(Frozen):
    """Captures a few steps, and then none."""

    def __init__(self, left: int, error: RuntimeError) -> None:
        super().__init__()
        self.left, self.error = left, error

    def capture(self, step: Step) -> Step:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().capture(step)


@pytest.mark.parametrize("left", [0, 2])
@pytest.mark.parametrize("error", [RuntimeError("not permitted while capturing"), torch.OutOfMemoryError("CUDA out")])
@pytest.mark.usefixtures("short")
def test_a_capture_that_fails_costs_no_row_and_is_not_tried_again(
    hymt: LoadedModel,
    ids: list[list[int]],
    plain: list[Completion],
    caplog: pytest.LogCaptureFixture,
    left: int,
    error: Any,
) -> None:
    backend = Failing(left, error)
    steps = frozen(hymt, backend)
    made, counters = decode(hymt, ids, steps, read_every=2)
    assert made == plain
    assert (counters.captures, counters.out_of_memory) == (left, 0)
    assert steps.disabled_reason == str(error)
    assert decode(hymt, ids, steps)[0] == plain
    assert backend.left == -1
    assert caplog.text.count("are not captured any more") == 1


def test_a_call_that_is_given_up_leaves_nothing_behind(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion]
) -> None:
    steps = frozen(hymt)
    with pytest.raises(StoppedError):
        decode(hymt, ids, steps, check_stop=stopping_after(9))
    assert not steps.graphs
    assert not steps.cache.layers
    assert decode(hymt, ids, steps)[0] == plain


def test_positions_that_change_the_network_are_decoded_without(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = frozen(hymt)
    monkeypatch.setattr(slots, "_has_dynamic_rope", lambda network: True)
    made, counters = decode(hymt, ids, steps)
    assert made == plain
    assert counters.captures == counters.replays == 0
    assert decode(hymt, ids, steps, stages=2)[0] == plain


class OnDevice(TorchDispatchMode):
    """Refuses whatever makes the host wait for a GPU: tensors of the host, numbers that it reads, shapes from data."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal.default", "item")

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not any(part in name for part in self.WAITS), f"{name} waits"
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs or {})):
            if isinstance(tensor, torch.Tensor):
                assert tensor.device.type == "meta", f"{name} takes a tensor of the host"
                if name.startswith("aten.index"):
                    # on a GPU, torch puts a number that is written by indices on the host first
                    assert tensor.ndim > 0, f"{name} writes a number"
                    assert tensor.dtype is not torch.bool or tensor is args[0], f"{name} by a mask"
        self.seen.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "choice",
    [
        GREEDY,
        SamplingParams(False, 1.0, 1.0, 0, 1.05),
        SamplingParams(True, 0.7, 0.6, 20, 1.05),
        SamplingParams(True, 1.5, 1.0, 0, 1.0),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_asks_the_host_for_nothing(choice: SamplingParams, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that has shapes and no numbers, as it is for the host while a GPU is at work."""
    # transformers 4.56 turns it off around its positions, which torch refuses for such a device
    monkeypatch.setattr(torch, "autocast", lambda **settings: nullcontext())
    made = synthetic.make_model(Shape["demo"], dtype, 0)
    made.network.to("meta")
    hymt = replace(made, device="meta")
    steps = CudaGraphRunner(hymt, choice, EmulatedGraphs())
    with torch.inference_mode(), slots.patch_network(hymt.network, 300):
        assert not slots._has_dynamic_rope(hymt.network)
        steps.start(choice, Counters(), 8, 40, max_tokens=9999, read_every=4, logprobs=True)
        steps._allocate_state()
        steps.run_step(8, 256)  # the storage is there from now on
        with OnDevice() as watched:
            steps.run_step(8, 256)
            steps.run_step(4, 256)
    assert (steps.seen is None) == (choice.repetition_penalty == 1.0)
    assert {"aten.index_put_.default", "aten.index_copy_.default", "aten.argmax.default"} <= watched.seen


def test_what_makes_the_host_wait_is_found() -> None:
    held = torch.zeros(4, 4, dtype=torch.bool, device="meta")
    at = torch.zeros(4, dtype=torch.int64, device="meta")
    with OnDevice(), pytest.raises(AssertionError, match="writes a number"):
        held[at, at] = True
    with OnDevice(), pytest.raises(AssertionError, match="of the host"):
        at + torch.zeros(4)
    with OnDevice(), pytest.raises(AssertionError, match="waits"):
        at.sum().item()
    with OnDevice(), pytest.raises(AssertionError, match=r"by a mask|nonzero"):
        at[held[0]]


def test_numbers_of_slots_and_lengths_are_few() -> None:
    assert [graph.bucket_slots(num, 64) for num in (1, 3, 9, 33, 64)] == [1, 4, 16, 48, 64]
    assert [graph.bucket_slots(num, 200) for num in (65, 97, 129, 200)] == [96, 128, 160, 200]
    assert graph.bucket_slots(5, 6) == 6
    assert len({graph.bucket_slots(num, 512) for num in range(1, 513)}) == 22
    assert [graph.bucket_length(num) for num in (1, 256, 257)] == [256, 256, 512]


def test_a_reading_is_of_the_time_when_it_began() -> None:
    row = SequenceState(0, [1], 1, 0)
    ring = torch.zeros(2, 3, 4, dtype=torch.int64)
    ring[1, TOKEN], ring[1, FINITE] = 7, 1
    own = SampledTokens((row,), torch.tensor([5]), torch.tensor([True]), None)
    reading = AsyncCopy([own, from_ring([row], ring, 1, logprobs=True)])
    ring.zero_()
    first, second = reading.wait()
    assert (first.tokens.tolist(), first.finite.tolist()) == ([5], [True])
    assert (second.tokens.tolist(), second.finite.tolist()) == ([7], [1])
    assert second.logprobs is not None


def decoder(hymt: LoadedModel, **settings: Any) -> Decoder:
    group = partial(batch.group, batch_budget=BatchBudget(99_999, 8))
    config = DecodeConfig(engine=settings.pop("engine", Engine.slots), capture=True, **settings)
    return Decoder(hymt, config, group, seed=0, check_stop=lambda: None, max_rows=8, max_tokens=99_999)


@pytest.mark.parametrize("method", list(Method))
def test_the_gate_lets_right_steps_through(hymt: LoadedModel, method: Method) -> None:
    own = decoder(hymt, method=method, read_every=2)
    own.self_check()
    assert own.graph_runner is not None
    assert own.graph_runner.graphs
    assert own.take_degraded() == ()


@pytest.mark.parametrize("spoiled", ["wrong tokens", "a lost position", "cannot be captured", "breaks"])
def test_the_gate_takes_the_plain_steps_where_captured_ones_are_wrong(
    hymt: LoadedModel, caplog: pytest.LogCaptureFixture, spoiled: str
) -> None:
    own = decoder(hymt)
    assert own.graph_runner is not None
    steps, real = own.graph_runner, own.graph_runner.run_step

    def run(number: int, length: int) -> None:
        if spoiled == "breaks":
            raise RuntimeError("shape mismatch")
        real(number, length)
        assert steps.ring is not None
        assert steps.state is not None
        if spoiled == "wrong tokens":
            steps.ring[:, TOKEN] += 1
        else:
            steps.state[cuda_graph_runner.POSITION] -= 1

    if spoiled == "cannot be captured":
        steps.backend = Failing(0, RuntimeError("operation not permitted when stream is capturing"))
    else:
        steps.run_step = run  # type: ignore[method-assign]
    own.self_check()
    assert own.graph_runner is None
    assert own.take_degraded() == (cuda_graph_runner.NOT_CAPTURED,)
    assert "decode.capture: steps are not captured any more" in caplog.text
    assert not own.by_batch, "the engine goes on with its own steps"


def test_a_gpu_that_is_lost_in_the_gate_ends_the_process(hymt: LoadedModel) -> None:
    own = decoder(hymt)
    assert own.graph_runner is not None

    def run(number: int, length: int) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    own.graph_runner.run_step = run  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match=r"decode\.capture=false"):
        own.self_check()


def test_in_low_precision_near_ties_pass_and_other_answers_do_not() -> None:
    agree = partial(self_check._row_matches, exact=False, tolerance=0.5)
    assert agree([(1, -0.1), (2, -0.7), (3, -0.1)], [(1, -0.2), (4, -0.8), (9, -5.0)])
    assert not agree([(1, -0.1), (2, -0.1)], [(1, -0.2), (4, -3.0)])
    assert not agree([(1, -0.1)], [(1, float("nan"))])
    assert not self_check._row_matches([(1, -0.1)], [(2, -0.1)], exact=True, tolerance=1.0)


def test_what_cannot_be_captured_is_told(hymt: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
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
    assert decoder(hymt, engine=Engine.generate).graph_runner is None
    assert decoder(hymt, stages=2).take_degraded() == (cuda_graph_runner.NOT_CAPTURED,)
    assert "decode.capture=true has no effect: it is for decode.engine=slots" in caplog.text


def test_a_part_that_went_on_without_is_marked(
    hymt: LoadedModel, ids: list[list[int]], plain: list[Completion]
) -> None:
    own, right = decoder(hymt), decoder(hymt)
    segment: Any = SimpleNamespace(index=0)
    asked = [
        Prompt(row_id=f"in.txt#{n}", segment=segment, ids=tuple(one), num_source_tokens=99, tgt_lang="fr")
        for n, one in enumerate(ids[:9])
    ]
    assert own.graph_runner is not None
    own.graph_runner.backend = Failing(1, RuntimeError("no"))
    own.graph_runner.backend.owner = own.graph_runner
    assert [one.text for one in own.run(asked)] == [one.text for one in right.run(asked)]
    assert own.take_degraded() == (cuda_graph_runner.NOT_CAPTURED,)
    own.run(asked[:2])
    assert own.take_degraded() == (cuda_graph_runner.NOT_CAPTURED,), "and every later part"
    assert right.take_degraded() == ()
    assert own.graph_runner is None


@pytest.mark.usefixtures("short")
def test_storage_moves_only_when_no_graph_points_to_it(
    hymt: LoadedModel, ids: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Frozen()
    steps = frozen(hymt, backend)
    row = SequenceState(0, ids[0], 200, 0)
    with torch.inference_mode(), slots.patch_network(hymt.network, 400):
        steps.start(GREEDY, Counters(), 1, len(row.prompt_ids) + 2, max_tokens=9999)
        steps.prefill([row], 0)
        capacity = steps.cache.capacity
        while row.position < capacity:  # longer than was said
            steps.step([row])
        assert backend.forgotten == 0
        steps.step([row])
        assert (backend.forgotten, len(steps.graphs)) == (1, 1)
        assert steps.cache.capacity > capacity

        real = steps.cache.resize

        def resize(*arguments: Any) -> None:
            assert not steps.graphs
            real(*arguments)

        monkeypatch.setattr(steps.cache, "resize", resize)
        steps.resize(3, row.position + 1, 300)
        assert backend.forgotten == 2
        steps.resize(2, row.position + 1, 300)
        assert steps.cache.num_slots == 3, "more slots than two are there"
        steps.step([row])
        steps.resize(1)
        assert (steps.cache.num_slots, backend.forgotten) == (1, 3)
