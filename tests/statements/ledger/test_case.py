from dpo_lib.statements.ledger import cases

CASES = list(cases(200, seed=1))


def test_cases_repeat_and_cover_what_they_promise():
    again = list(cases(200, seed=1))
    assert all(a.world.log_ref.equal(b.world.log_ref) for a, b in zip(CASES, again, strict=True))
    assert {case.world.prompts for case in CASES} == set(range(1, 11))
    assert {2, 50} <= {case.world.responses for case in CASES} <= set(range(2, 51))
    assert min(case.beta for case in CASES) < 0.1 < 10 < max(case.beta for case in CASES)
    assert all(0.05 <= case.beta <= 20 for case in CASES)
    assert any(case.impossible.any() for case in CASES)


def test_a_case_ranks_each_possible_response_once():
    for case in CASES:
        possible = (~case.impossible).sum(-1)
        assert (possible == case.ranking.shape[-1]).all() and case.ranking.shape[-1] >= 2
        assert not case.impossible.gather(-1, case.ranking).any()
        assert (case.ranking.sort(-1).values.diff(dim=-1) > 0).all()
