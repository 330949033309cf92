"""What arrays a program holds at a time, read from its text."""

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks.held import held

TEXT = """HloModule jit_f, is_scheduled=true

%one (arg: f32[25]) -> f32[25] {
  %arg = f32[25]{0} parameter(0)
  %inside = f32[50]{0} broadcast(%arg)
  ROOT %back = f32[25]{0} slice(%inside), slice={[0:25]}
}

%other (arg.1: f32[25]) -> f32[25] {
  ROOT %arg.1 = f32[25]{0} parameter(0)
}

%test (arg.2: (f32[10], f32[300])) -> pred[] {
  %arg.2 = (f32[10]{0}, f32[300]{0:T(256)S(1)}) parameter(0)
  ROOT %no = pred[] constant(false)
}

%step (arg.3: (f32[10], f32[300])) -> (f32[10], f32[300]) {
  ROOT %arg.3 = (f32[10]{0}, f32[300]{0:T(256)S(1)}) parameter(0)
}

ENTRY %main (x: f32[25], p: pred[]) -> (f32[25], f32[100]) {
  %x = f32[25]{0} parameter(0)
  %p = pred[] parameter(1)
  %two = (f32[1000]{0}, f32[10]{0}, f32[300]{0:T(256)S(1)}) fusion(%x), kind=kLoop, calls=%fused
  %large = f32[1000]{0} get-tuple-element(%two), index=0
  %small = f32[10]{0} get-tuple-element(%two), index=1
  %near = f32[300]{0:T(256)S(1)} get-tuple-element(%two), index=2
  %sum = f32[100]{0} reduce-window(%large)
  %carried = (f32[10]{0}, f32[300]{0:T(256)S(1)}) tuple(%small, %near)
  %loop = (f32[10]{0}, f32[300]{0:T(256)S(1)}) while(%carried), condition=%test, body=%step
  %same = f32[10]{0} get-tuple-element(%loop), index=0
  %either = f32[25]{0} conditional(%p, %x, %x), true_computation=%one, false_computation=%other
  %start = (f32[25]{0}, f32[25]{0}, u32[]{:S(2)}) copy-start(%either)
  %done = f32[25]{0} copy-done(%start)
  %shown = f32[25]{0} add(%done, %same)
  ROOT %out = (f32[25]{0}, f32[100]{0}) tuple(%shown, %sum)
}
"""


def test_arrays_are_held_until_they_are_read_for_the_last_time():
    """The large one beside the small one; later the small one beside what a branch returns and holds inside."""
    assert held(TEXT) == 4 * (1000 + 10)
    assert held(TEXT.replace("1000", "20")) == 4 * (10 + 25 + 50)
    assert held(TEXT.replace("1000", "20").replace("[50]", "[5]")) == 4 * (10 + 25 + 25)  # and its copy


def test_another_memory_is_not_counted():
    assert held(TEXT.replace("S(1)", "")) == 4 * (1000 + 10 + 300)


def test_what_is_returned_is_not_held():
    assert held(TEXT.replace("%shown, %sum", "%shown, %large")) == 4 * (10 + 25 + 50)
    assert held(TEXT.replace("%shown, %sum", "%shown, %loop")) == 4 * 1000  # and what a loop carries back


def test_an_instruction_that_nothing_reads_holds_nothing():
    assert held(TEXT.replace("reduce-window(%large)", "iota()")) == 4 * (10 + 25 + 50)


def test_no_program_holds_nothing():
    assert held(None) == 0


def test_it_is_what_a_compiler_says_where_nothing_else_is_to_be_held():
    x = jax.ShapeDtypeStruct((1000, 64), jnp.float32)
    compiled = jax.jit(lambda x: jnp.sum(jnp.sort(x, axis=0))).lower(x).compile()
    told = compiled.memory_analysis().temp_size_in_bytes
    assert held(compiled.as_text()) == pytest.approx(4 * 64_000, rel=0.01)
    assert told == pytest.approx(4 * 64_000, rel=0.01)


def test_a_program_without_a_schedule_is_refused():
    with pytest.raises(ValueError, match="has no schedule; expected the text of a compiled one"):
        held(TEXT.replace(", is_scheduled=true", ""))
