"""Small specs, and random ones, for the tests of studies."""

from typing import Any

from hypothesis import strategies as st

SMALL = {"model": "small", "data": "fashion-mini"}


def spec(**fields: Any) -> dict[str, Any]:
    """A spec on the embedded data; short, unless `fields` says else."""
    return {**SMALL, "recipe": {"epochs": 6, "batch_size": 64}, "seeds": 1, **fields}


ARMS = ["ticket", "reinit", "rewind", "finetune", "shuffle", "sign_reinit", "random_mask"]
MIXED = [{"kind": "mixed", "alpha": alpha} for alpha in (0, 0.25, 1)]
rates = st.sampled_from([0.003, 0.01, 0.1, 1])
masks = st.one_of(
    st.sampled_from(["one_shot", "iterative", "admm"]),
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["one_shot", "iterative"])},
        optional={
            "criterion": st.sampled_from(["magnitude", "random", "snip", "synflow", {"name": "synflow", "rounds": 7}]),
            "allocation": st.sampled_from(["uniform", "global", "erk"]),
            "learning_rate": rates,
        },
    ),
    st.fixed_dictionaries({"kind": st.just("gradual")}, optional={"epochs": st.integers(2, 9), "updates": st.just(2)}),
    st.fixed_dictionaries(
        {"kind": st.just("admm")}, optional={"rho": st.sampled_from([0.01, 1]), "epochs": st.integers(1, 9)}
    ),
)


def named(entries: list[Any]) -> list[dict[str, Any]]:
    """The entries as mappings, each with a name of its own."""
    return [{**({"kind": m} if isinstance(m, str) else m), "name": f"m{i}"} for i, m in enumerate(entries)]


grown = st.lists(st.sampled_from([0.3, 0.5, 0.7, 0.8, 0.9375]), min_size=1, max_size=3, unique=True).map(sorted)
rounds = st.fixed_dictionaries({"per_round": st.sampled_from([0.15, 0.5]), "rounds": st.integers(1, 3)})
specs = st.fixed_dictionaries(
    {
        "model": st.just("small"),
        "data": st.just("fashion-mini"),
        "recipe": st.fixed_dictionaries(
            {"epochs": st.integers(2, 9)},
            optional={
                "batch_size": st.sampled_from([64, 100]),
                "weight_decay": st.sampled_from([0, 1e-4]),
                "schedule": st.sampled_from([{"kind": "cosine"}, {"milestones": [1, "2/3"]}, {"warmup": "1/6"}]),
                "augment": st.sampled_from([["crop"], ["crop", "flip"]]),
            },
        ),
        "sparsities": st.one_of(grown, rounds),
    },
    optional={
        "name": st.just("mine"),
        "learning_rates": st.lists(rates, min_size=1, max_size=2, unique=True),
        "masks": st.lists(masks, min_size=1, max_size=3, unique_by=repr).map(named),
        "arms": st.lists(st.sampled_from([*ARMS, *MIXED]), min_size=1, unique_by=repr),
        "rewind": st.sampled_from(["0ep", "1ep", "1/15", "100it"]),
        "seeds": st.integers(1, 2),
    },
)
