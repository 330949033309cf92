"""The settings of the tests themselves."""

import gc
from pathlib import Path

import jax

from tests import contexts


def test_a_program_that_is_half_written_in_the_store_is_compiled_anew():
    def half_written_on_purpose(x):
        return 2 * x + 1

    program = jax.jit(half_written_on_purpose)
    assert program(3) == 7
    stored = list(Path(jax.config.jax_compilation_cache_dir).glob(f"jit_{half_written_on_purpose.__name__}-*-cache"))
    assert stored
    try:
        for path in stored:
            path.write_bytes(path.read_bytes()[:100])
        program.clear_cache()
        assert program(4) == 9
    finally:
        for path in stored:
            path.unlink()


def test_programs_share_a_context_for_a_while():
    x = jax.ShapeDtypeStruct((3,), "float32")
    found = [jax.jit(lambda x: x * 2).lower(x).compiler_ir().context for _ in range(contexts.USES + 1)]
    different = {id(context) for context in found}
    assert 1 < len(different) < len(found) / 5


def test_garbage_is_looked_for_among_what_tests_make_alone():
    assert gc.get_freeze_count() > 10_000
