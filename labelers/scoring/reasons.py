"""Why a pair has no score and what else is counted of it, by names that several files know; it loads no torch."""

NOT_FINITE = "score is not finite"
# Columns that a scorer may add for each pair, summed up in its label set.
COUNTED = ("prompt_tokens", "completion_tokens", "order_disagreements")
