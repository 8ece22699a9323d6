# Source this (`. infra/env.sh`, from the repository's root) before bare `ray` and `python` commands.
[ -f "$PWD/infra/env.sh" ] || echo "infra/env.sh: source it from the repository's root, not from $PWD" >&2
export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/runs/ray.token"
export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1 HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" TOKENIZERS_PARALLELISM=false
