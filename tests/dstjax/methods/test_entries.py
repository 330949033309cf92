"""Entries of the catalogue: short, values, and added in one file."""

import ast
import inspect
import pickle
import textwrap

import jax
import pytest

import dstjax
from dstjax import methods
from tests import conformance

LONGEST = 15  # lines of an entry, but for its docstring and its checks


def is_check(node: ast.stmt) -> bool:
    """A call that refuses something, or a condition under which something is refused."""
    if isinstance(node, ast.If):
        return all(isinstance(n, ast.Raise) or is_check(n) for n in [*node.body, *node.orelse])
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func).startswith(("check_", "refuse_", "_check"))


def lines_of_body(function) -> int:
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    body = tree.body[1:]  # without the docstring
    return sum(node.end_lineno - node.lineno + 1 for node in body if not is_check(node))


def test_lines_are_counted():
    def entry(x):
        """Says nothing."""
        if x is None:
            raise ValueError("x")
        y = [
            x,
        ]
        return y

    assert lines_of_body(entry) == 4


@pytest.mark.parametrize("name", methods.names(channels=True))
def test_an_entry_is_as_short_as_its_equation(name):
    assert lines_of_body(methods.CATALOGUE[name]) <= LONGEST


def picklable(name):
    """Hyper-parameters of the table, without its functions."""
    known = conformance.METHODS[name].hyperparameters
    return {n: v for n, v in known.items() if not callable(v)}


@pytest.mark.parametrize("name", methods.names())
def test_equal_methods_are_equal(name):
    """Made twice, they hash alike and pickle; another one is another."""
    one, other = (methods.get(name, **picklable(name)) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    back = pickle.loads(pickle.dumps(one))
    assert back == one
    assert hash(back) == hash(one)
    assert repr(back) == repr(one)
    assert "0x" not in repr(one)  # no addresses
    different = [methods.get(n, **picklable(n)) for n in methods.names() if n != name]
    assert one not in different


def test_a_static_argument_is_traced_once():
    traces = []

    @jax.jit
    def dense(x):
        return x

    def update(method, x):
        traces.append(method)
        return dense(x)

    jitted = jax.jit(update, static_argnums=0)
    for _ in range(3):
        jitted(methods.dst_ee(sparsity=0.9, end_step=1000, distribution={".*": 0.1}), 1.0)
    assert len(traces) == 1


def test_who_belongs_where():
    for name, entry in methods.CATALOGUE.items():
        about = methods.about(name)
        assert about is methods.about(entry)
        assert about.name == name == entry.__name__
        assert about.family in methods.FAMILIES
        assert about.label
        assert dstjax.costs.needs(name) == dstjax.costs.needs(entry)
    assert {methods.about(name).family for name in methods.names()} == {*methods.FAMILIES}
    with pytest.raises(ValueError, match=r"method 'rigel' is not known; did you mean 'rigl'\?"):
        methods.about("rigel")
    with pytest.raises(ValueError, match=r"is no entry of a catalogue; decorate it"):
        methods.about(test_who_belongs_where)


@pytest.mark.parametrize(("field", "value"), [("family", "sparse"), ("needs", ("value",))])
def test_facts_that_are_none(field, value):
    facts = dict(label="x", family="baseline", cost="always_dense")
    with pytest.raises(ValueError, match=f"{field}='.*' is not known; .*Accepted"):
        methods.catalogued(**(facts | {field: value}))
