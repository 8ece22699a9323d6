# Source this (`. infra/env.sh`, from the repository's root) before bare `ray` and `python` commands.
[ -f "$PWD/infra/env.sh" ] || echo "infra/env.sh: source it from the repository's root, not from $PWD" >&2
export PATH="$PWD/.venv/bin:$PATH"
if [ -s "$PWD/runs/ray.token" ]; then
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/runs/ray.token"
else # a path to no token would end every command in Ray's AuthenticationError
    unset RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH
    echo "infra/env.sh: no cluster was started here yet; run make cluster and source this again to use one" >&2
fi
export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1 HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" TOKENIZERS_PARALLELISM=false
