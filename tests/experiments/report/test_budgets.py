"""The table of networks under a budget of latency."""

from experiments.report import budgets


def row(method, budget, seed, top1):
    return budgets.Row(method, budget, seed, top1, 1.0, 0.54, 0.56, 1000.0, 2e5, 0.5)


def test_the_report_compares_in_pairs_of_seeds():
    rows = [row("dense", 1.0, s, 0.98 + 0.01 * s) for s in range(2)]
    rows += [row("iee_structured", 0.55, s, 0.97 + 0.01 * s) for s in range(2)]
    rows += [row("halp, once", 0.55, s, 0.95 + 0.01 * s) for s in range(2)]
    rows += [row("random", 0.55, s, 0.97 + 0.01 * s) for s in range(2)]
    rows += [row("dense", 1.0, 7, 0.1)]  # has no pair yet
    lines = budgets.report(rows).splitlines()
    assert "| 0.55 | iee_structured | 97.50% | 100.00% | 0.540 | 0.560 | 1,000 | 200,000 | 0.50 | -1.00" in lines[3]
    assert lines[-2].startswith("at 0.55: iee_structured - halp, once: +2.00 (")
    assert lines[-1].startswith("at 0.55: iee_structured - random: +0.00 (")
