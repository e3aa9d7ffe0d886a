"""Collectives read from the text of compiled programs."""

import numpy as np
import pytest
from jax.sharding import AbstractMesh

from bvjax.plan.hlo import ProgramArray, axes_of, collectives, largest, runs

MESH = AbstractMesh((2, 4), ("data", "context"))
LOOP = (
    '%w = f32[] while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}'
)
OP = 'metadata={op_name="jit(denoise)/blocks/all_gather"}'


@pytest.mark.parametrize("line, kind, axes, size", [
    (f"%a = bf16[8,16]{{1,0}} all-gather(%x), replica_groups={{{{0,1,2,3}},{{4,5,6,7}}}}, {OP}",
     "all-gather", ("context",), 256),
    (f"%a = (bf16[2,16], bf16[8,16]) all-gather-start(%x), replica_groups=[2,4]<=[8], {OP}",
     "all-gather", ("context",), 256),
    (f"%a = f32[4]{{0}} all-reduce(%x), replica_groups=[4,2]<=[2,4]T(1,0), {OP}",
     "all-reduce", ("data",), 16),
    (f"%a = (f32[4], s32[2]) all-reduce(%x, %y), replica_groups={{}}, {OP}",
     "all-reduce", ("data", "context"), 24),
    (f"%a = (f32[6], f32[6], u32[], u32[]) collective-permute-start(%x), "
     f"source_target_pairs={{{{0,1}},{{1,2}},{{2,3}},{{3,0}}}}, {OP}",
     "collective-permute", ("context",), 24),
    (f"%a = f32[4]{{0}} all-reduce(%x), replica_groups=mesh['axis_0'=4,'axis_1'=2], "
     f"device_ids=([2,4]T(1,0)) {{'axis_1'}}, {OP}", "all-reduce", ("data",), 16),
    (f"%a = f32[4]{{0}} all-reduce(%x), replica_groups=mesh['a'=2,'b'=2,'c'=2] {{'b','c'}}, {OP}",
     "all-reduce", ("context",), 16),
    (f"%a = f32[4]{{0}} all-reduce(%x), replica_groups=mesh['a'=8] {{'a':(2)4}}, {OP}",
     "all-reduce", ("context",), 16),
    (f"%a = f32[4]{{0}} all-reduce(%x), replica_groups=mesh['a'=8] {{'a':(1)2}}, {OP}",
     "all-reduce", ("data",), 16),
    (f"%a = s8[10]{{0}} all-to-all(%x), replica_groups={{{{0,1,2,3}},{{4,5,6,7}}}}, {OP}",
     "all-to-all", ("context",), 10),
])  # fmt: skip
def test_kind_axes_and_bytes(line, kind, axes, size):
    text = f"%body (p: f32[]) -> f32[] {{\n  {line}\n}}\n\nENTRY %main (x: f32[]) -> f32[] {{\n  {LOOP}\n}}\n"
    (found,) = collectives(text, MESH)
    assert (found.kind, found.axes, found.bytes) == (kind, axes, size)
    assert found.times == 3 and found.received == 3 * size


def test_what_finishes_an_exchange_or_only_uses_its_name_is_none():
    text = "%d = bf16[8] all-gather-done(%a)\n%f = f32[8] fusion(%all-gather.1), calls=%c"
    assert collectives(f"ENTRY %main (x: f32[]) -> f32[] {{\n  {text}\n}}", MESH) == []


def test_loops_within_loops_multiply():
    text = """HloModule jit_f

%inner (p: f32[2]) -> f32[2] {
  ROOT %g = f32[2]{0} all-gather(%p), replica_groups={{0,1,2,3},{4,5,6,7}}
}

%wrapped (p: f32[2]) -> f32[2] {
  ROOT %c = f32[2]{0} fusion(%p), kind=kLoop, calls=%inner
}

%outer (p: f32[2]) -> f32[2] {
  %w = f32[2]{0} while(%p), condition=%c1, body=%wrapped, backend_config={"known_trip_count":{"n":"5"},"x":{}}
  ROOT %again = f32[2]{0} conditional(%w), branch_computations={%inner, %other}
}

%c3 (p: (s32[], f32[2])) -> pred[] {
  %n = s32[]{:T(128)} constant(11)
  %p = (s32[]{:T(128)}, f32[2]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT, metadata={op_name="while/cond/lt"}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %u = f32[2]{0} while(%x), condition=%unknown, body=%inner
  %w = f32[2]{0} while(%x), condition=%c2, body=%outer, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %u = f32[2]{0} while(%w), condition=%c3, body=%inner
}
"""
    found = runs(text)
    assert found["outer"] == 7 and found["wrapped"] == 35
    # once through a loop that nobody knows the rounds of, 11 times as TPUs write it
    assert found["inner"] == 35 + 7 + 1 + 11
    (gathered,) = collectives(text, MESH)
    assert gathered.times == found["inner"]


def test_axes_are_the_fewest_that_hold_the_groups():
    places = np.arange(8).reshape(2, 4)
    assert axes_of(places.tolist(), MESH) == ("context",)
    assert axes_of(places.T.tolist(), MESH) == ("data",)
    assert axes_of([list(range(8))], MESH) == ("data", "context")


def test_the_largest_array_is_neither_an_argument_nor_inside_a_fusion():
    text = """HloModule jit_f

%fused (p: f32[99]) -> f32[4] {
  %p = f32[99]{0} parameter(0)
  ROOT %big = f32[99,99]{1,0} broadcast(%p), dimensions={0}
}

%body (arg: (f32[8], bf16[6,2])) -> (f32[8], bf16[6,2]) {
  %arg = (f32[8]{0}, bf16[6,2]{1,0}) parameter(0)
  %k = bf16[6,2]{1,0:T(8,128)} fusion(%arg), kind=kLoop, calls=%fused, metadata={op_name="f/keys"}
  ROOT %t = (f32[8]{0}, bf16[6,2]{1,0}) tuple(%arg, %k)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %w = (f32[8]{0}, bf16[6,2]{1,0}) while(%x), body=%body
  ROOT %y = f32[8]{0} add(%x, %x)
}
"""
    assert largest(text) == ProgramArray(24, "bf16[6,2]", "f/keys")
