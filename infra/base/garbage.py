"""How often Python searches for cyclic garbage: seldom while libraries are imported, as usual once work begins.

Python's own thresholds make it search among all that torch, diffusers and transformers define, again and again while
these are imported: a fifth of the imports' time.
"""

from __future__ import annotations

import gc

SELDOM = (50_000, 20, 100)
USUAL = gc.get_threshold()


def search_seldom() -> None:
    """Raise Python's thresholds, for a process that is about to import much."""
    gc.set_threshold(*SELDOM)


def search_as_usual() -> None:
    """Put Python's thresholds back where they were raised, so that no step's memory waits in a cycle.

    What is there by then stays for good, and is not searched any more.
    """
    if gc.get_threshold() == SELDOM:
        gc.freeze()
        gc.set_threshold(*USUAL)
