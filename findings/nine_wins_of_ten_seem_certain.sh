#!/usr/bin/env bash
# What happens: statsmodels' proportions_ztest of 9 wins in 10 against 0.5 gives p = 0.00002; the exact test gives 0.02.
#   Ten wins of ten have p = 0 and an infinite z. Of 60 wins of 100 p is 0.041, below 0.05, where the exact test gives
#   0.057.
# Versions: statsmodels 0.15.0, scipy 1.17.1, numpy 2.4.6.
# Where: `proportions_ztest` in statsmodels/stats/proportion.py: with its default `prop_var=False` it divides by the
#   variance of the wins that were seen, which vanishes towards 0 and 1, and not by that of the hypothesis.
# Who meets it: win rates on few prompts, or by category, where a good policy wins nearly all.
# Guess that was wrong: z is (rate - 0.5) / sqrt(0.25 / n), as in textbooks, so 0.011 for 9 of 10.
# Instead: `prop_var=0.5`, or `scipy.stats.binomtest`, which is exact.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import math

import scipy.stats
import statsmodels
from statsmodels.stats.proportion import proportions_ztest


def values(won, total):
    """Return p by default, by the hypothesis' variance, and exactly."""
    plain = proportions_ztest(won, total, 0.5)[1]
    by_hypothesis = proportions_ztest(won, total, 0.5, prop_var=0.5)[1]
    return float(plain), float(by_hypothesis), float(scipy.stats.binomtest(won, total).pvalue)


z_of_all = proportions_ztest(10, 10, 0.5)[0]
few, all_won, many = values(9, 10), values(10, 10), values(60, 100)
textbook = 2 * scipy.stats.norm.sf(0.4 / math.sqrt(0.25 / 10))
print(f"statsmodels {statsmodels.__version__}; wins of n, p by default, with prop_var=0.5, exact")
print(f"guess: {textbook:.3f} for 9 of 10")
for name, (plain, by_hypothesis, exact) in (("9 of 10", few), ("10 of 10", all_won), ("60 of 100", many)):
    print(f"seen:  {name}: {plain:.5f}, {by_hypothesis:.5f}, {exact:.5f}")
print(f"       z of 10 of 10 is {z_of_all}")
if few[0] > 1e-4 or all_won[0] != 0 or abs(few[1] - textbook) > 1e-9 or not 0.02 < few[2] < 0.022:
    raise SystemExit("the behaviour has changed")
if not math.isinf(z_of_all) or round(many[0], 3) != 0.041 or round(many[2], 3) != 0.057:
    raise SystemExit("the behaviour has changed")
PYTHON
