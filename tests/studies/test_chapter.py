"""A study in words."""

import pytest

from tf_hessian.studies.chapter import Verdict


@pytest.mark.parametrize("section, source", [("B, Figure 15", "paper"), ("", "to show")])
@pytest.mark.parametrize("verdict, word", [(Verdict.DIFFERS, "differs"), (Verdict.OPEN, "open")])
def test_line_has_claim_finding_and_verdict(new_study, section, source, verdict, word):
  made = new_study("15", section=section, verdict=verdict)
  line = f"Title of 15: {source}: claim of 15. Here: found for 15. -> {word} (the page says why)"
  assert made.line() == line
