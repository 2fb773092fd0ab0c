"""Semantic conditioning in a model that exists: replace its norms, bind the text, report what was done."""
