"""The simulations of a cluster: what they say at known points."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.campaigns import cluster_scale, curve, straggler
from tests.campaigns.cluster_scale import COSTS, PLANS
from tests.campaigns.straggler import Worker


def test_the_file_system_is_the_limit_of_the_defaults_and_not_of_the_recommended_settings() -> None:
    default, recommended = PLANS["as set by default"], list(PLANS.values())[-1]
    assert cluster_scale.simulate(256, default, COSTS, 1)["decoding"] > 0.95
    crowded = cluster_scale.simulate(2048, default, COSTS, 1)
    assert crowded["decoding"] < 0.4 and crowded["requests_per_s"] > 490
    spared = cluster_scale.simulate(2048, recommended, COSTS, 1)
    assert spared["decoding"] > 0.95 and spared["requests_per_s"] < 250


def test_requests_are_answered_in_their_order_at_the_speed_of_the_server() -> None:
    server = cluster_scale.Server()
    assert server.ask(10.0, 500.0) == 11.0
    assert server.ask(10.5, 250.0) == 11.5
    assert server.ask(20.0, 50.0) == 20.1


def test_the_table_of_the_page_is_that_of_the_simulation() -> None:
    page = (Path(__file__).parents[1] / "docs/scale.md").read_text(encoding="utf-8")
    whole = cluster_scale.size_of(1e9, PLANS["as set by default"], COSTS)
    assert f"| 10^9 | 30,518 | {whole['prepare_s'] / 60:.0f} min | {whole['merge_s'] / 3600:.1f} h |" in page
    for cost in (COSTS.part, COSTS.shard, COSTS.beat, COSTS.merge_shard):
        assert f"| {cost:g} |" in page


def test_curves_are_valid_and_within_their_frame() -> None:
    points = [(10.0**power, 3.0 * 10.0**power) for power in range(4)]
    drawn = curve.draw([curve.Panel("a & b", "x", [("one", points)], ("limit", 50.0))] * 3)
    root = ElementTree.fromstring(drawn)
    lines = root.findall(".//{*}polyline")
    assert len(lines) == 3
    for pair in lines[0].attrib["points"].split():
        x, y = map(float, pair.split(","))
        assert curve.MARGIN_LEFT <= x <= curve.WIDTH and curve.MARGIN <= y <= curve.HEIGHT


@pytest.mark.parametrize(
    ("workers", "end"),
    [
        ([Worker(1.0)], 60.0),
        ([Worker(1.0), Worker(1.0)], 30.0),
        ([Worker(1.0), Worker(0.5)], 40.0),  # the slow one has begun its second shard when the queue is empty
        ([Worker(1.0), Worker(1.0, dies_at=15.0)], 45.0),  # the other one does what is left of a shard, too
    ],
)
def test_the_ideal_is_a_list_schedule_that_loses_nothing(workers: list[Worker], end: float) -> None:
    assert straggler.ideal_s([10.0] * 6, workers) == pytest.approx(end)


def test_the_seconds_of_the_shards_add_up(tmp_path: Path) -> None:
    costs = straggler.write_rows(random.Random(1), tmp_path / "in.txt", 5)
    assert sum(costs) == pytest.approx(5 * straggler.SHARD_S)
    lines = (tmp_path / "in.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 5 * straggler.ROWS_IN_SHARD
