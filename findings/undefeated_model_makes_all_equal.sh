#!/usr/bin/env bash
# What happens: evalica's Bradley-Terry of three models, of which one won all its comparisons, gives all three the
#   same score, 1e-06. The two others won 70 and 30 of a hundred against each other; that is lost as well. With one
#   loss of the first the ranking is there. Newman's method gives two models that never tie equal scores, at 60 of 100
#   too.
# Versions: evalica 0.4.2.
# Where: `bradley_terry` and `newman` of evalica. No error and no warning; `iterations` says 2.
# Who meets it: rankings of checkpoints by a scorer or by few people. A policy that beats the base on every prompt is
#   the aim, and shows as a tie.
# Guess that was wrong: the undefeated one gets a very large score, or an error is raised, and the others' order
#   stays.
# Instead: add half a win of each model over each other, or `average_win_rate` beside it as a check.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check evalica==0.4.2
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import importlib.metadata

import evalica
from evalica import Winner


def scores(method, results):
    """Return each model's score, for (one, other, how often one won, how often the other won)."""
    rows = []
    for one, other, won, lost in results:
        rows += [(one, other, Winner.X)] * won + [(one, other, Winner.Y)] * lost
    first, second, winners = zip(*rows, strict=True)
    found = method(list(first), list(second), list(winners)).scores.to_dict()
    return {name: float(f"{found[name]:.3g}") for name in sorted(found)}


undefeated = [("a", "b", 100, 0), ("a", "c", 100, 0), ("b", "c", 70, 30)]
beaten_once = [("a", "b", 99, 1), ("a", "c", 100, 0), ("b", "c", 70, 30)]
seen = scores(evalica.bradley_terry, undefeated)
once = scores(evalica.bradley_terry, beaten_once)
rates = scores(evalica.average_win_rate, undefeated)
newman = scores(evalica.newman, [("a", "b", 60, 40)])
print(f"evalica {importlib.metadata.version('evalica')}; a won all of its 200 comparisons, b 70 of 100 against c")
print("guess: a far above b, b 2.3 times c")
print(f"seen:  {seen}")
print(f"       {once} when a lost 1 of them; win rates {rates}")
print(f"       Newman's method, a 60 and b 40 of 100: {newman}")
if len(set(seen.values())) != 1 or not once["a"] > once["b"] > once["c"] or newman["a"] != newman["b"]:
    raise SystemExit("the behaviour has changed")
PYTHON
