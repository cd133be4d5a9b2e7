"""A study in words."""

import pytest

from tf_hessian.studies import chapter
from tf_hessian.studies.chapter import Verdict


@pytest.mark.parametrize("section, source", [("B, Figure 15", "paper"), ("", "to show")])
@pytest.mark.parametrize("verdict, word", [(Verdict.DIFFERS, "differs"), (Verdict.OPEN, "open")])
def test_line_has_claim_finding_and_verdict(new_study, section, source, verdict, word):
  made = new_study("15", section=section, verdict=verdict)
  line = f"Title of 15: {source}: claim of 15. Here: found for 15. -> {word} (the page says why)"
  assert made.line() == line


YES, NO, OPEN = Verdict.AGREES, Verdict.DIFFERS, Verdict.OPEN


@pytest.mark.parametrize(
  "parts, whole",
  [([YES, YES], YES), ([OPEN, OPEN], OPEN), ([NO], NO), ([YES, OPEN], OPEN), ([YES, NO, OPEN], NO)],
)
def test_verdict_of_a_claim_is_that_of_its_parts(parts, whole):
  assert chapter.together(parts) is whole


@pytest.mark.parametrize(
  "agrees, differs, enough, verdict",
  [
    (True, False, True, YES),
    (False, True, True, NO),
    (False, False, True, OPEN),
    (True, True, False, OPEN),
  ],
)
def test_too_few_seeds_or_neither_leave_it_open(agrees, differs, enough, verdict):
  assert chapter.judged(agrees, differs, enough=enough) is verdict
