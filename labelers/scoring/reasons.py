"""Why a pair has no score, in words that more than one file knows; apart from what scores, which loads torch."""

NOT_FINITE = "score is not finite"
